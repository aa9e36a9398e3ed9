"""Interpolation along a great circle, between two sides.

Source: Shoemake, Animating Rotation with Quaternion Curves (1985). `nuslerp` is mergekit's name for the form that takes
weights, can work on differences from a base, and on each row or column apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thetastore.merging import Inputs, Method, Parameter

if TYPE_CHECKING:
    from thetastore.merging import Array

_NEARLY_PARALLEL = 0.9995
"""Beyond this cosine a straight line is as good, and an arc would divide by almost 0."""
_SMALL_NORM = 1e-8


def _dot(one: Array, other: Array) -> float:
    """Return the sum of products, in float64 piece by piece."""
    import numpy as np

    step = 1 << 16
    total = 0.0
    one, other = one.reshape(-1), other.reshape(-1)
    for at in range(0, one.size, step):
        total += float(np.dot(one[at : at + step].astype("f8"), other[at : at + step].astype("f8")))
    return total


def _slerp(inputs: Inputs) -> Array:
    import math

    ours, theirs = inputs.sides
    t = float(inputs.values["t"])
    norms = [math.sqrt(_dot(side, side)) for side in (ours, theirs)]
    scales = [norm if norm > _SMALL_NORM else 1.0 for norm in norms]
    cosine = min(1.0, max(-1.0, _dot(ours, theirs) / (scales[0] * scales[1])))
    first, second = 1 - t, t
    if abs(cosine) <= _NEARLY_PARALLEL:
        angle = math.acos(cosine)
        first, second = math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
    number = ours.dtype.type
    result: Array = ours * number(first) + theirs * number(second)
    return result


def _nuslerp(inputs: Inputs) -> Array:
    values = inputs.values
    weights = values["weight"]
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    ours, theirs = inputs.sides
    base = inputs.base if values["from_base"] else None
    if base is not None:
        ours, theirs = ours - base, theirs - base
    if values["nuslerp_flatten"] or ours.ndim == 0:
        mixed = _arcs(ours.reshape(1, -1), theirs.reshape(1, -1), t).reshape(ours.shape)
    elif values["nuslerp_row_wise"]:
        mixed = _arcs(ours.swapaxes(0, -1), theirs.swapaxes(0, -1), t).swapaxes(0, -1)
    else:
        mixed = _arcs(ours, theirs, t)
    result: Array = mixed if base is None else base + mixed
    return result


def _arcs(one: Array, other: Array, t: float) -> Array:
    """Interpolate each run along the last axis on its own; straight where the two are parallel."""
    import numpy as np

    wide = [
        np.einsum("...i,...i->...", a, b, dtype="f8")[..., None] for a, b in ((one, one), (other, other), (one, other))
    ]
    lengths = np.maximum(np.sqrt(wide[0]), 1e-7) * np.maximum(np.sqrt(wide[1]), 1e-7)
    cosine = np.clip(wide[2] / lengths, -1, 1)
    is_parallel = 1 - cosine**2 <= _SMALL_NORM**2
    angle = np.arccos(np.where(is_parallel, 0, cosine))
    sine = np.sin(angle)
    first = np.where(is_parallel, 1 - t, np.sin((1 - t) * angle) / sine).astype(one.dtype)
    second = np.where(is_parallel, t, np.sin(t * angle) / sine).astype(one.dtype)
    result: Array = one * first + other * second
    return result


METHODS = (
    Method("slerp", _slerp, (Parameter("t", 0.5, least=0.0, most=1.0),), least_sides=2, most_sides=2),
    Method(
        "nuslerp",
        _nuslerp,
        (
            Parameter("weight", 1.0, per_side=True),
            Parameter("nuslerp_flatten", True),
            Parameter("nuslerp_row_wise", False),
            Parameter("from_base", False),
        ),
        least_sides=2,
        most_sides=2,
    ),
)
