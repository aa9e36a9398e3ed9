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
from itertools import islice
from typing import NamedTuple

from thetastore import codecs
from thetastore.digest import Digest, Kind
from thetastore.errors import ObjectCorruptError, ThetaError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.records import MAX_DEPTH, Entry
from thetastore.representations.choice import Choice
from thetastore.transfers.shipment import Piece, Shipment, ShippedFile

_MOST_STAND_INS = 1 << 16
_MOST_AHEAD = 32
"""Bases of a target far away that are read ahead, at most 1 MiB each; and as many while these are worked on."""
_MOST_UNGUESSED = 4096
"""Pieces of a shipment that are looked through for them."""


Report = Callable[[int, int], None]
"""Called with the objects and stored bytes copied so far."""


class CopyReport(NamedTuple):
    """What a copy moved; objects that the target had are not counted."""

    object_count: int
    stored_bytes: int
    raw_bytes: int


def copy_objects(
    source: Objects,
    target: Objects,
    digests: Iterable[Digest],
    report: Report | None = None,
) -> CopyReport:
    """Copy what `target` lacks, as it is stored, each object after all of its bases; every record is proven.

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
    target.begin()
    copying = _Copying(source, target, None, True)
    return _reported((entry for digest in digests for entry in copying.copy(digest, MAX_DEPTH + 1)), report)


def copy_shipment(
    source: Objects,
    target: Objects,
    pieces: Iterable[Piece],
    shipment: Shipment,
    report: Report | None = None,
    proves: bool = True,
) -> CopyReport:
    """Copy what `target` lacks of files, with bases that they need or that are there, or else represented anew.

    Args:
        source: Where the objects are.
        target: Where they go.
        pieces: Of the shipment, in its order.
        shipment: What is known of them.
        report: Called after each object with the counts of objects and stored bytes so far.
        proves: Whether every record is decoded, and its digest looked at, before the target takes it. Without it the
            target must trust the source: a wrong record would keep the right bytes from ever being stored.

    Raises:
        As `copy_objects` does.
    """
    target.begin()
    copying = _Copying(source, target, shipment, proves)
    foreseen = copying.foreseen(pieces)
    return _reported((entry for one in foreseen for entry in copying.copy(one.digest, MAX_DEPTH + 1, one)), report)


def _reported(entries: Iterable[Entry], report: Report | None) -> CopyReport:
    """Count what is copied as it is copied."""
    total = CopyReport(0, 0, 0)
    for entry in entries:
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

    def foreseen(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield pieces, and have a target far away send what they will be compared with before that is asked for.

        One round trip for each chunk would take longer than the bytes do. As guesses may be wrong, the first is
        alone, and more go together the more of them were right.
        """
        if self._source.backend.is_remote or not self._target.backend.is_remote:
            yield from pieces
            return
        rest = iter(pieces)
        window, file = self._announced(rest, 1)
        while window:
            count = 1 if file is None else min(1 + file.bases.useful_count, _MOST_AHEAD)
            later, file = self._announced(rest, count)
            yield from window
            window = later

    def _announced(self, rest: Iterator[Piece], count: int) -> tuple[list[Piece], ShippedFile | None]:
        """Return the next pieces, `count` of them such that a base will be guessed for them, and of which file."""
        window: list[Piece] = []
        likely: list[Digest] = []
        file = None
        for piece in islice(rest, _MOST_UNGUESSED):
            window.append(piece)
            base = piece.file.bases.likely(piece.offset, piece.raw_bytes) if self._will_guess(piece) else None
            if base is not None:
                likely.append(base)
                file = piece.file
            if len(likely) == count:
                break
        self._target.whereabouts.look_up(likely)
        self._target.whereabouts.expect(likely)
        return window, file

    def _will_guess(self, piece: Piece) -> bool:
        """Tell whether a base will be guessed for a piece, as far as can be told before anything is read."""
        if not piece.raw_bytes or self._target.contains(piece.digest):
            return False
        try:
            entry = self._source.entry(piece.digest)
        except ThetaError:
            return False  # whoever copies it is told what is wrong
        return self._may_be_better(entry, piece) or not all(map(self._comes_along, _bases_of_files(entry)))

    def copy(self, digest: Digest, below: int, piece: Piece | None = None) -> Iterator[Entry]:
        """Copy one object, bases first, and yield what was copied; as a base it is to have a depth `below`.

        What is known of a `piece` of a shipment is known of its bases too.

        Depth falls from an object to its bases, so the recursion ends, whatever a hostile store says. A base may have
        become deeper since the record that names it was read; then it is coded again.
        """
        if self._target.contains(digest):
            return
        entry, stored = self._source.representation(digest)
        is_too_deep = entry.depth >= below
        if not is_too_deep and all(map(self._comes_along, _bases_of_files(entry))):
            for base in entry.bases:
                yield from self.copy(base, entry.depth, piece)
        is_fine = not is_too_deep and not self._may_be_better(entry, piece) and self._serves(entry)
        if not is_fine or not self._is_right(entry, stored):
            again = self._choose_again(entry, stored, piece)
            if again is not None:
                yield again
                return
            if is_too_deep:
                place = self._source.backend.url
                raise ObjectCorruptError(str(digest), place, f"it is a base of depth {entry.depth}, not below {below}")
            for base in entry.bases:
                yield from self.copy(base, entry.depth, piece)
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

    def _may_be_better(self, entry: Entry, piece: Piece | None) -> bool:
        """Tell whether a chunk coded by itself may be a difference from what the target has, as the source had not."""
        return entry.codec == "planes" and piece is not None and piece.file.bases.is_hopeful()

    def _choose_again(self, entry: Entry, stored: memoryview, piece: Piece | None) -> Entry | None:
        """Store an object as suits what the target has; None where this version cannot decode it."""
        if entry.kind != Kind.CHUNK:
            return self._copy_proven(entry)
        try:
            decoded = self._source.representations.decode(entry.digest, entry.raw_bytes)
        except UnsupportedError:
            return None
        is_alone = not entry.bases and self._is_right(entry, stored)
        alone = Choice(entry.codec, entry.params, stored) if is_alone else None
        dtype, columns = (None, 0) if piece is None else piece.elements
        try:
            guesses = self._guesses(entry, decoded.raw, piece)
            prepared = self._target.prepare(Kind.CHUNK, decoded.raw, dtype, guesses, alone, columns=columns)
            self._target.add(prepared)
        finally:
            self._source.representations.give(decoded.raw)
        if piece is not None:
            piece.file.bases.learn(prepared)
        self._remember(entry)
        return prepared.entry

    def _copy_proven(self, entry: Entry) -> Entry | None:
        """Store a manifest or page anew from its bytes; None where this version does not know the kind."""
        if entry.kind not in set(Kind):
            return None
        prepared = self._target.prepare(Kind(entry.kind), self._source.get(Kind(entry.kind), entry.digest))
        self._target.add(prepared)
        return prepared.entry

    def _guesses(self, entry: Entry, raw: memoryview, piece: Piece | None) -> Iterator[Digest]:
        """Yield what is in the target and may be a base: the bases, what stands in for them, what its family has."""
        for base in entry.bases:
            base = self._stand_ins.get(base, base)
            if self._target.contains(base):
                yield base
        if piece is not None:
            yield from piece.file.bases.guess(piece.offset, raw, piece.elements[0])

    def _remember(self, entry: Entry) -> None:
        for base in entry.bases:
            if not self._target.contains(base):
                if len(self._stand_ins) >= _MOST_STAND_INS:
                    del self._stand_ins[next(iter(self._stand_ins))]
                self._stand_ins.setdefault(base, entry.digest)
