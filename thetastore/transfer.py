"""Objects from one store to another, as they are stored: nothing is decoded, nothing coded again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from thetastore.digest import Digest
from thetastore.errors import ObjectCorruptError
from thetastore.objects import Objects
from thetastore.packs.records import MAX_DEPTH, Entry


class CopyReport(NamedTuple):
    """What a copy moved; objects that the target had are not counted."""

    object_count: int
    stored_bytes: int
    raw_bytes: int


def copy_objects(
    source: Objects,
    target: Objects,
    digests: Iterable[Digest],
    report: Callable[[int, int], None] | None = None,
) -> CopyReport:
    """Copy what `target` lacks, each object after its bases, checking the checksum of stored bytes.

    Nothing is durable before `target.seal()`.

    Args:
        source: Where the objects are.
        target: Where they go.
        digests: What to copy; order is kept, so that neighbours stay neighbours.
        report: Called after each object with the counts of objects and stored bytes so far.

    Raises:
        ObjectMissingError, ObjectCorruptError, UnsupportedError: by `source`; what was copied before stays.
        BackendError: by either.
    """
    total = CopyReport(0, 0, 0)
    for digest in digests:
        for entry in _copy_with_bases(source, target, digest, MAX_DEPTH + 1):
            stored_bytes, raw_bytes = total.stored_bytes + entry.stored_bytes, total.raw_bytes + entry.raw_bytes
            total = CopyReport(total.object_count + 1, stored_bytes, raw_bytes)
            if report is not None:
                report(total.object_count, total.stored_bytes)
    return total


def _copy_with_bases(source: Objects, target: Objects, digest: Digest, below: int) -> Iterator[Entry]:
    """Copy one object, bases first, and yield what was copied; refuse one whose depth is not `below`.

    Depth falls from an object to its bases, so the recursion ends, whatever a hostile store says.
    """
    if target.contains(digest):
        return
    entry, stored = source.representation(digest)
    if entry.depth >= below:
        raise ObjectCorruptError(
            str(digest), source.backend.url, f"it is a base of depth {entry.depth}, not below {below}"
        )
    for base in entry.bases:
        yield from _copy_with_bases(source, target, base, entry.depth)
    target.add_representation(entry, stored)
    yield entry
