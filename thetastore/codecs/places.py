"""Which elements of many: their places as a bitmap or as gaps, whichever is smaller.

Few places far apart are smaller as gaps (the number of elements skipped before each), many as bits. On weights of
which 1 % changed at random, gaps take 0.0055 and a bitmap 0.0086 of the raw bfloat16; at 3.5 % it is 0.0119 and
0.0130; at 9 % both are equal. Gaps are read faster as well: a running sum over few numbers instead of a search
through all bits.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np

from thetastore.codecs import frames, planes, sampling
from thetastore.codecs.scratch import scratch
from thetastore.codecs.splitting import Words
from thetastore.errors import MalformedError

Places = np.ndarray[Any, np.dtype[np.int64]]
"""Indices of elements, ascending."""

_GAP_BYTES: Final = 4
_MOST_GAPS: Final = 8
"""Gaps are allowed for one element in 8 at most, so that places take a reader no more memory than elements do."""
_GAPS_FROM: Final = 11
"""Gaps are smaller where no more than one element in 11 is named (measured on fine-tuned bfloat16)."""


_SPARSE_FROM, _SPARSE_TO = 0.02, 0.1
"""Up to 10 % numpy takes a branch an element, which is mispredicted the more often the more there are: 512 Ki elements
take 0.7 ms at 10 %, and 0.23 ms above. Between these shares groups of 8 are searched first: 0.1 to 0.27 ms."""


class Coding(IntEnum):
    """How places are stored. Released numbers: never reused."""

    BITMAP = 0
    """One bit an element, the lowest bit of a byte first."""
    GAPS = 1
    """For each place, how many elements were skipped before it: a payload of codec `planes`, width 4."""
    BITMAP_ZSTD = 2
    """One zstd frame, whose content is the bitmap."""


def find(is_named: Words, place_count: int) -> Places:
    """Return where `is_named`, bools aligned to 8 and a multiple of 8 long, is true, which is `place_count` times."""
    if not _SPARSE_FROM * is_named.size < place_count <= _SPARSE_TO * is_named.size:
        return np.flatnonzero(is_named)
    groups = is_named.view(np.uint64)
    hits = np.flatnonzero(groups != 0)
    within = np.flatnonzero(groups[hits].view(np.bool_))
    found: Places = np.take(hits, within >> 3)
    np.left_shift(found, 3, out=found)
    np.bitwise_and(within, 7, out=within)
    return np.add(found, within, out=found)


def encode(is_named: Words, places: Places) -> tuple[Coding, bytes | memoryview]:
    """Return the coding, and the bytes to store.

    Args:
        is_named: one bool an element, and up to 7 more that are false.
        places: where `is_named` is true.
    """
    if places.size * _GAPS_FROM <= is_named.size:
        return Coding.GAPS, _encode_gaps(places)
    bitmap = np.packbits(is_named, bitorder="little")
    frame = frames.compress_plane(bitmap.data)
    return (Coding.BITMAP_ZSTD, frame) if frames.pays(len(frame), bitmap.size) else (Coding.BITMAP, bitmap.data)


def _encode_gaps(places: Places) -> memoryview:
    gap_bytes = scratch("gaps", _GAP_BYTES * places.size)
    gaps: Words = gap_bytes.view("<u4")
    gaps[0] = places[0]
    np.subtract(places[1:], places[:-1], out=gaps[1:], casting="unsafe")
    np.subtract(gaps[1:], 1, out=gaps[1:])
    plan = sampling.plan_of_bits(sampling.bits_of_planes(gaps))
    payload = planes.encode(gap_bytes.data, plan, at_any_size=True)
    assert payload is not None, "a payload at any size was asked for"
    return payload


def decode(stored: memoryview, coding: int, place_count: int, element_count: int) -> Places:
    """Return the places, in memory that is this thread's until the next call.

    Raises:
        MalformedError: the stored bytes break a rule of their format, or do not name `place_count` elements of
            `element_count`.
    """
    if coding == Coding.GAPS:
        places = _decode_gaps(stored, place_count, element_count)
    else:
        places = find(_read_bitmap(stored, coding, element_count), place_count)
    if places.size != place_count or (place_count and places[-1] >= element_count):
        raise MalformedError(f"places name {places.size} elements of {element_count}, {place_count} were expected")
    return places


def _decode_gaps(stored: memoryview, place_count: int, element_count: int) -> Places:
    if place_count * _MOST_GAPS > element_count:
        raise MalformedError(f"places of {place_count} elements of {element_count} are stored as gaps")
    gap_bytes = scratch("gaps", _GAP_BYTES * place_count)
    planes.decode(stored, gap_bytes.data)
    gaps: Words = gap_bytes.view("<u4")
    places: Places = scratch("places", 8 * place_count).view(np.int64)
    # Every gap is one less than the distance, so that no number is invalid before the sum is.
    np.add(gaps, 1, out=places, dtype=np.int64)
    np.cumsum(places, out=places)
    return np.subtract(places, 1, out=places)


def _read_bitmap(stored: memoryview, coding: int, element_count: int) -> Words:
    bitmap_bytes = -(-element_count // 8)
    if coding == Coding.BITMAP_ZSTD:
        bitmap = scratch("bitmap", bitmap_bytes)
        frames.decompress_into(stored, bitmap.data)
    elif coding == Coding.BITMAP and stored.nbytes == bitmap_bytes:
        bitmap = np.frombuffer(stored, np.uint8)
    else:
        raise MalformedError(f"places of {element_count} elements have {stored.nbytes} bytes in coding {coding}")
    return np.unpackbits(bitmap, bitorder="little").view(np.bool_)
