"""Long index runs of a store far away, looked up by ranges.

Digests are uniform, and a fence stands every `FENCE_ROWS` rows: so of a run of a billion, whose fences are half a
megabyte, 18 KiB of digests hold the one that is looked for, and 9 KiB beside them its place. Many digests at once are
sorted; what lies near each other comes together, down to reading all of the run, where that is less.

What was found, or found not to be there, is remembered: about 300 bytes a digest that was asked for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from math import isqrt
from typing import NamedTuple

from thetastore.backends import Backend, Range
from thetastore.digest import Digest, checksum_of
from thetastore.errors import MalformedError
from thetastore.packs.index import (
    DIGEST_BYTES,
    FENCE_ROWS,
    PACK_BYTES,
    PLACE_BYTES,
    RUN_MAGIC,
    TRAILER_BYTES,
    End,
    PackInfo,
    Place,
    Run,
    can_be,
    check_packs,
    parse_packs,
    parse_place,
    read_end,
    word_of,
)
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble
from thetastore.packs.writer import Row, sealed_name

LEAST_FAR_RUN_BYTES = 4 << 20
"""Shorter runs, of 87,000 digests and fewer, are read whole when the store is opened."""
_MOST_PACKS_BYTES = 1 << 20
"""A longer list of packs is not read when a run is opened, but pack by pack."""
_SIGMAS = 9
"""Halves of a standard deviation: 4.5, so one look-up in 150,000 has to be repeated in a whole block."""
_GAP_BYTES = 64 << 10
"""What is read in vain rather than made a request of its own."""
_MOST_WINDOW_BYTES = 8 << 20
_MOST_AT_ONCE_BYTES = 24 << 20
_TOP = 1 << 64


class _Window(NamedTuple):
    """Rows `[first, stop)` of a run, in which some digests are if they are anywhere."""

    first: int
    stop: int
    digests: list[Digest]


def ends_of(name: str, nbytes: int) -> list[Range]:
    """Return what is read of a run when it is opened: its preamble; trailer, fences, and maybe the packs."""
    suffix_bytes = min(nbytes, nbytes // (FENCE_ROWS * 6) + 8 + TRAILER_BYTES + (64 << 10))
    return [Range(name, 0, PREAMBLE_BYTES), Range(name, nbytes - suffix_bytes, suffix_bytes)]


class FarRun(Run):
    """A run of which only its end was read. Thread-safe, as far as looking up goes."""

    is_far = True

    def __init__(self, backend: Backend, name: str, nbytes: int) -> None:
        """Read the end of a run. Raises as `Run` does, and `FileNotFoundError`."""
        self.name = name
        self.nbytes = nbytes
        self.backend = backend
        """Where it is."""
        self._reader = backend.open(name)
        backend.expect(ends_of(name, nbytes))
        suffix_bytes = ends_of(name, nbytes)[1].nbytes
        check_preamble(self._read(0, PREAMBLE_BYTES), RUN_MAGIC, name)
        suffix = self._read(nbytes - suffix_bytes, suffix_bytes)
        self._end: End = read_end(suffix, nbytes, name)
        self.count, self.body_checksum = self._end.digest_count, self._end.body_checksum
        self._places_at = PREAMBLE_BYTES + 32 * self.count
        fences = suffix[self._end.fences_at - nbytes : -TRAILER_BYTES]
        if checksum_of(fences) != self._end.fences_checksum:
            raise MalformedError(f"'{name}' is malformed: its fences do not have their checksum")
        self._fences = fences.cast("Q")
        self._packs: tuple[PackInfo, ...] | None = None
        self._some_packs: dict[int, PackInfo] = {}
        self._found: dict[Digest, tuple[Place, ...]] = {}
        if self._end.pack_count * PACK_BYTES <= _MOST_PACKS_BYTES:
            self._packs = self.packs

    @property
    def packs(self) -> tuple[PackInfo, ...]:  # type: ignore[override]
        """The packs that it covers; read when they are asked for."""
        if self._packs is None:
            self._packs = parse_packs(self.pack_table)
        return self._packs

    @property
    def pack_table(self) -> memoryview:  # type: ignore[override]
        """The list of packs, as it stands in the run; read each time."""
        table = self._read(self._end.body_end, self._end.pack_count * PACK_BYTES)
        return check_packs(table, self._end, self.name)

    def is_intact(self) -> bool:
        """Tell nothing: to read all of a long run for one object that is missing would take minutes."""
        return True

    def digests(self, first: int, stop: int) -> memoryview:
        """See `Run.digests`: they are fetched."""
        where = self.digest_range(first, stop)
        return self._read(where.offset, where.nbytes)

    def places(self, first: int, stop: int) -> memoryview:
        """See `Run.places`: they are fetched."""
        where = self.place_range(first, stop)
        return self._read(where.offset, where.nbytes)

    def digest_range(self, first: int, stop: int) -> Range:
        """Return where the digests of some rows are."""
        return Range(self.name, PREAMBLE_BYTES + DIGEST_BYTES * first, DIGEST_BYTES * (stop - first))

    def place_range(self, first: int, stop: int) -> Range:
        """Return where the places of some rows are."""
        return Range(self.name, self._places_at + PLACE_BYTES * first, PLACE_BYTES * (stop - first))

    def find(self, digest: bytes, word: int) -> Sequence[Place]:
        """See `Run.find`; a digest that was not among those looked up together is looked up by itself."""
        found = self._found.get(Digest(digest))
        if found is None:
            look_up(self.backend, [self], [Digest(digest)])
            found = self._found[Digest(digest)]
        return found

    def rows(self) -> Iterator[tuple[int, Row]]:
        """See `Run.rows`: all of the run is read."""
        whole = Run(self.backend.view(self.name), self.name)
        if not whole.is_intact():
            raise MalformedError(f"'{self.name}' is malformed: its digests do not have their checksum")
        return whole.rows()

    def knows(self, digest: bytes) -> bool:
        """Tell whether a digest was looked up already."""
        return digest in self._found

    def unknown(self, digests: Iterable[Digest]) -> list[Digest]:
        """Return the digests that were not looked up yet, by their words."""
        return sorted({digest for digest in digests if digest not in self._found}, key=word_of)

    def windows(self, digests: Sequence[Digest]) -> Iterator[_Window]:
        """Yield the rows to read for some digests, which ascend; neighbours are joined."""
        window: _Window | None = None
        for digest in digests:
            first, stop = self._guess(word_of(digest))
            if (
                window is not None
                and (first - window.stop) * 32 <= _GAP_BYTES
                and ((stop - window.first) * 32 <= _MOST_WINDOW_BYTES)
            ):
                window = _Window(window.first, max(stop, window.stop), window.digests)
                window.digests.append(digest)
                continue
            if window is not None:
                yield window
            window = _Window(first, stop, [digest])
        if window is not None:
            yield window

    def _guess(self, word: int) -> tuple[int, int]:
        """Return the rows in which a digest is almost certainly, if it is there."""
        number, first, stop = self._block(word)
        low = self._fences[number] if first else 0
        high = self._fences[number + 1] if number + 1 < len(self._fences) else _TOP
        share = min(max(word - low, 0), high - low) * 1024 // max(high - low, 1)
        rows = stop - first
        middle = first + rows * share // 1024
        margin = 2 + rows // 1024 + (_SIGMAS * isqrt(rows * share * (1024 - share)) // 2048)
        return max(first, middle - margin), min(stop, middle + margin)

    def _block(self, word: int) -> tuple[int, int, int]:
        """Return the number of the block that a word belongs to, and its rows.

        A digest may stand at the very end of the block before, if its word is that of a fence: that is looked at too.
        """
        number = max(bisect_left(self._fences, word) - 1, 0)
        after = max(bisect_right(self._fences, word), number + 1)
        return number, number * FENCE_ROWS, min(after * FENCE_ROWS, self.count)

    def ranges(self, window: _Window, with_places: bool) -> list[Range]:
        """Return what to read of a window."""
        found = [self.digest_range(window.first, window.stop)]
        if with_places:
            found.append(self.place_range(window.first, window.stop))
        return found

    def search(self, window: _Window) -> tuple[list[tuple[Digest, int]], list[Digest]]:
        """Read a window; return the rows of its digests that are there, and digests that may lie beside it."""
        view = self.digests(window.first, window.stop)
        words = view.cast("Q")[3::4]
        hits: list[tuple[Digest, int]] = []
        missed: list[Digest] = []
        for digest in window.digests:
            word = word_of(digest)
            _, block_first, block_stop = self._block(word)
            at = bisect_left(words, word)
            if (at == 0 and window.first > block_first) or (
                bisect_right(words, word, at) == len(words) and window.stop < block_stop
            ):
                missed.append(digest)
                continue
            rows = range(at, bisect_right(words, word, at))
            found = [(digest, window.first + row) for row in rows if bytes(view[32 * row : 32 * row + 32]) == digest]
            if not found:
                self._found[digest] = ()
            hits += found
        return hits, missed

    def whole_block(self, digest: Digest) -> _Window:
        """Return the window that certainly has a digest, if it is there."""
        _, first, stop = self._block(word_of(digest))
        return _Window(first, stop, [digest])

    def settle(self, hits: Sequence[tuple[Digest, int]]) -> None:
        """Read the places of rows, and remember what they say."""
        rows = [(digest, parse_place(self.places(at, at + 1), 0)) for digest, at in hits]
        packs = self._packs_at({place[0] for _, place in rows})
        found: dict[Digest, tuple[Place, ...]] = {}
        for digest, (number, nbytes, offset) in rows:
            pack = packs.get(number)
            places = found.setdefault(digest, ())
            if pack is not None and can_be(nbytes, offset, pack):
                found[digest] = (*places, Place(sealed_name(pack.id), offset, nbytes))
        self._found.update(found)

    def place_ranges(self, hits: Sequence[tuple[Digest, int]]) -> list[Range]:
        """Return where the places of rows are."""
        return [self.place_range(at, at + 1) for _, at in hits]

    def _packs_at(self, numbers: Iterable[int]) -> dict[int, PackInfo]:
        """Return packs by their numbers: one by one where the list is long. It has no checksum then, nor needs one."""
        if self._packs is not None:
            return {number: self._packs[number] for number in numbers if number < len(self._packs)}
        wanted = sorted(
            number for number in numbers if number < self._end.pack_count and number not in self._some_packs
        )
        places = {number: self._end.body_end + PACK_BYTES * number for number in wanted}
        self.backend.expect(Range(self.name, place, PACK_BYTES) for place in places.values())
        for number, place in places.items():
            entry = self._read(place, PACK_BYTES)
            self._some_packs[number] = PackInfo(
                entry[:16].hex(), int.from_bytes(entry[16:24], "little"), int.from_bytes(entry[24:], "little")
            )
        return {number: self._some_packs[number] for number in numbers if number in self._some_packs}

    def _read(self, offset: int, nbytes: int) -> memoryview:
        out = memoryview(bytearray(nbytes))
        if self._reader.read_into(offset, out) != nbytes:
            raise MalformedError(f"'{self.name}' is malformed: it ends before its end")
        return out


def look_up_one(runs: Sequence[Run], digest: bytes) -> None:
    """Look up one digest in all of some runs at once, unless that was done."""
    far = [run for run in runs if isinstance(run, FarRun) and not run.knows(digest)]
    if far:
        look_up(far[0].backend, far, [Digest(digest)])


def look_up(backend: Backend, runs: Sequence[FarRun], digests: Iterable[Digest]) -> None:
    """Look up digests in all of some runs at once; what is found out is remembered there."""
    wanted = list(digests)
    batch: list[tuple[FarRun, _Window]] = []
    nbytes = 0
    for run in runs:
        for window in run.windows(run.unknown(wanted)):
            batch.append((run, window))
            nbytes += 48 * (window.stop - window.first)
            if nbytes > _MOST_AT_ONCE_BYTES:
                _look_up(backend, batch)
                batch, nbytes = [], 0
    _look_up(backend, batch)


_FEW = 64


def _look_up(backend: Backend, batch: list[tuple[FarRun, _Window]]) -> None:
    """Look up windows: with their places in one round trip where they are few, else places of what is there after."""
    with_places = sum(window.stop - window.first for _, window in batch) <= _FEW * FENCE_ROWS // 16
    backend.expect(one for run, window in batch for one in run.ranges(window, with_places))
    again: list[tuple[FarRun, _Window]] = []
    hits: list[tuple[FarRun, list[tuple[Digest, int]]]] = []
    for run, window in batch:
        found, missed = run.search(window)
        hits.append((run, found))
        again += ((run, run.whole_block(digest)) for digest in missed)
    if not with_places:
        backend.expect(one for run, found in hits for one in run.place_ranges(found))
    for run, found in hits:
        run.settle(found)
    if again:
        _look_up(backend, again)
