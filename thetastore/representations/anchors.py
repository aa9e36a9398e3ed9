"""Anchors: places in a chunk that its content chooses, so that equal ranges are found wherever they lie.

An anchor is an element that, hashed together with its successor, comes out among the highest of all hashes: one in
8 KiB. Where rows were inserted, tensors joined or split, the same elements are chosen again, and the identity of the
bytes that follow says which ranges of other objects are worth comparing (`thetastore.representations.matching`).

All anchors of a new chunk are looked for, but only one in 40 KiB or so is remembered (`to_remember`): evenly spaced,
so that hardly any range of 64 KiB is without. Were they chosen by content alone, as few of them would leave a third of
such ranges without.

Anchors are hints. Nothing depends on their being right or complete, and a table of them (`docs/format/anchors.md`) can
be made anew; but tables written by another rule find nothing, so the rule is written down there.

Every element is looked at, so the hash has to cost next to nothing: a product and a sum in words of 16 or 32 bits reach
4 GB/s in numpy with all that follows, a 64-bit product a fourth of that, a gear hash 0.3-0.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from thetastore.digest import Buffer

MEAN_BYTES: Final = 8 << 10
"""Mean distance of anchors."""
IDENTITY_BYTES: Final = 256
"""How many bytes, from the anchor on, have the identity."""
MIN_CHUNK_BYTES: Final = 16 << 10
"""Shorter chunks have no anchors: copies of so little are not worth looking for."""
REMEMBERED_SHARE: Final = 2048
"""A table takes one byte for so many of the chunks', 0.05 %, or less; of short ones up to 0.2 %."""

_CHUNK_ENTRY_BYTES: Final = 32
_ANCHOR_ENTRY_BYTES: Final = 16
_MULTIPLIERS: Final = {2: 0x9E37, 4: 0x9E3779B1}
_BLOCK_BYTES: Final = 128 << 10
"""Bytes hashed at a time. A product alone reaches 8.4 GB/s so, and 5.2 by 32 KiB, which then is calls."""
_CROWDED_BYTES: Final = 4 << 10
"""Mean distance below which content is poor, and anchors are thinned to this distance: a flood costs a hash each."""
_LEAST_DISTANCE_BYTES: Final = 12 << 10
_PARTS: Final = 28
"""Of a chunk that is remembered by more anchors than its length gives it: an eighth of a matrix of 288 KiB, as one that
is split for 8 ranks, then is without any in one case of 30, and not of four."""
_SMALL: Final = 16
"""A record under this part of its chunk is a small one: as many anchors as of others would add 1/200 to it."""


class Anchor(NamedTuple):
    """A place in a chunk."""

    offset: int
    """In bytes from the beginning of the chunk."""
    identity: int
    """XXH3-64 of the `IDENTITY_BYTES` from there on."""


def anchors_of(raw: Buffer, item_bytes: int) -> list[Anchor]:
    """Return the anchors of a chunk, by offset: about one each 8 KiB, never more than one each 4 KiB and one.

    A pure function, thread-safe. Content that repeats itself gives few, constant content one at most.

    Args:
        raw: the chunk's bytes, contiguous.
        item_bytes: width of an element or block; anchors lie at multiples of 4, 2 or 1, whichever divides it.
    """
    view = memoryview(raw).cast("B")
    if view.nbytes < MIN_CHUNK_BYTES:
        return []
    offsets = _chosen(view, item_bytes)
    if len(offsets) > view.nbytes // _CROWDED_BYTES:
        offsets = list(_spread(offsets, _CROWDED_BYTES))
    by_identity: dict[int, int] = {}
    for offset in offsets:
        by_identity.setdefault(xxhash.xxh3_64_intdigest(view[offset : offset + IDENTITY_BYTES]), offset)
    return [Anchor(offset, identity) for identity, offset in by_identity.items()]


def to_remember(anchors: Sequence[Anchor], raw_bytes: int, stored_bytes: int | None = None) -> list[Anchor]:
    """Return the anchors of a chunk that are worth their place in a table: evenly spaced, about one each 40 KiB.

    In the table they and the chunk's digest take 0.05 % of its bytes at most; so a chunk under 96 KiB has none. Of
    chunks under 1 MiB one in a 28th is remembered, or in 12 KiB, 0.1 % as a rule and never more than 0.2 %; of those
    whose record takes so little that this would be much, small differences, half as many. None means that it is more.
    """
    most = (raw_bytes // REMEMBERED_SHARE - _CHUNK_ENTRY_BYTES) // _ANCHOR_ENTRY_BYTES
    if most < 1:
        return []
    distance = raw_bytes // most
    is_small = stored_bytes is not None and stored_bytes * _SMALL < raw_bytes
    distance = min(distance, (2 if is_small else 1) * max(raw_bytes // _PARTS, _LEAST_DISTANCE_BYTES))
    chosen = set(_spread([anchor.offset for anchor in anchors], distance))
    return [anchor for anchor in anchors if anchor.offset in chosen]


def _spread(offsets: Sequence[int], distance: int) -> Iterator[int]:
    """Yield ascending offsets, leaving out those that follow too closely."""
    from bisect import bisect_left

    at = 0
    while at < len(offsets):
        yield offsets[at]
        at = bisect_left(offsets, offsets[at] + distance, at + 1)


def _chosen(raw: memoryview, item_bytes: int) -> list[int]:
    """Return the ascending offsets of the elements that the hash chooses, each with `IDENTITY_BYTES` behind it."""
    import numpy

    word_bytes = 4 if item_bytes % 4 == 0 else 2
    step_bytes = 1 if item_bytes % 2 else word_bytes
    octets: Any = numpy.frombuffer(raw, dtype=numpy.uint8)
    usable_bytes = raw.nbytes - IDENTITY_BYTES
    offsets: list[int] = []
    scanner = _Scanner(word_bytes, MEAN_BYTES // step_bytes)
    for start in range(0, usable_bytes, _BLOCK_BYTES):
        stop = min(start + _BLOCK_BYTES, usable_bytes)
        found = scanner.scan(octets, start, stop)
        if step_bytes < word_bytes:
            # Bytes: words begin at every one, the odd ones in a second pass.
            found = numpy.sort(numpy.concatenate([found, scanner.scan(octets, start + 1, stop)]))
        offsets += found.tolist()
    return offsets


class _Scanner:
    """Hashes blocks of words: word times a constant plus the following word."""

    def __init__(self, word_bytes: int, one_in: int) -> None:
        import numpy

        from thetastore.codecs.scratch import scratch

        self._dtype = numpy.dtype(f"<u{word_bytes}")
        self._multiplier = self._dtype.type(_MULTIPLIERS[word_bytes])
        # The highest hashes, not the lowest: zeros hash to zero.
        self._threshold = self._dtype.type((1 << 8 * word_bytes) - (1 << 8 * word_bytes) // one_in)
        self._words: Any = scratch("anchor words", _BLOCK_BYTES + word_bytes).view(self._dtype)
        self._hashes: Any = scratch("anchor hashes", _BLOCK_BYTES).view(self._dtype)
        self._marks: Any = scratch("anchor marks", _BLOCK_BYTES // 2).view(numpy.bool_)

    def scan(self, octets: Any, start: int, stop: int) -> Any:
        """Return the offsets, from `start` by whole words to before `stop`, of chosen words."""
        import numpy

        word_bytes = self._dtype.itemsize
        count = -(-(stop - start) // word_bytes)
        words = octets[start : start + (count + 1) * word_bytes].view(self._dtype)
        if not words.flags.aligned:
            numpy.copyto(self._words[: count + 1], words)
            words = self._words
        hashes, marks = self._hashes[:count], self._marks[:count]
        numpy.multiply(words[:count], self._multiplier, out=hashes)
        numpy.add(hashes, words[1 : count + 1], out=hashes)
        numpy.greater_equal(hashes, self._threshold, out=marks)
        return start + numpy.flatnonzero(marks) * word_bytes
