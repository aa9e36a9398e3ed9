"""Updates found in a tensor that was changed elsewhere: a low-rank product, or factors of rows or columns.

A guess only: what is stored is compared to the bit, and is stored as an update only where that is smaller. So sums may
be in any order here, and matrix products by BLAS. What it costs is bounded: two reads of the tensor, a decomposition of
160 x 160 elements, and, where these look low-rank, products with 72 vectors and with what was found, 430 operations an
element.

Sparse updates need no search: codec `difference` stores what differs, and where.

Source: N. Halko, P.-G. Martinsson, J. A. Tropp, "Finding structure with randomness" (2011), algorithms 4.1 and 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from thetastore.elements import numbers_of, significant_bits
from thetastore.updates.arithmetic import apply
from thetastore.updates.recipe import DTYPES, Recipe, work_dtype

if TYPE_CHECKING:
    from thetastore.digest import Buffer
    from thetastore.layout import Tensor
    from thetastore.updates.recipe import Array

LEAST_BYTES = 16 << 10
_SAMPLE = 160
_PROBES = 72
_MOST_RANK = 64
_ABOVE_NOISE = 2.0
"""Singular values of rounding errors stay below this many times their usual size."""
_LEAST_AGREEING = 0.5
"""Share of a sample that factors must give exactly."""


class Model(Protocol):
    """Tensors to compare."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All of them."""

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Return the bytes `[start, stop)` of a tensor in C order."""


class Search:
    """Looks for updates between two models. Memory: five times the largest tensor, in float32."""

    def __init__(self, base: Model, new: Model) -> None:
        self._base = base
        self._new = new
        self.found_count = 0
        """Tensors for which a recipe was found so far."""

    def recipe(self, name: str) -> Recipe | None:
        """Return how a tensor may have been made from the one of the same name; None where nothing is seen."""
        before, after = self._base.tensors.get(name), self._new.tensors.get(name)
        if before is None or after is None or (before.dtype, before.shape) != (after.dtype, after.shape):
            return None
        if after.dtype not in DTYPES or after.raw_bytes < LEAST_BYTES or len(after.shape) < 2:
            return None
        base = memoryview(self._base.read(name, 0, before.raw_bytes))
        new = memoryview(self._new.read(name, 0, after.raw_bytes))
        found = None if base == new else find(base, new, after.dtype, after.shape[0])
        self.found_count += found is not None
        return found


def find(base: memoryview, new: memoryview, dtype: str, rows: int) -> Recipe | None:
    """Return a recipe that makes `new` of `base`, or nearly; None where nothing is seen.

    Args:
        base: a matrix of `rows` rows, in C order.
        new: as many bytes.
        dtype: of both, of `DTYPES`.
        rows: its number of rows.
    """
    before, after = (numbers_of(raw, dtype).reshape(rows, -1) for raw in (base, new))
    if prod(before.shape) == 0 or not np.isfinite(after).all() or not np.isfinite(before).all():
        return None
    return _scaled(before, after, base, new, dtype) or _low_rank(before, after, dtype)


def _spread(length: int) -> Array:
    """Return up to `_SAMPLE` numbers below `length`, always the same ones, evenly spread but for chance."""
    if length <= _SAMPLE:
        return np.arange(length)
    return np.sort(np.random.default_rng(length).choice(length, _SAMPLE, replace=False))


def _low_rank(before: Array, after: Array, dtype: str) -> Recipe | None:
    rows, columns = before.shape
    most = min(_MOST_RANK, rows * columns // (8 * (rows + columns)))
    if most < 1:
        return None
    part = np.ix_(_spread(rows), _spread(columns))
    sampled = after[part].astype("f8") - before[part]
    noise = _noise(after[part], dtype)
    values = np.linalg.svd(sampled, compute_uv=False)
    if _rank(values, noise, sampled.shape) > min(most, max(1, min(sampled.shape) - 8)):
        return None
    change = (after - before).astype("f4") if dtype != "float64" else after - before
    probes = np.random.default_rng(columns).standard_normal((columns, min(_PROBES, rows, columns))).astype(change.dtype)
    span = np.linalg.qr(change @ probes)[0]
    small = span.T @ change
    left, values, right = np.linalg.svd(small, full_matrices=False)
    rank = _rank(values, noise, change.shape)
    if not 0 < rank <= most:
        return None
    roots = np.sqrt(values[:rank])
    work = work_dtype(dtype)
    thin, flat = ((span @ left[:, :rank]) * roots).astype(work), (roots[:, None] * right[:rank]).astype(work)
    if _unexplained(change, thin, flat) > 4 * noise**2 * change.size:
        return None
    return Recipe(columns, thin, flat)


def _unexplained(change: Array, thin: Array, flat: Array) -> float:
    """Return the sum of squares of what a product leaves of a change.

    Element by element, in float64: the difference of the two sums of squares is lost in their own rounding errors.
    """
    squares, wide = 0.0, flat.astype("f8")
    for start in range(0, len(change), _SAMPLE):
        rest = change[start : start + _SAMPLE] - thin[start : start + _SAMPLE].astype("f8") @ wide
        squares += float(np.vdot(rest, rest))
    return squares


def _noise(numbers: Array, dtype: str) -> float:
    """Return the usual size of what rounding to a type leaves of numbers."""
    exponents = np.frexp(numbers.astype("f8"))[1] - significant_bits(dtype)
    return float(np.sqrt(np.mean(np.ldexp(1.0, exponents) ** 2) / 12)) or float(np.finfo("f4").tiny)


def _rank(values: Array, noise: float, shape: tuple[int, ...]) -> int:
    """Return how many singular values stand out of those of a matrix of noise."""
    return int(np.count_nonzero(values > _ABOVE_NOISE * noise * (np.sqrt(shape[0]) + np.sqrt(shape[1]))))


def _scaled(before: Array, after: Array, base: memoryview, new: memoryview, dtype: str) -> Recipe | None:
    """Return factors of rows or columns, where these give a good part of a sample exactly."""
    for of_columns in (False, True):
        own, made = (before.T, after.T) if of_columns else (before, after)
        sample = _spread(own.shape[0])
        if _agreeing(own[sample], made[sample], _factors(own[sample], made[sample], dtype), dtype) < _LEAST_AGREEING:
            continue
        factors = _factors(own, made, dtype)
        if np.all(factors == 1):
            return None
        columns = before.shape[1]
        recipe = Recipe(columns, **{"column_factors" if of_columns else "row_factors": factors})  # type: ignore[arg-type]
        window = recipe.window(0, before.size)
        assert window is not None, "all of it"
        out = memoryview(bytearray(base.nbytes))
        apply(window, base, dtype, out)
        width = base.nbytes // before.size
        same = np.frombuffer(out, f"u{width}") == np.frombuffer(new, f"u{width}")
        return recipe if np.mean(same) >= _LEAST_AGREEING else None
    return None


def _factors(before: Array, after: Array, dtype: str) -> Array:
    """Return what each row is multiplied by, from its largest elements; a neighbour, if that gives more exactly."""
    count = min(16, before.shape[1])
    largest = np.argpartition(-np.abs(before), count - 1, axis=1)[:, :count]
    own, made = np.take_along_axis(before, largest, 1), np.take_along_axis(after, largest, 1)
    work = work_dtype(dtype)
    with np.errstate(all="ignore"):
        ratios = np.where(own == 0, 1.0, made.astype("f8") / own)
    middle = np.median(ratios, axis=1).astype(work)
    tried = [middle]
    for away in (np.inf, -np.inf):
        one = middle
        for _ in range(2):
            one = np.nextafter(one, np.array(away, work), dtype=work)
            tried.append(one)
    scores = np.stack([_exact(own, made, factors, dtype).sum(axis=1) for factors in tried])
    chosen: Array = np.stack(tried)[np.argmax(scores, axis=0), np.arange(len(middle))]
    chosen[~np.isfinite(chosen)] = 1
    return chosen


def _exact(before: Array, after: Array, factors: Array, dtype: str) -> Array:
    from thetastore.updates.arithmetic import rounded

    with np.errstate(all="ignore"):
        made = before.astype(work_dtype(dtype)) * factors[:, None]
    same: Array = numbers_of(rounded(made, dtype), dtype).reshape(made.shape) == after
    return same


def _agreeing(before: Array, after: Array, factors: Array, dtype: str) -> float:
    return float(np.mean(_exact(before, after, factors, dtype)))
