"""Which tensors of a file are not as they were: from names, types, shapes and digests alone. Nothing is read."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from thetastore.digest import Digest
from thetastore.dtypes import raw_bytes_of

ADDED, REMOVED, RENAMED, RESHAPED, RECAST, CHANGED = "added", "removed", "renamed", "reshaped", "recast", "changed"
KINDS = (CHANGED, RECAST, RESHAPED, RENAMED, ADDED, REMOVED)

_MOST_ALIKE = 256
"""Of more tensors with the same bytes, names are not compared: they are paired in order; 100,000 would take hours."""


class Entry(NamedTuple):
    """A tensor of a file, as tables list it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest
    """Empty where it is not known, and known to be what other versions in the comparison have."""

    @property
    def raw_bytes(self) -> int:
        """Bytes in C order."""
        return raw_bytes_of(self.dtype, self.element_count)

    @property
    def element_count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Change(NamedTuple):
    """One tensor that is not the same on both sides."""

    kind: str
    """One of `KINDS`. A tensor of another shape is `reshaped`, whatever else; one of another type `recast`."""
    before: Entry | None
    """None where it was added."""
    after: Entry | None
    """None where it was removed."""

    @property
    def name(self) -> str:
        """Its name now; of a removed tensor, what it was."""
        entry = self.after or self.before
        assert entry is not None, "a change has at least one side"
        return entry.name

    @property
    def has_same_values(self) -> bool:
        """Both sides are there, and are the same bytes of the same type."""
        before, after = self.before, self.after
        if before is None or after is None:
            return False
        return bool(before.digest) and (before.digest, before.dtype) == (after.digest, after.dtype)


def changes_between(before: Iterable[Entry], after: Iterable[Entry]) -> list[Change]:
    """Return what changed, ordered by name. Nothing is read."""
    old, new = {entry.name: entry for entry in before}, {entry.name: entry for entry in after}
    gone = [entry for name, entry in old.items() if name not in new]
    come = [entry for name, entry in new.items() if name not in old]
    found = list(_renamed(gone, come))
    old_names = {change.before.name for change in found if change.before}
    new_names = {change.name for change in found}
    found += (Change(REMOVED, entry, None) for entry in gone if entry.name not in old_names)
    found += (Change(ADDED, None, entry) for entry in come if entry.name not in new_names)
    for name, entry in new.items():
        if name in old and old[name] != entry:
            found.append(Change(_kind(old[name], entry), old[name], entry))
    return sorted(found, key=lambda change: change.name)


def _kind(before: Entry, after: Entry) -> str:
    if before.shape != after.shape:
        return RESHAPED
    return RECAST if before.dtype != after.dtype else CHANGED


def _renamed(gone: list[Entry], come: list[Entry]) -> Iterator[Change]:
    """Pair what went and what came with the same bytes and type; of several, those whose names end alike."""
    waiting: dict[tuple[Digest, str], deque[Entry]] = {}
    for entry in gone:
        if entry.raw_bytes and entry.digest:
            waiting.setdefault((entry.digest, entry.dtype), deque()).append(entry)
    for entry in come:
        candidates = waiting.get((entry.digest, entry.dtype))
        if candidates:
            best = candidates[0]
            if len(candidates) <= _MOST_ALIKE:
                best = max(candidates, key=lambda old: (old.shape == entry.shape, _common_end(old.name, entry.name)))
                candidates.remove(best)
            else:
                candidates.popleft()
            yield Change(RENAMED, best, entry)


def _common_end(one: str, other: str) -> int:
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1
    return length
