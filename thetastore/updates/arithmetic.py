"""Updates applied: the same bytes on every machine.

Numbers are taken to float32 (of float64 elements: stay float64). The product is summed over the rank in its order, as
`sum = round(left * right + sum)`: one rounding a step, as a fused multiply-add does it. So do the matrix products of
BLAS libraries for the small inner dimensions of adapters, and what comes out is bit for bit what PyTorch merges, as a
rule; nothing depends on it, though. In float32 a step is computed in float64, where the product is exact, and rounded
to float32; that is a fused multiply-add but for one case in 2^29, and `docs/format/updates.md` defines it so. In
float64 product and sum are rounded one by one.

Where a result is no number, the element is the quiet NaN without sign or payload: processors differ in theirs.

Blocks stay in the cache: 0.27 ms for each step of 256 Ki float32 elements, 0.5 without them (AMD EPYC, shared).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thetastore.dtypes import DTYPES
from thetastore.elements import numbers_of
from thetastore.updates.recipe import Window, work_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from thetastore.updates.recipe import Array, Recipe

_TARGETS = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
_NANS = {"float16": 0x7E00, "bfloat16": 0x7FC0, "float32": 0x7FC00000, "float64": 0x7FF8000000000000}
_BLOCK_ELEMENTS = 32 << 10


def apply(window: Window, base: memoryview, dtype: str, out: memoryview) -> None:
    """Fill `out` with what a window makes of its base. Thread-safe; memory: some blocks of 256 KiB.

    Args:
        window: rows x columns elements.
        base: their bytes in C order.
        dtype: their type, of `recipe.DTYPES`.
        out: as many bytes as `base` has; may be its memory.
    """
    for start, stop, _, numbers in _blocks(window, base, dtype):
        out[start:stop] = rounded(numbers, dtype)


def row_norms(recipe: Recipe, pieces: Iterable[memoryview], dtype: str, of_columns: bool = False) -> Array:
    """Return the Euclidean norm of each row, or column, of what a recipe makes, before it is rounded; in `work_dtype`.

    Sums are in float64, and not in the same order everywhere: what comes of them has to be stored.

    Args:
        recipe: of a whole tensor.
        pieces: the tensor, some whole rows at a time.
        dtype: its element type.
        of_columns: of columns, not rows.
    """
    norms: list[Array] = []
    sums = np.zeros(recipe.columns)
    at = 0
    for piece in pieces:
        count = piece.nbytes // (DTYPES[dtype].bits // 8)
        window = recipe.window(at, count)
        assert window is not None, "whole rows"
        of_rows = np.zeros(window.rows)
        for _, _, (rows, columns), numbers in _blocks(window, piece, dtype):
            squares = np.square(numbers, dtype="f8")
            of_rows[rows] += squares.sum(axis=1)
            sums[columns] += squares.sum(axis=0)
        norms.append(of_rows)
        at += count
    total = sums if of_columns else np.concatenate(norms)
    roots: Array = np.sqrt(total).astype(work_dtype(dtype))
    return roots


def _blocks(window: Window, base: memoryview, dtype: str) -> Iterator[tuple[int, int, tuple[slice, slice], Array]]:
    """Yield what a window makes of its base, block by block: its first and last byte, its place, its numbers."""
    width = base.nbytes // (window.rows * window.columns)
    block_columns = min(window.columns, _BLOCK_ELEMENTS)
    block_rows = max(1, _BLOCK_ELEMENTS // window.columns)
    with np.errstate(all="ignore"):
        wide = None if window.right is None else window.right.astype("f8")  # a NaN may warn here
        left = None if window.left is None else window.left.astype("f8")
        for row in range(0, window.rows, block_rows):
            rows = slice(row, min(row + block_rows, window.rows))
            for column in range(0, window.columns, block_columns):
                columns = slice(column, min(column + block_columns, window.columns))
                start = (row * window.columns + column) * width
                stop = start + (rows.stop - row) * (columns.stop - column) * width
                numbers = numbers_of(base[start:stop], dtype).reshape(rows.stop - row, columns.stop - column)
                if left is not None and wide is not None and left.shape[1]:
                    numbers = numbers + _product(left[rows], wide[:, columns], window, dtype)
                if window.row_factors is not None:
                    numbers = numbers * window.row_factors[rows, None]
                if window.column_factors is not None:
                    numbers = numbers * window.column_factors[columns]
                yield start, stop, (rows, columns), numbers


def _product(left: Array, right: Array, window: Window, dtype: str) -> Array:
    """Return the scaled product of float64 factors, in `work_dtype`."""
    total = np.empty((left.shape[0], right.shape[1]), work_dtype(dtype))
    step = np.empty(total.shape)
    np.multiply(left[:, 0, None], right[0], out=total, casting="same_kind")
    total += 0.0  # the sum that it is added to is zero: none stays negative
    for number in range(1, left.shape[1]):
        np.multiply(left[:, number, None], right[number], out=step)
        np.add(step, total, out=step)
        total[...] = step
    total *= total.dtype.type(window.scale)
    if window.rounds_product:
        return numbers_of(rounded(total, dtype), dtype).reshape(total.shape)
    return total


def rounded(numbers: Array, dtype: str) -> memoryview:
    """Return the bytes of numbers, each rounded to the nearest value of a type, ties to even; NaNs are all alike."""
    if dtype == "bfloat16":
        bits: Array = np.ascontiguousarray(numbers, "<f4").view("<u4").ravel()
        halves: Array = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")
        result = halves
    else:
        result = np.array(numbers, _TARGETS[dtype]).ravel().view(f"<u{int(_TARGETS[dtype][-1])}")
    wrong = np.isnan(numbers)
    if wrong.any():
        result[wrong.ravel()] = _NANS[dtype]
    raw: memoryview = result.view("u1").data
    return raw
