"""A tensor that lies in pieces, in one file or several: shards of a distributed checkpoint, slices of a variable.

The pieces are boxes that fill the tensor without overlapping. What is read is put together in blocks of whole indices
of the first axis that has several, of which each piece has its elements in one run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError

if TYPE_CHECKING:
    from thetastore.checkpoints.tensors import TensorReader

_BLOCK_BYTES = 64 << 20
"""Put together at once: chunks of pieces that reach over the end of a block are decoded twice."""
_MAX_CUTS = 64
"""Cuts, one in another, after which a piece must be left; meshes of devices have a few axes."""
_Lengths = tuple[int, ...]


class Piece(NamedTuple):
    """A box of a tensor."""

    reader: TensorReader
    name: str
    """By which the reader knows it."""
    at: _Lengths
    """Index in the tensor of its first element."""
    shape: _Lengths


class Pieces:
    """Reads one tensor from its pieces. Thread-safe. The last axis is counted in bytes here."""

    def __init__(self, name: str, dtype: str, shape: _Lengths, pieces: Sequence[Piece]) -> None:
        """Put pieces together; those without elements are left out.

        Raises:
            MalformedError: they do not fill the tensor, or overlap, or are cut within a byte.
        """
        shape = _in_bytes(name, dtype, shape or (1,))
        self._pieces = [
            piece._replace(
                at=_in_bytes(name, dtype, piece.at or (0,)), shape=_in_bytes(name, dtype, piece.shape or (1,))
            )
            for piece in pieces
            if math.prod(piece.shape)
        ]
        if not is_filled(shape, [(piece.at, piece.shape) for piece in self._pieces]):
            raise MalformedError(f"the pieces of tensor '{name}' do not fill it, or overlap")
        self._axis = next((axis for axis, length in enumerate(shape) if length > 1), 0)
        """The first that has several indices."""
        self._inner = shape[self._axis + 1 :]
        self._index_bytes = math.prod(self._inner)
        """Of an index of that axis."""

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def fill(self, start: int, stop: int, target: memoryview) -> Iterator[int]:
        """Put the bytes `[start, stop)` of the tensor, in C order, into `target`; yield how many are there so far."""
        done = 0
        for block in self.blocks(start, stop):
            target[done : done + block.nbytes] = block
            done += block.nbytes
            yield done

    def blocks(self, start: int, stop: int) -> Iterator[memoryview]:
        """Yield the bytes `[start, stop)` of the tensor in C order. A view is valid until the next is asked for."""
        if start >= stop:
            return
        first, end = start // self._index_bytes, -(-stop // self._index_bytes)
        step = max(1, _BLOCK_BYTES // self._index_bytes)
        buffer = memoryview(bytearray(min(step, end - first) * self._index_bytes))
        for at in range(first, end, step):
            block = buffer[: (min(at + step, end) - at) * self._index_bytes]
            self._put(at, min(at + step, end), block)
            offset = at * self._index_bytes
            yield block[max(start - offset, 0) : stop - offset]

    def _put(self, first: int, end: int, out: memoryview) -> None:
        """Put indices `[first, end)` of the axis into `out`, from every piece that has some of them."""
        import numpy

        block = numpy.frombuffer(out, "u1").reshape(end - first, *self._inner)
        for piece in self._pieces:
            begin = piece.at[self._axis]
            low, high = max(first, begin), min(end, begin + piece.shape[self._axis])
            if low >= high:
                continue
            inner = piece.shape[self._axis + 1 :]
            run = math.prod(inner)
            start, stop = (low - begin) * run, (high - begin) * run
            if inner == self._inner:
                place = out[(low - first) * run : (high - first) * run]
                piece.reader.read_range(piece.name, start, stop, place)
                continue
            raw = piece.reader.read_range(piece.name, start, stop)
            box = [slice(at, at + length) for at, length in zip(piece.at, piece.shape, strict=True)]
            inside = slice(low - first, high - first), *box[self._axis + 1 :]
            block[inside] = numpy.frombuffer(raw, "u1").reshape(high - low, *inner)


def _in_bytes(name: str, dtype: str, lengths: _Lengths) -> _Lengths:
    """Return lengths whose last is in bytes."""
    bits = lengths[-1] * DTYPES[dtype].bits
    unit = 8 * DTYPES[dtype].block_elements
    if bits % unit:
        raise MalformedError(f"tensor '{name}' is cut within a byte, or within a block")
    return (*lengths[:-1], bits // unit)


def is_filled(shape: _Lengths, boxes: Sequence[tuple[_Lengths, _Lengths]]) -> bool:
    """Tell whether boxes, each of a first index and lengths that are not 0, fill a shape and do not overlap.

    They must come apart by cuts through the whole of what is to be cut, as shards of meshes do; time is n log n for
    each axis and each cut within another.
    """
    if not math.prod(shape):
        return not boxes
    waiting = [((0,) * len(shape), shape, list(boxes), 0)]
    while waiting:
        at, lengths, inside, depth = waiting.pop()
        if len(inside) == 1:
            if inside[0] != (at, lengths):
                return False
            continue
        parts = next(filter(None, (_cut(axis, at, lengths, inside) for axis in range(len(shape)))), None)
        if parts is None or depth >= _MAX_CUTS:
            return False
        waiting += [(*part, depth + 1) for part in parts]
    return True


def _cut(
    axis: int, at: _Lengths, lengths: _Lengths, boxes: Sequence[tuple[_Lengths, _Lengths]]
) -> list[tuple[_Lengths, _Lengths, list[tuple[_Lengths, _Lengths]]]]:
    """Return the parts into which boxes come apart along an axis; none where they do not, or leave a gap."""
    end = at[axis]
    parts: list[tuple[int, int, list[tuple[_Lengths, _Lengths]]]] = []
    for box in sorted(boxes, key=lambda box: box[0][axis]):
        start, stop = box[0][axis], box[0][axis] + box[1][axis]
        if start > end:
            return []
        if start == end:
            parts.append((start, stop, []))
        first, until, inside = parts[-1]
        inside.append(box)
        end = max(until, stop)
        parts[-1] = first, end, inside
    if len(parts) < 2 or end != at[axis] + lengths[axis]:
        return []
    return [(_with(at, axis, first), _with(lengths, axis, until - first), inside) for first, until, inside in parts]


def _with(lengths: _Lengths, axis: int, length: int) -> _Lengths:
    return (*lengths[:axis], length, *lengths[axis + 1 :])
