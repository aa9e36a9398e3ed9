"""What a store holds, as repacking sees it: one record that counts for each object, and what stands on what.

The record that counts is the smallest; where an object has several, one that was decoded and proven, since the others
are about to go. Depth, and what a read takes, follow from these records alone.

Memory: some 400 bytes an object; heads are read from the ends of packs, and no stored bytes but those of duplicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from sys import intern
from typing import NamedTuple

from thetastore.digest import Digest, Kind
from thetastore.errors import MalformedError, ThetaError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.packs.index import Place
from thetastore.packs.reader import Record
from thetastore.packs.records import MAX_BASES, MAX_DEPTH, base_cost_bytes


class Held(NamedTuple):
    """The record that counts for an object."""

    file_name: str
    """Of its pack; empty for a record that is only thought of."""
    offset: int
    nbytes: int
    kind: int
    codec: str
    raw_bytes: int
    stored_bytes: int
    bases: tuple[Digest, ...]
    depth: int


class Amount(NamedTuple):
    """Records of some kind."""

    object_count: int
    stored_bytes: int


class State(NamedTuple):
    """What a store's sealed packs hold."""

    pack_count: int
    pack_bytes: int
    """With the packs' own tables."""
    duplicate_bytes: int
    """Records of objects that have another one."""
    object_count: int
    by_codec: dict[str, Amount]
    """Of the records that count, one for each object."""
    by_depth: dict[int, int]
    """How many objects stand on how many levels of bases."""


class Holdings:
    """The records of a store's sealed packs that are to stay."""

    def __init__(self, objects: Objects) -> None:
        """Read the tables of all packs."""
        self._objects = objects
        self._held: dict[Digest, Held] = {}
        self.pack_bytes: dict[str, int] = {}
        """Length of each pack by its file name."""
        self.manifests: list[Digest] = []
        """The oldest first."""
        self.crowded: set[str] = set()
        """Packs that hold what does not count, or what the index does not have."""
        self.duplicate_bytes = 0
        """Records of objects that have another one, which counts."""
        self._read_packs()

    def _read_packs(self) -> None:
        snapshot = self._objects.catalog.snapshot()
        twice: dict[Digest, list[Held]] = {}
        for name in sorted(snapshot.packs - snapshot.retired):
            try:
                pack = self._objects.packs.get(name)
                records = records_of(pack)
            except (FileNotFoundError, MalformedError, UnsupportedError):
                continue  # merged away just now, or not ours to judge
            self.pack_bytes[name] = pack.size()
            for record in records:
                found, digest = _held(name, record), record.entry.digest
                if Place(name, record.offset, record.nbytes) not in snapshot.find(digest):
                    self.crowded.add(name)  # the index has forgotten it; in a new pack it is found again
                before = self._held.setdefault(digest, found)
                if before is not found:
                    twice.setdefault(digest, [before]).append(found)
                elif found.kind == Kind.MANIFEST:
                    self.manifests.append(digest)
        for digest, several in twice.items():
            self._held[digest] = self._best(digest, several)
            self.duplicate_bytes += sum(held.nbytes for held in several) - self._held[digest].nbytes
            self.crowded.update(held.file_name for held in several if held is not self._held[digest])
            if sum(held.file_name == self._held[digest].file_name for held in several) > 1:
                self.crowded.add(self._held[digest].file_name)

    def _best(self, digest: Digest, several: list[Held]) -> Held:
        """Return the smallest record that gives the object; if none does, the first one."""
        for held in sorted(several, key=lambda held: (held.stored_bytes, held.depth)):
            if held.kind not in set(Kind):
                break
            place = Place(held.file_name, held.offset, held.nbytes)
            try:
                self._objects.representations.get_at(place, Kind(held.kind), digest)
            except (ThetaError, FileNotFoundError):
                continue
            return held
        return several[0]

    def __iter__(self) -> Iterator[tuple[Digest, Held]]:
        return iter(self._held.items())

    def __len__(self) -> int:
        return len(self._held)

    def get(self, digest: Digest) -> Held | None:
        """Return the record that counts for an object."""
        return self._held.get(digest)

    def put(self, digest: Digest, held: Held) -> None:
        """Let another record count; the pack of the one before is crowded then."""
        self.crowded.add(self._held[digest].file_name)
        self._held[digest] = held

    def depth_on(self, bases: tuple[Digest, ...]) -> int:
        """Return the depth of a record with these bases, over the limit if one is not there."""
        if not bases:
            return 0
        depths = [held.depth if (held := self._held.get(base)) is not None else MAX_DEPTH for base in bases]
        return 1 + max(depths)

    def read_bytes(self, held: Held) -> int:
        """Return the stored bytes to read for a record and all that it stands on, as far as it goes down."""
        return held.stored_bytes + sum(self.read_bytes(base) for base in self._below(held))

    def root_bytes(self, held: Held) -> int:
        """Return the stored bytes of what a chain of differences ends at."""
        below = self._below(held)
        return self.root_bytes(below[0]) if len(below) == 1 else held.stored_bytes

    def cost_bytes(self, bases: tuple[Digest, ...], raw_bytes_left: int, levels: int = MAX_DEPTH) -> int:
        """Return what a reader is charged for bases and all behind them; more than is left where that is no use.

        Hostile records may stand on each other in a ring, so the levels are counted, whatever their depths say.
        """
        if bases and not levels:
            return raw_bytes_left + 1
        total = 0
        for base in bases[:MAX_BASES]:
            held = self._held.get(base)
            if held is None:
                continue
            total += base_cost_bytes(held.raw_bytes)
            if total > raw_bytes_left:
                return total
            total += self.cost_bytes(held.bases, raw_bytes_left - total, levels - 1)
        return total

    def state(self) -> State:
        """Return the sums of what the store's sealed packs hold."""
        by_codec: dict[str, Amount] = {}
        by_depth: dict[int, int] = {}
        for _, held in self:
            before = by_codec.get(held.codec, Amount(0, 0))
            by_codec[held.codec] = Amount(before.object_count + 1, before.stored_bytes + held.stored_bytes)
            by_depth[held.depth] = by_depth.get(held.depth, 0) + 1
        pack_bytes = sum(self.pack_bytes.values())
        depths = dict(sorted(by_depth.items()))
        return State(len(self.pack_bytes), pack_bytes, self.duplicate_bytes, len(self), by_codec, depths)

    def _below(self, held: Held) -> list[Held]:
        """Return the records of the bases that are less deep, so that no chain is without an end."""
        found = (self._held.get(base) for base in held.bases)
        return [base for base in found if base is not None and base.depth < held.depth]


def _held(name: str, record: Record) -> Held:
    entry = record.entry
    return Held(
        name,
        record.offset,
        record.nbytes,
        entry.kind,
        intern(entry.codec),
        entry.raw_bytes,
        entry.stored_bytes,
        entry.bases,
        entry.depth,
    )
