"""A smaller checkpoint: some tensors of a tracked file, as a safetensors file that says of what it is a part.

The mark is in the metadata of the file, at its very start: `{"__metadata__":{"format":"pt","theta.part_of":"<manifest
digest> <path>", ...`. Clean refuses a file so marked at the path that it is a part of. (`format` is there because
transformers asks for it.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.errors import BridgeError
from thetastore.digest import Digest
from thetastore.errors import MalformedError

if TYPE_CHECKING:
    from gitbridge.fetching import HasManifest
    from thetastore.checkpoints.compose import NewTensor, SafetensorsSource
    from thetastore.checkpoints.tensors import TensorReader

MAX_MARK_BYTES = 32 << 10
"""Holds any mark: git's longest path is 4096 bytes, six characters each where all are escaped."""
_HEADER_BYTES = 8
_START = b'{"__metadata__":{"format":"pt","theta.part_of":"'
_MARK = re.compile(re.escape(_START) + rb'([0-9a-f]{64}) ((?:[^"\\\x00-\x1f]|\\.)*)"')


class PartError(BridgeError):
    """A part of a file would take the place of the whole."""

    code = "part"


class Mark(NamedTuple):
    """What a part says of itself."""

    manifest_digest: Digest
    """Of the whole."""
    path: str
    """Of the whole, from the top of the work tree."""


def begins_as_part(head: bytes) -> bool:
    """Tell whether a file may be a part; 64 bytes are enough."""
    return head[_HEADER_BYTES : _HEADER_BYTES + len(_START)] == _START


def parse_mark(head: bytes) -> Mark | None:
    """Return what a part says of itself in its first `MAX_MARK_BYTES`; None for any other file."""
    match = _MARK.match(head, _HEADER_BYTES)
    if match is None:
        return None
    import json

    try:
        return Mark(Digest.parse(match[1]), json.loads(b'"%b"' % match[2]))
    except (ValueError, MalformedError):
        return None


def part_source(readers: Mapping[str, TensorReader], whole: HasManifest, path: str, of_count: int) -> SafetensorsSource:
    """Return a safetensors file of some tensors; their bytes are read while it is.

    Types that safetensors lacks become bytes, see `compose.nearest_type`.

    Args:
        readers: what reads each tensor, by their names.
        whole: the file that they are of; the first, where a model has several.
        path: of the whole file, or of the one that names the others; from the top of the work tree.
        of_count: how many tensors the model has.
    """
    from thetastore.checkpoints.compose import safetensors_source

    metadata = {
        "format": "pt",
        "theta.part_of": f"{whole.manifest_digest} {path.encode('utf-8', 'backslashreplace').decode()}",
        "theta.tensors": f"{len(readers)} of {of_count}",
    }
    return safetensors_source([_new_tensor(reader, name) for name, reader in readers.items()], metadata)


def _new_tensor(reader: TensorReader, name: str) -> NewTensor:
    from thetastore.checkpoints.compose import NewTensor, nearest_type

    tensor = reader.tensor(name)

    def pieces() -> Iterator[memoryview]:
        return (piece for _, piece in reader.pieces(name))

    return NewTensor(name, *nearest_type(tensor.dtype, tensor.shape), pieces)
