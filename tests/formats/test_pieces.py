"""A tensor in pieces reads as if it lay in one, whichever way it was cut; what does not fill it is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest

from thetastore.checkpoints import pieces as module
from thetastore.checkpoints.pieces import Piece, Pieces, is_filled
from thetastore.checkpoints.tensors import TensorReader
from thetastore.errors import MalformedError

Box = tuple[tuple[int, ...], tuple[int, ...]]


class Memory:
    """Reads pieces of an array."""

    def __init__(self, array: np.ndarray) -> None:
        self._raw = np.ascontiguousarray(array).reshape(-1).view("u1").tobytes()

    def read_range(self, name: str, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        if out is not None:
            out[:] = self._raw[start:stop]
        return memoryview(self._raw)[start:stop]


def cut(draw: random.Random, at: tuple[int, ...], shape: tuple[int, ...], depth: int) -> Iterator[Box]:
    """Yield the boxes that cuts at random places leave, one in another."""
    axes = [axis for axis, length in enumerate(shape) if length > 1]
    if not depth or not axes or draw.random() < 0.2:
        yield at, shape
        return
    axis = draw.choice(axes)
    first = draw.randrange(1, shape[axis])
    for start, length in ((0, first), (first, shape[axis] - first)):
        there = (*at[:axis], at[axis] + start, *at[axis + 1 :])
        yield from cut(draw, there, (*shape[:axis], length, *shape[axis + 1 :]), depth - 1)


def pieces_of(array: np.ndarray, boxes: list[Box], dtype: str) -> Pieces:
    found = []
    for at, shape in boxes:
        part = array[tuple(slice(first, first + length) for first, length in zip(at, shape, strict=True))]
        found.append(Piece(cast(TensorReader, Memory(part)), "", at, shape))
    return Pieces("w", dtype, array.shape, found)


def read(pieces: Pieces, start: int, stop: int) -> bytes:
    target = memoryview(bytearray(stop - start))
    done = list(pieces.fill(start, stop, target))
    assert (done or [0])[-1] == stop - start
    return bytes(target)


@pytest.mark.parametrize("seed", range(60))
def test_any_cut_reads_as_the_whole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(module, "_BLOCK_BYTES", draw.choice((1, 40, 1000)))
    shape = tuple(draw.choice((1, 2, 3, 5, 8)) for _ in range(draw.randrange(5)))
    array = np.random.default_rng(seed).integers(0, 2**15, shape, "u2")
    boxes = list(cut(draw, (0,) * len(shape), shape, 5))
    draw.shuffle(boxes)
    pieces = pieces_of(array, boxes, "uint16")

    raw = array.tobytes()
    start = draw.randrange(len(raw))
    stop = draw.randrange(start, len(raw) + 1)
    assert read(pieces, 0, len(raw)) == raw
    assert read(pieces, start, stop) == raw[start:stop]
    assert b"".join(map(bytes, pieces.blocks(0, len(raw)))) == raw


@pytest.mark.parametrize("seed", range(40))
def test_boxes_that_miss_or_repeat_something_do_not_fill(seed: int) -> None:
    draw = random.Random(seed)
    shape = (4, 6, 5)
    boxes = [*cut(draw, (0, 0, 0), shape, 4)]
    number = draw.randrange(len(boxes))
    (at, lengths) = boxes[number]
    axis = draw.randrange(3)
    longer = (at, (*lengths[:axis], lengths[axis] + draw.choice((-1, 1)), *lengths[axis + 1 :]))

    assert is_filled(shape, boxes)
    assert not is_filled(shape, boxes[:number] + boxes[number + 1 :])
    assert not is_filled(shape, [*boxes, boxes[number]])
    assert not is_filled(shape, [*boxes[:number], longer, *boxes[number + 1 :]])


def test_an_empty_tensor_has_no_pieces() -> None:
    assert is_filled((0, 3), [])
    assert not is_filled((2, 3), [])
    assert list(Pieces("w", "float32", (0, 3), []).blocks(0, 0)) == []


def test_many_pieces_are_checked_in_little_time() -> None:
    """One axis, and boxes of which no cut takes one off."""
    assert is_filled((50_000, 2), [((row, 0), (1, 2)) for row in range(50_000)])
    spiral: list[Box] = [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((2, 1), (1, 2)), ((1, 0), (2, 1)), ((1, 1), (1, 1))]
    assert sum(math.prod(shape) for _, shape in spiral) == 9
    assert not is_filled((3, 3), spiral), "no mesh of devices leaves such pieces"


def test_elements_of_less_than_a_byte_are_cut_at_bytes() -> None:
    array = np.arange(12, dtype="u1").reshape(2, 6)
    halves = [((0, 0), (2, 4)), ((0, 4), (2, 8))]
    parts = [
        Piece(cast(TensorReader, Memory(array[:, :2])), "", *halves[0]),
        Piece(cast(TensorReader, Memory(array[:, 2:])), "", *halves[1]),
    ]

    assert read(Pieces("w", "int4", (2, 12), parts), 0, 12) == array.tobytes()
    with pytest.raises(MalformedError, match="within a byte"):
        Pieces("w", "int4", (2, 12), [parts[0]._replace(shape=(2, 3)), parts[1]._replace(at=(0, 3), shape=(2, 9))])
