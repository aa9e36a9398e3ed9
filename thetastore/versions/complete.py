"""Whether files make up whole models: what names others, or tensors in them, is not stored without these."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable, Sequence

from thetastore.checkpoints.joining import named_places
from thetastore.errors import MalformedError
from thetastore.open_file import OpenFile
from thetastore.versions.sources import NewFile

_SHARDS_SUFFIX = ".index.json"
_MAX_LIST_BYTES = 64 << 20


def refuse_incomplete(files: Sequence[NewFile]) -> None:
    """Refuse files of which one names others that are not among them; nothing but these names is read.

    Raises:
        MalformedError: one does.
        OSError: a file cannot be read.
    """
    paths = {file.path for file in files}
    for file in files:
        for place in sorted(_named_by(file)):
            if place not in paths:
                what = "names the shard" if file.path.endswith(_SHARDS_SUFFIX) else "says that tensors are in"
                raise MalformedError(
                    f"'{file.path}' {what} '{place}', which is not there: give that, too, or leave '{file.path}' out"
                )


def _named_by(file: NewFile) -> Iterable[str]:
    """Return the paths of the files that a file names; of standard input nothing is known yet."""
    if file.source == "-":
        return ()
    descriptor = os.open(file.source, os.O_RDONLY)
    try:
        opened = OpenFile(descriptor, os.fstat(descriptor).st_size)
        if file.path.endswith(_SHARDS_SUFFIX):
            return _shards(file.path, opened)
        return named_places(opened, file.path)
    finally:
        os.close(descriptor)


def _shards(path: str, file: OpenFile) -> set[str]:
    """Return the shards that a list of them names; what is no such list names none."""
    if file.size > _MAX_LIST_BYTES:
        return set()
    try:
        weight_map = json.loads(file.read_at(0, file.size))["weight_map"]
        return {posixpath.join(posixpath.dirname(path), str(name)) for name in weight_map.values()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set()
