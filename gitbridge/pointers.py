"""The pointer: the text that Git keeps instead of a file. `docs/format/pointer.md` is its specification."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gitbridge.errors import PointerError, PointerVersionError
from thetastore.digest import Digest
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError
from thetastore.layout import MAX_DIMENSIONS, MAX_FILE_BYTES, MAX_TENSORS
from thetastore.manifest import OLDEST_VERSION, VERSION, Manifest

MAX_POINTER_BYTES = 64 << 20
_FAMILY = b"version https://pypi.org/project/thetastore/#pointer-"
_VERSION_LINES = {number: _FAMILY + b"%d\n" % number for number in range(OLDEST_VERSION, VERSION + 1)}
"""By the version, which is that of the manifest: who reads the one reads the other."""
_COMMENT = (
    b"# The weights of this file are in a thetastore; this text stands for them. To get them:\n"
    b"#   pip install thetastore && git theta install && git theta pull\n"
)
MIN_POINTER_BYTES = len(_VERSION_LINES[VERSION] + _COMMENT)
"""No pointer is shorter: a cheap test before reading a blob. The lines of all versions are of one length."""


class PointerTensor(NamedTuple):
    """One line of a pointer."""

    digest: Digest
    dtype: str
    shape: tuple[int, ...]
    name: str


class Pointer(NamedTuple):
    """The values of a pointer."""

    format: str
    layout_version: int
    file_bytes: int
    file_digest: Digest
    manifest_digest: Digest
    tensors: tuple[PointerTensor, ...]
    """In the order of their names."""
    version: int = VERSION
    """Of the pointer, and of the manifest that it names."""


def is_pointer(head: bytes) -> bool:
    """Tell whether bytes begin as a pointer of any version does; a prefix of 64 bytes is enough."""
    return head.startswith(_FAMILY)


def pointer_of(manifest: Manifest, manifest_digest: Digest) -> Pointer:
    """Return the pointer for a manifest."""
    tensors = tuple(PointerTensor(t.digest, t.dtype, t.shape, t.name) for t in manifest.tensors)
    return Pointer(
        manifest.format,
        manifest.layout_version,
        manifest.file_bytes,
        manifest.file_digest,
        manifest_digest,
        tensors,
        manifest.version,
    )


def render_pointer(manifest: Manifest, manifest_digest: Digest) -> bytes:
    """Return the text that Git keeps for the file that a manifest describes."""
    return pointer_text(pointer_of(manifest, manifest_digest))


def pointer_text(pointer: Pointer) -> bytes:
    """Return the one text that has these values."""
    head = (
        f"format {pointer.format} {pointer.layout_version}\n"
        f"size {pointer.file_bytes}\n"
        f"digest {pointer.file_digest}\n"
        f"manifest {pointer.manifest_digest}\n"
        f"tensors {len(pointer.tensors)}\n"
    )
    lines = "".join(tensor_lines(pointer.tensors))
    return b"".join([_VERSION_LINES[pointer.version], _COMMENT, head.encode(), lines.encode()])


def tensor_lines(tensors: Iterable[PointerTensor]) -> list[str]:
    """Return the lines that list tensors, each with its end."""
    from json.encoder import encode_basestring_ascii

    return [f"{t.digest} {t.dtype} {_shape_text(t.shape)} {encode_basestring_ascii(t.name)}\n" for t in tensors]


def _shape_text(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"


_HEAD = re.compile(
    rb"format ([a-z0-9-]{1,32}) ([0-9]{1,5})\n"
    rb"size ([0-9]{1,19})\n"
    rb"digest ([0-9a-f]{64})\n"
    rb"manifest ([0-9a-f]{64})\n"
    rb"tensors ([0-9]{1,6})\n"
)
_LINE = re.compile(
    r"([0-9a-f]{64}) ([a-z0-9_]{1,32}) "
    rf'\[((?:[0-9]{{1,19}}(?:,[0-9]{{1,19}}){{0,{MAX_DIMENSIONS - 1}}})?)\] (".*")'
)
"""Bounds what a line can claim before anything is made of it: a shape of 30 million commas took 800 MB."""


class PointerClaim(NamedTuple):
    """What the head of a pointer claims, before the rest of it was looked at."""

    file_bytes: int
    manifest_digest: Digest


def claim_of(text: bytes) -> PointerClaim | None:
    """Return what the head of a pointer claims; None where it is none of a version that is read here.

    Where the text turns out to be what `render_pointer` makes of that manifest, there is nothing left to parse.
    """
    head = _HEAD.match(text, MIN_POINTER_BYTES) if _version_of(text) is not None else None
    return None if head is None else PointerClaim(int(head[3]), Digest.parse(head[5]))


def parse_pointer(text: bytes) -> Pointer:
    """Read a pointer.

    Raises:
        PointerVersionError: a newer thetastore wrote the text.
        PointerError: the text is not exactly what `pointer_text` makes of the values in it.
    """
    if not is_pointer(text):
        raise PointerError("this is not a pointer: its first line is another one")
    version = _version_of(text)
    if version is None:
        found = text[len(_FAMILY) : len(_FAMILY) + 20].split(b"\n")[0].decode("ascii", "replace")
        raise _newer(f"this pointer has version {found!a}")
    if len(text) > MAX_POINTER_BYTES:
        raise PointerError(f"a pointer of {len(text)} bytes is longer than the limit of {MAX_POINTER_BYTES}")
    head = _HEAD.match(text, MIN_POINTER_BYTES)
    if head is None:
        raise PointerError(
            "the head of this pointer was edited or cut: expected format, size, digest, manifest, tensors"
        )
    tensors = _parse_tensors(text[head.end() :], int(head[6]))
    pointer = Pointer(
        head[1].decode(), int(head[2]), int(head[3]), Digest.parse(head[4]), Digest.parse(head[5]), tensors, version
    )
    if pointer_text(pointer) != text:
        raise PointerError("this pointer was edited: its text is not in canonical form")
    return pointer


def _version_of(text: bytes) -> int | None:
    """Return the version of a pointer; None for one that is not read here."""
    return next((number for number, line in _VERSION_LINES.items() if text.startswith(line)), None)


def _newer(what: str) -> PointerVersionError:
    return PointerVersionError(
        f"{what}, this thetastore reads version {VERSION}: a newer one is needed (pip install --upgrade thetastore)"
    )


def _parse_tensors(body: bytes, count: int) -> tuple[PointerTensor, ...]:
    found = body.count(b"\n")  # before they are split: 67 million empty lines took 1.2 GB
    if count > MAX_TENSORS or found != count:
        raise PointerError(f"this pointer was edited or cut: it announces {count} tensors and lists {found}")
    tensors = tuple(map(parse_tensor_line, body.decode("ascii", "replace").split("\n")[:-1]))
    if any(before.name >= after.name for before, after in itertools.pairwise(tensors)):
        raise PointerError("this pointer was edited: its tensors are not in the order of their names")
    return tensors


def parse_tensor_line(line: str) -> PointerTensor:
    """Read one of the lines that list tensors.

    Raises:
        PointerVersionError: its element type is not known here.
        PointerError: it is none.
    """
    import json

    match = _LINE.fullmatch(line)
    if match is None:
        raise _not_a_line(line)
    if match[2] not in DTYPES:
        raise _newer(f"this pointer lists a tensor of the element type '{match[2]}'")
    try:
        shape = tuple(map(int, match[3].split(","))) if match[3] else ()
        name = json.loads(match[4])
        digest = Digest.parse(match[1])
    except (ValueError, MalformedError):
        raise _not_a_line(line) from None
    if math.prod(length for length in shape if length) > MAX_FILE_BYTES or not isinstance(name, str):
        raise _not_a_line(line)
    return PointerTensor(digest, match[2], shape, name)


def _not_a_line(line: str) -> PointerError:
    return PointerError(f"this pointer was edited: {line[:120]!a} is not the line of a tensor")
