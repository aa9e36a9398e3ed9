"""Which ranges of other objects a chunk is made of: from anchors that agree to ranges that were compared.

Anchors that agree say: where this chunk has offset x, that object has offset x + shift. All that the two have in common
at that shift is then found by comparing them once, at 10 GB/s, rather than by growing each hit: changed rows in between
do no harm, and one anchor is enough for a whole chunk. What comes out was compared byte for byte, so wrong hits, false
identities and hostile tables cost time, of which there is a bound, and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from thetastore.codecs.copies import MAX_PATCHES, MAX_RANGES, MIN_RANGE_BYTES, Patch, Range, Recipe, gaps
from thetastore.digest import Digest

if TYPE_CHECKING:
    from thetastore.digest import Buffer

MIN_REUSED: Final = 1 / 8
"""Share of a chunk that has to be found for copies to be worth their reads."""
MAX_READS: Final = 24
"""Objects looked at for one chunk. A read costs about what coding half a chunk does."""
MAX_SHIFTS: Final = 48
"""Comparisons for one chunk; each takes 70 microseconds a MiB."""
MAX_WASTED: Final = 6
"""Reads and comparisons that gave nothing, after which no more are tried: such hits come in crowds."""
MAX_GROUPS: Final = 256
"""Hits that say different things and are looked at at all, for 3 microseconds each."""

_BLOCK_BYTES: Final = 512
"""Equal ranges are found by whole blocks, then grown by bytes: shorter ones than this are not found for sure."""
_MIN_PIECE_BYTES: Final = 1 << 10
"""Pieces of a range, between patches, are at least this long, or a patch goes over them too."""


class Hit(NamedTuple):
    """An anchor of a chunk, found in another object."""

    offset: int
    """In the chunk."""
    base: Digest
    base_offset: int


class CopyPlan(NamedTuple):
    """How to store a chunk as copies."""

    bases: tuple[Digest, ...]
    """In the order of their numbers in the recipe."""
    recipe: Recipe
    reused_bytes: int
    """What need not be stored."""

    def has(self, offset: int, nbytes: int) -> bool:
        """Tell whether these bytes come from bases: their anchors lead there already and need no second entry."""
        return not any(
            patch.start < offset + nbytes and offset < patch.start + patch.nbytes for patch in self.recipe.patches
        )


class _Piece(NamedTuple):
    """Bytes of the chunk that a base has."""

    start: int
    stop: int
    base: Digest
    shift: int
    """Offset in the base less that in the chunk."""


def find_copies(
    raw: Buffer, item_bytes: int, hits: Iterable[Hit], read_base: Callable[[Digest], Buffer | None]
) -> CopyPlan | None:
    """Return how to store a chunk as copies of other objects; None where they have less than an eighth of it.

    Thread-safe if `read_base` is. Takes bounded time whatever the hits are, at most 24 reads, and keeps what it read
    until it returns.

    Args:
        raw: the chunk.
        item_bytes: width of an element; patches are whole elements, so that they can be coded as such.
        hits: what is known of the chunk's anchors; any may be wrong. Of equally good ones the first is taken.
        read_base: returns the bytes of an object, or None if it cannot be had or may not be a base.
    """
    view = memoryview(raw).cast("B")
    search = _Search(view, read_base)
    for base, shift, offsets in islice(_by_shift(hits), MAX_GROUPS):
        if search.is_over:
            break
        search.try_shift(base, shift, offsets)
    return _plan(search.pieces, view.nbytes, max(1, item_bytes))


def _by_shift(hits: Iterable[Hit]) -> Iterator[tuple[Digest, int, list[int]]]:
    """Group hits that say the same; those said most often come first."""
    groups: dict[tuple[Digest, int], list[int]] = {}
    for offset, base, base_offset in hits:
        groups.setdefault((base, base_offset - offset), []).append(offset)
    for (base, shift), offsets in sorted(groups.items(), key=lambda group: -len(group[1])):
        yield base, shift, offsets


class _Search:
    """What was found of one chunk so far."""

    def __init__(self, raw: memoryview, read_base: Callable[[Digest], Buffer | None]) -> None:
        import numpy

        self.pieces: list[_Piece] = []
        """Ascending, disjoint."""
        self._raw: Any = numpy.frombuffer(raw, dtype=numpy.uint8)
        self._read_base = read_base
        self._bases: dict[Digest, Any] = {}
        self._shifts_left = MAX_SHIFTS
        self._wasted = 0

    @property
    def is_over(self) -> bool:
        """Whether the time is spent."""
        return self._shifts_left == 0 or self._wasted >= MAX_WASTED

    def try_shift(self, base: Digest, shift: int, offsets: Sequence[int]) -> None:
        """Take in what the base has at a shift, unless all places that suggest it are taken."""
        if all(self._is_taken(offset) for offset in offsets):
            return
        is_new = base not in self._bases
        octets = self._octets_of(base)
        if octets is None:
            self._wasted += 1
            return
        if not any(self._agrees(octets, offset, shift) for offset in offsets):
            self._wasted += is_new
            return
        self._shifts_left -= 1
        start, stop = max(0, -shift), min(self._raw.size, octets.size - shift)
        found = equal_ranges(self._raw[start:stop], octets[start + shift : stop + shift]) if start < stop else []
        added = [piece for first, last in found for piece in self._free(start + first, start + last, base, shift)]
        if sum(piece.stop - piece.start for piece in added) < MIN_RANGE_BYTES:
            self._wasted += 1
        else:
            self.pieces = sorted(self.pieces + added)

    def _is_taken(self, offset: int) -> bool:
        at = bisect_left(self.pieces, offset + 1, key=lambda piece: piece.start)
        return at > 0 and offset < self.pieces[at - 1].stop

    def _octets_of(self, base: Digest) -> Any:
        import numpy

        if base not in self._bases:
            if len(self._bases) >= MAX_READS:
                return None
            read = self._read_base(base)
            self._bases[base] = None if read is None else numpy.frombuffer(read, dtype=numpy.uint8)
        return self._bases[base]

    def _agrees(self, octets: Any, offset: int, shift: int) -> bool:
        """Tell whether an anchor is where a hit says; nearly always that is the end of a wrong one."""
        one, other = self._raw[offset : offset + 64], octets[max(0, offset + shift) :][:64]
        return bool(one.size) and bytes(one) == bytes(other)

    def _free(self, start: int, stop: int, base: Digest, shift: int) -> Iterator[_Piece]:
        """Yield what no earlier piece took."""
        taken = [(max(start, piece.start), min(stop, piece.stop)) for piece in self.pieces]
        inside = ((first - start, last - start) for first, last in taken if first < last)
        for first, last in gaps(inside, stop - start):
            if last - first >= _MIN_PIECE_BYTES:
                yield _Piece(start + first, start + last, base, shift)


def equal_ranges(one: Any, other: Any) -> list[tuple[int, int]]:
    """Return where two arrays of bytes are equal: ascending (start, stop), at least 1 KiB each, at most 256 of them.

    Found by whole blocks of 512 bytes, then grown to the last equal byte.
    """
    import numpy

    from thetastore.codecs.scratch import scratch

    size = one.size
    block_count = size // _BLOCK_BYTES
    if not block_count:
        return []
    differs: Any = scratch("differences", size).view(numpy.bool_)
    numpy.not_equal(one, other, out=differs)
    words = differs[: block_count * _BLOCK_BYTES].view(numpy.uint64)
    blocks = numpy.bitwise_or.reduceat(words, numpy.arange(0, words.size, _BLOCK_BYTES // 8)) != 0
    edges = numpy.flatnonzero(numpy.diff(blocks, prepend=True, append=True))
    starts, stops = edges[0::2] * _BLOCK_BYTES, edges[1::2] * _BLOCK_BYTES
    if starts.size > MAX_PATCHES:
        longest = numpy.sort(numpy.argsort(starts - stops, kind="stable")[:MAX_PATCHES])
        starts, stops = starts[longest], stops[longest]
    grown = [
        (start - _equal_bytes(differs[max(0, start - _BLOCK_BYTES) : start][::-1]),
         stop + _equal_bytes(differs[stop : stop + _BLOCK_BYTES]))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]  # fmt: skip
    return [(start, stop) for start, stop in grown if stop - start >= _MIN_PIECE_BYTES]


def _equal_bytes(differs: Any) -> int:
    """Return how many bytes at the beginning do not differ."""
    first = int(differs.argmax()) if differs.size else 0
    return first if differs.size and differs[first] else int(differs.size)


def _plan(pieces: list[_Piece], raw_bytes: int, item_bytes: int) -> CopyPlan | None:
    """Choose at most 16 ranges among the pieces, and patch the rest."""
    pieces = [whole for piece in pieces if (whole := _in_whole_items(piece, item_bytes))]
    pieces = sorted(sorted(pieces, key=lambda piece: piece.start - piece.stop)[: MAX_PATCHES - 1])
    kept: set[_Piece] = set()
    by_size = sorted(_joined(pieces), key=lambda group: -_bytes_of(group))
    for group in by_size[:MAX_RANGES]:
        if _bytes_of(group) >= MIN_RANGE_BYTES:
            kept.update(group)
    pieces = sorted(kept)
    if _bytes_of(pieces) < max(MIN_RANGE_BYTES, int(raw_bytes * MIN_REUSED)):
        return None
    bases = tuple(dict.fromkeys(piece.base for piece in pieces))
    ranges = tuple(
        Range(
            group[0].start, group[-1].stop - group[0].start, bases.index(group[0].base), group[0].start + group[0].shift
        )
        for group in _joined(pieces)
    )
    patches = [Patch(start, stop - start) for start, stop in gaps(((at.start, at.stop) for at in pieces), raw_bytes)]
    return CopyPlan(bases, Recipe(tuple(ranges), tuple(patches)), _bytes_of(pieces))


def _in_whole_items(piece: _Piece, item_bytes: int) -> _Piece | None:
    start = -(-piece.start // item_bytes) * item_bytes
    stop = piece.stop // item_bytes * item_bytes
    return piece._replace(start=start, stop=stop) if stop - start >= _MIN_PIECE_BYTES else None


def _joined(pieces: Iterable[_Piece]) -> list[list[_Piece]]:
    """Join neighbours at one shift of one base: one range, patched in between."""
    groups: list[list[_Piece]] = []
    for piece in pieces:
        if groups and groups[-1][-1].base == piece.base and groups[-1][-1].shift == piece.shift:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _bytes_of(pieces: Iterable[_Piece]) -> int:
    return sum(piece.stop - piece.start for piece in pieces)
