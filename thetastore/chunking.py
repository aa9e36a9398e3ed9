"""Where a file is cut into chunks: on the grid of a tensor's shape, else where the content says so.

`docs/format/chunking.md` is the specification, with the reasons. Everything here is a pure function of
its arguments; changing a result is a new layout version.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from thetastore.digest import Buffer
from thetastore.dtypes import DTYPES, raw_bytes_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

GRID_BYTES = 1 << 20
EDGE_BYTES = 64 << 10
MAX_CHUNK_BYTES = 2 << 20
"""No reader accepts a longer chunk, so that a buffer for any chunk is bounded."""
MAX_GRID_CHUNK_BYTES = GRID_BYTES + EDGE_BYTES

CONTENT_MIN_BYTES = 16 << 10
CONTENT_MAX_BYTES = 256 << 10
_MULTIPLIER = 0x9E3779B97F4A7C15
_THRESHOLD = 0xFFFF000000000000
_WORD_BYTES = 8
_SCAN_BYTES = 32 << 10
"""Bytes hashed at a time: the products of one of the eight word phases stay in the first-level cache."""

_LEAST_COLUMNS = 16


def grid_lengths(dtype: str, shape: tuple[int, ...]) -> Iterator[int]:
    """Yield the lengths in bytes of a span's chunks, in the order of the file.

    Lazy, since a shape may be a hostile claim: nothing is allocated for chunks not yet asked for.
    """
    item_bytes, shape = _in_whole_bytes(dtype, shape)
    if 0 in shape:
        return
    axis, index_bytes = _cut_axis(item_bytes, shape)
    indices = 1 << ((GRID_BYTES // index_bytes).bit_length() - 1)
    full, rest = divmod(shape[axis], indices)
    last = rest
    if full and rest * index_bytes < EDGE_BYTES:
        full, last = full - 1, rest + indices
    leading = 0
    while leading < math.prod(shape[:axis]):
        for _ in range(full):
            yield indices * index_bytes
        if last:
            yield last * index_bytes
        leading += 1


def columns_of(shape: tuple[int, ...]) -> int:
    """Return how many elements a row has, of a tensor that is taken for a matrix; 0 for a scalar or a vector.

    A row is an index of the first axis, or of a later one if that leaves `_LEAST_COLUMNS` or more: experts and heads
    are matrices themselves, the taps of a convolution are not.
    """
    columns = 1
    for length in shape[:0:-1]:
        columns *= length
        if columns >= _LEAST_COLUMNS:
            return columns
    return columns if len(shape) > 1 else 0


def _in_whole_bytes(dtype: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return the bytes of an element and a shape counted in such elements (see packed dtypes in the document).

    What stands for an element of a block dtype is a block, and the last axis is counted in blocks.
    """
    _, bits, _, block_elements = DTYPES[dtype]
    if block_elements > 1:
        if not shape or shape[-1] % block_elements:
            shape = (math.prod(shape) + block_elements - 1,)
        shape = (*shape[:-1], shape[-1] // block_elements)
    if bits % 8 == 0:
        return bits // 8, shape or (1,)
    if shape and shape[-1] * bits % 8 == 0:
        return 1, (*shape[:-1], shape[-1] * bits // 8)
    return 1, (raw_bytes_of(dtype, math.prod(shape)),)


def _cut_axis(item_bytes: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the first axis of which one index takes at most `GRID_BYTES`, and the bytes of such an index."""
    index_bytes = item_bytes * math.prod(shape)
    for axis, length in enumerate(shape):
        index_bytes //= length
        if index_bytes <= GRID_BYTES:
            return axis, index_bytes
    raise AssertionError("an element is longer than a chunk")


def content_cut(raw: Buffer, is_end: bool) -> int | None:
    """Return the length of the first content-defined chunk of `raw`; None if more bytes are needed to tell.

    Args:
        raw: the gap from the last cut on. More than `CONTENT_MAX_BYTES` are never looked at.
        is_end: whether the gap ends where `raw` ends.
    """
    length = min(len(raw), CONTENT_MAX_BYTES)
    if length > CONTENT_MIN_BYTES:
        cut = _first_candidate(raw, CONTENT_MIN_BYTES - _WORD_BYTES, length)
        if cut is not None:
            return cut
    if length == CONTENT_MAX_BYTES or is_end:
        return length
    return None


def _first_candidate(raw: Buffer, start: int, end: int) -> int | None:
    """Return the end of the first word at or after `start`, ending at or before `end`, that marks a cut."""
    import numpy

    octets: npt.NDArray[np.uint8] = numpy.frombuffer(raw, dtype=numpy.uint8)
    multiplier, threshold = numpy.uint64(_MULTIPLIER), numpy.uint64(_THRESHOLD)
    products: Any = numpy.empty(_SCAN_BYTES // _WORD_BYTES, dtype="<u8")
    for block in range(start, end - _WORD_BYTES + 1, _SCAN_BYTES):
        block_end = min(block + _SCAN_BYTES, end - _WORD_BYTES + 1)
        best = block_end
        for phase in range(min(_WORD_BYTES, block_end - block)):
            count = (block_end - block - phase + _WORD_BYTES - 1) // _WORD_BYTES
            words = octets[block + phase : block + phase + count * _WORD_BYTES].view("<u8")
            numpy.multiply(words, multiplier, out=products[:count])
            marks = products[:count] >= threshold
            first = int(marks.argmax())
            if marks[first]:
                best = min(best, block + phase + first * _WORD_BYTES)
        if best < block_end:
            return best + _WORD_BYTES
    return None
