"""Sums of differences from a base: made sparse, filtered by the sign that most agree on, scaled, added again.

Source: task arithmetic (arXiv 2212.04089), TIES (2306.01708), DARE (2311.03099), Breadcrumbs (2312.06795), DELLA
(2406.11617). Which step belongs to which name, and the names of the parameters, are mergekit's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from thetastore.merging import Inputs, Method, Parameter
from thetastore.merging.methods import sparsifying

if TYPE_CHECKING:
    from thetastore.merging import Array

_Mask = Callable[[Inputs, int, "Array", float], "Array"]
"""Inputs, number of the side, its difference, density: which elements are kept."""


def _by_size(inputs: Inputs, side: int, delta: Array, density: float) -> Array:
    return sparsifying.keep_largest(delta, density)


def _between(inputs: Inputs, side: int, delta: Array, density: float) -> Array:
    return sparsifying.keep_between(delta, density, inputs.values["gamma"][side])


def _by_chance(inputs: Inputs, side: int, delta: Array, density: float) -> Array:
    draws = sparsifying.chance(inputs.name, inputs.seed, side, delta.size)
    return sparsifying.keep_by_chance(density, draws).reshape(delta.shape)


def _by_rank_and_chance(inputs: Inputs, side: int, delta: Array, density: float) -> Array:
    draws = sparsifying.chance(inputs.name, inputs.seed, side, delta.size)
    return sparsifying.keep_by_rank_and_chance(delta, density, inputs.values["epsilon"][side], draws)


def _merge(inputs: Inputs, mask: _Mask | None, has_consensus: bool) -> Array:
    deltas = [_weighted_delta(inputs, side, mask) for side in range(len(inputs.sides))]
    weights = inputs.values["weight"]
    mixed = _consented(deltas, weights, inputs.values["normalize"]) if has_consensus else _summed(deltas)
    number = mixed.dtype.type
    if not has_consensus and inputs.values["normalize"] and abs(sum(weights)) >= 1e-8:
        mixed /= number(sum(weights))
    if inputs.values["lambda"] != 1:
        mixed *= number(inputs.values["lambda"])
    assert inputs.base is not None
    mixed += inputs.base
    return mixed


def _weighted_delta(inputs: Inputs, side: int, mask: _Mask | None) -> Array:
    assert inputs.base is not None
    delta: Array = inputs.sides[side] - inputs.base
    density = inputs.values["density"][side] if mask is not None else 1.0
    if mask is not None and density < 1:
        kept = delta * mask(inputs, side, delta, density) if density > 0 else delta * delta.dtype.type(0)
        delta = sparsifying.rescaled(delta, kept) if inputs.values["rescale"] else kept
    weight = inputs.values["weight"][side]
    if weight != 1:
        delta *= delta.dtype.type(weight)
    return delta


def _summed(deltas: list[Array]) -> Array:
    total = deltas[0]
    for delta in deltas[1:]:
        total += delta
    return total


def _consented(deltas: list[Array], weights: tuple[float, ...], normalize: bool) -> Array:
    """Add up what has the sign of the sum (a sum of 0 counts as positive), divided by the weights that took part."""
    import numpy as np

    number = deltas[0].dtype.type
    is_positive = sum(deltas[1:], deltas[0]) >= 0
    mixed = np.zeros_like(deltas[0])
    divisor = np.zeros_like(deltas[0])
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = np.where(is_positive, delta > 0, delta < 0)
        mixed += np.where(agrees, delta, number(0))
        divisor += agrees * number(weight)
    if normalize:
        divisor[divisor == 0] = 1
        mixed /= divisor
    return mixed


def _method(
    name: str,
    mask: _Mask | None,
    has_consensus: bool,
    normalize: bool = False,
    rescale: bool = False,
    more: tuple[Parameter, ...] = (),
) -> Method:
    parameters = (
        Parameter("weight", 1.0, per_side=True),
        Parameter("normalize", normalize),
        Parameter("lambda", 1.0),
        *(
            (Parameter("density", 1.0, per_side=True, least=0.0, most=1.0), Parameter("rescale", rescale))
            if mask
            else ()
        ),
        *more,
    )
    merge = partial(_merge, mask=mask, has_consensus=has_consensus)
    return Method(name, merge, parameters, needs_base=True, is_elementwise=mask is None)


_GAMMA = (Parameter("gamma", 0.01, per_side=True, least=0.0, most=1.0),)
_EPSILON = (Parameter("epsilon", 0.15, per_side=True, least=0.0, most=0.5),)

METHODS = (
    _method("task_arithmetic", None, False),
    _method("ties", _by_size, True, normalize=True),
    _method("dare_linear", _by_chance, False, rescale=True),
    _method("dare_ties", _by_chance, True, rescale=True),
    _method("della", _by_rank_and_chance, True, normalize=True, rescale=True, more=_EPSILON),
    _method("della_linear", _by_rank_and_chance, False, rescale=True, more=_EPSILON),
    _method("breadcrumbs", _between, False, more=_GAMMA),
    _method("breadcrumbs_ties", _between, True, more=_GAMMA),
)
