"""Objects from one store to another: as they are stored, or coded again where their bases do not come along.

A delta goes as it is where the target has its base, or gets it because something else needs it too. A base that only
deltas would need is not sent: an object coded by itself takes less than a base and a difference. What is coded again
may become a difference from what the target has instead, so that of ten fine-tunes of a model that stays behind the
first is whole, and the others are differences from that. Parts that records of one tensor share (`codecs.SHARED_FROM`)
are of no file, and go with the records. And what has no base here may have one there: the model that
it was made from, put into a shared store by somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from thetastore import codecs
from thetastore.digest import Digest, Kind
from thetastore.errors import ObjectCorruptError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.records import MAX_DEPTH, Entry
from thetastore.representations.choice import Choice
from thetastore.transfers.shipment import Shipment

_MOST_STAND_INS = 1 << 16


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
    shipment: Shipment | None = None,
    proves: bool = True,
) -> CopyReport:
    """Copy what `target` lacks, each object after its bases, checking the checksum of stored bytes.

    Nothing is durable before `target.seal()`.

    Args:
        source: Where the objects are.
        target: Where they go.
        digests: What to copy; order is kept, so that neighbours stay neighbours.
        report: Called after each object with the counts of objects and stored bytes so far.
        shipment: What is known of `digests`, if they are one; without it everything goes as it is stored, and all
            bases are copied, wanted or not.
        proves: Whether every record is decoded, and its digest looked at, before the target takes it. Without it the
            target must trust the source: a wrong record would keep the right bytes from ever being stored.

    Raises:
        ObjectMissingError, ObjectCorruptError, UnsupportedError: by `source`; what was copied before stays.
        BackendError: by either.
    """
    target.begin()
    copying = _Copying(source, target, shipment, proves)
    total = CopyReport(0, 0, 0)
    for digest in digests:
        for entry in copying.copy(digest, MAX_DEPTH + 1):
            stored_bytes, raw_bytes = total.stored_bytes + entry.stored_bytes, total.raw_bytes + entry.raw_bytes
            total = CopyReport(total.object_count + 1, stored_bytes, raw_bytes)
            if report is not None:
                report(total.object_count, total.stored_bytes)
    return total


def _bases_of_files(entry: Entry) -> tuple[Digest, ...]:
    """Return the bases of a record but for those that exist for records like it alone."""
    return entry.bases[: codecs.SHARED_FROM.get(entry.codec, len(entry.bases))]


class _Copying:
    """One copy from store to store."""

    def __init__(self, source: Objects, target: Objects, shipment: Shipment | None, proves: bool) -> None:
        self._proves = proves
        self._source = source
        self._target = target
        self._shipment = shipment
        self._stand_ins: dict[Digest, Digest] = {}
        """By a base that is not sent: an object of the target that was a difference from it."""

    def copy(self, digest: Digest, below: int) -> Iterator[Entry]:
        """Copy one object, bases first, and yield what was copied; as a base it is to have a depth `below`.

        Depth falls from an object to its bases, so the recursion ends, whatever a hostile store says. A base may have
        become deeper since the record that names it was read; then it is coded again.
        """
        if self._target.contains(digest):
            return
        entry, stored = self._source.representation(digest)
        is_too_deep = entry.depth >= below
        if not is_too_deep and all(map(self._comes_along, _bases_of_files(entry))):
            for base in entry.bases:
                yield from self.copy(base, entry.depth)
        if is_too_deep or self._may_be_better(entry) or not self._serves(entry) or not self._is_right(entry, stored):
            again = self._choose_again(entry, stored)
            if again is not None:
                yield again
                return
            if is_too_deep:
                place = self._source.backend.url
                raise ObjectCorruptError(str(digest), place, f"it is a base of depth {entry.depth}, not below {below}")
            for base in entry.bases:
                yield from self.copy(base, entry.depth)
            if not self._serves(entry):
                raise UnsupportedError(f"object '{digest}' needs codec '{entry.codec}' to be copied: update thetastore")
        self._target.add_representation(entry, stored)
        yield entry

    def _is_right(self, entry: Entry, stored: memoryview) -> bool:
        """Tell whether a record gives its object; of what this version cannot decode nothing is known."""
        if not self._proves or entry.kind not in set(Kind):
            return True
        try:
            self._target.representations.prove(entry, stored, self._source.backend.url)
        except ObjectCorruptError:
            return False  # the source may have a better one: `_choose_again` reads that, or says what is wrong
        except UnsupportedError:
            return True
        return True

    def _comes_along(self, base: Digest) -> bool:
        return self._shipment is None or self._target.contains(base) or self._shipment.wants(base)

    def _serves(self, entry: Entry) -> bool:
        """Tell whether a record can be read in the target as it is: its bases are there, and not too deep."""
        target = self._target
        return all(
            target.contains(base) and target.representations.shallowest(base).depth < entry.depth
            for base in entry.bases
        )

    def _may_be_better(self, entry: Entry) -> bool:
        """Tell whether a chunk coded by itself may be a difference from what the target has, as the source had not."""
        return entry.codec == "planes" and self._shipment is not None and self._shipment.bases().is_hopeful()

    def _choose_again(self, entry: Entry, stored: memoryview) -> Entry | None:
        """Store an object as suits what the target has; None where this version cannot decode it."""
        if entry.kind != Kind.CHUNK:
            return self._copy_proven(entry)
        try:
            decoded = self._source.representations.decode(entry.digest, entry.raw_bytes)
        except UnsupportedError:
            return None
        is_alone = not entry.bases and self._is_right(entry, stored)
        alone = Choice(entry.codec, entry.params, stored) if is_alone else None
        dtype = self._shipment.dtype() if self._shipment is not None else None
        try:
            guesses = self._guesses(entry, decoded.raw)
            prepared = self._target.prepare(Kind.CHUNK, decoded.raw, dtype, guesses, alone)
            self._target.add(prepared)
        finally:
            self._source.representations.give(decoded.raw)
        if self._shipment is not None:
            self._shipment.bases().learn(prepared)
        self._remember(entry)
        return prepared.entry

    def _copy_proven(self, entry: Entry) -> Entry | None:
        """Store a manifest or page anew from its bytes; None where this version does not know the kind."""
        if entry.kind not in set(Kind):
            return None
        prepared = self._target.prepare(Kind(entry.kind), self._source.get(Kind(entry.kind), entry.digest))
        self._target.add(prepared)
        return prepared.entry

    def _guesses(self, entry: Entry, raw: memoryview) -> Iterator[Digest]:
        """Yield what is in the target and may be a base: the bases, what stands in for them, what its family has."""
        for base in entry.bases:
            base = self._stand_ins.get(base, base)
            if self._target.contains(base):
                yield base
        if self._shipment is not None:
            yield from self._shipment.guess(raw)

    def _remember(self, entry: Entry) -> None:
        for base in entry.bases:
            if not self._target.contains(base):
                if len(self._stand_ins) >= _MOST_STAND_INS:
                    del self._stand_ins[next(iter(self._stand_ins))]
                self._stand_ins.setdefault(base, entry.digest)
