"""Which elements of a difference are kept: by size, by chance, or by both.

Ties between equal sizes go by place: of two elements the one further back counts as the larger. Chance is the output of
BLAKE3 for the tensor's name, the seed and the side's number (`chance`), the same on every machine and in every version.

Source: TIES (arXiv 2306.01708), DARE (2311.03099), Breadcrumbs (2312.06795), DELLA (2406.11617).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thetastore.merging import MergeError

if TYPE_CHECKING:
    from thetastore.merging import Array

_SCALE = 2.0**32
_NEARLY_NOTHING = 1e-7


def chance(name: str, seed: int, side: int, count: int) -> Array:
    """Return `count` uniform unsigned 32-bit integers."""
    import numpy as np
    from blake3 import blake3

    text = f"{seed}\n{side}\n{name}".encode()
    stream = blake3(text, derive_key_context="thetastore 2026-11 merge chance").digest(length=4 * count)
    draws: Array = np.frombuffer(stream, "<u4")
    return draws


def keep_by_chance(density: float, draws: Array) -> Array:
    """Return a mask that is true with probability `density`: where the draw is below it."""
    mask: Array = draws < density * _SCALE
    return mask


def keep_by_rank_and_chance(delta: Array, density: float, epsilon: float, draws: Array) -> Array:
    """Return DELLA's mask: rows of the last axis are ranked, and the probability rises with the rank."""
    import numpy as np

    if density + epsilon >= 1 or density - epsilon <= 0:
        raise MergeError(f"density {density} plus and minus epsilon {epsilon} is not between 0 and 1")
    rows = np.abs(delta).reshape(delta.shape[0] if delta.ndim > 1 else 1, -1)
    order = np.argsort(rows, axis=1, kind="stable")
    ranks = np.empty(rows.shape, "f8")
    np.put_along_axis(ranks, order, np.arange(rows.shape[1], dtype="f8")[None, :], axis=1)
    ranks /= max(rows.shape[1] - 1, 1)
    limits = (density - epsilon + 2 * epsilon * ranks) * _SCALE
    mask: Array = (draws.reshape(rows.shape) < limits).reshape(delta.shape)
    return mask


def keep_largest(delta: Array, density: float) -> Array:
    """Return a mask of the `density` of all elements with the largest sizes, at least one."""
    kept = max(1, int(density * delta.size)) if density > 0 else 0
    mask: Array = ~_is_smallest(delta, delta.size - kept)
    return mask


def keep_between(delta: Array, density: float, gamma: float) -> Array:
    """Return a mask without the `gamma` largest, of the `density` of all elements that are largest after these."""
    kept, top = int(density * delta.size), int(gamma * delta.size)
    bottom = max(0, delta.size - kept - top)
    mask: Array = _is_smallest(delta, bottom + kept) & ~_is_smallest(delta, bottom)
    return mask


def _is_smallest(delta: Array, count: int) -> Array:
    """Return a mask of the `count` elements with the smallest sizes; of equal ones the first."""
    import numpy as np

    sizes = np.abs(delta)
    if count <= 0 or count >= delta.size:
        return np.full(delta.shape, count > 0)
    flat = sizes.reshape(-1)
    limit = np.partition(flat, count - 1)[count - 1]
    mask = flat < limit
    at_limit = np.flatnonzero(flat == limit)
    mask[at_limit[: count - int(mask.sum())]] = True
    return np.asarray(mask.reshape(delta.shape))


def rescaled(delta: Array, kept: Array) -> Array:
    """Return the kept part, scaled so that the sum of sizes is what it was."""
    import numpy as np

    before = float(np.abs(delta).sum(dtype="f8"))
    after = float(np.abs(kept).sum(dtype="f8"))
    if before < _NEARLY_NOTHING or after < _NEARLY_NOTHING:
        return kept
    result: Array = kept * delta.dtype.type(before / after)
    return result
