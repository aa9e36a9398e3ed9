"""What a change looks like, in one word: the first of a list that its figures allow.

| word | the change |
| --- | --- |
| `same` | values are equal: only the type or the shape is another |
| `bits` | values are equal, bits are not: signs of zero, payloads of NaN |
| `not-finite` | nothing changed but to, or from, NaN or infinity |
| `rounded` | rounding to the new type, and nothing else |
| `sparse` | at most 5 % of the elements |
| `scaled` | one factor times what was there |
| `low-rank` | a matrix of low rank, up to rounding |
| `dense` | anything else |
"""

from __future__ import annotations

from typing import NamedTuple

from thetastore.elements import is_floating
from thetastore.statistics.moments import Moments
from thetastore.statistics.spectrum import Sketch

SPARSE_SHARE = 0.05
_OFF_FACTOR = 0.01
_LEAST_ELEMENTS = 16
"""Of fewer elements nothing can be said."""


class Looks(NamedTuple):
    """The word, and the number that goes with it."""

    word: str
    factor: float | None = None
    """Of `scaled`."""
    rank: int | None = None
    """Of `low-rank`."""
    energy: float | None = None
    """Of `low-rank`: share of the squared norm of the change that the rank holds."""


def looks_of(moments: Moments, sketch: Sketch | None) -> Looks:
    """Judge a change by its figures."""
    if not moments.changed_elements:
        return Looks("same")
    count = moments.pair.after.element_count
    is_sparse = count >= _LEAST_ELEMENTS and moments.changed_elements <= SPARSE_SHARE * count
    if not moments.change_norm and not is_floating(moments.pair.after.dtype):
        return Looks("sparse" if is_sparse else "dense")  # integers beyond 2^53: float64 does not tell them apart
    if not moments.change_norm:
        counts = (moments.nan_before, moments.inf_before), (moments.nan_after, moments.inf_after)
        return Looks("bits" if counts[0] == counts[1] else "not-finite")
    if moments.pair.is_recast and moments.beyond_rounding == 0:
        return Looks("rounded")
    if is_sparse:
        return Looks("sparse")
    if count >= _LEAST_ELEMENTS and _is_scaled(moments):
        return Looks("scaled", factor=moments.factor)
    found = sketch.rank(moments.rounding_norm) if sketch is not None else None
    return Looks("low-rank", rank=found[0], energy=found[1]) if found else Looks("dense")


def _is_scaled(moments: Moments) -> bool:
    if moments.factor is None:
        return False
    rounding = moments.rounding_norm / moments.change_norm
    return rounding < 0.2 and moments.off_factor < max(_OFF_FACTOR, 2 * rounding)
