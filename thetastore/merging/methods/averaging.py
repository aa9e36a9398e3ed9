"""Weighted means.

Source: Wortsman et al., Model soups (arXiv 2203.05482); Matena and Raffel, Merging Models with Fisher-Weighted
Averaging (arXiv 2111.09832), equation 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thetastore.merging import Inputs, MergeError, Method, Parameter

if TYPE_CHECKING:
    from thetastore.merging import Array

_LEAST_IMPORTANCE = 1e-6
"""As in the authors' code: where no side says that an element counts, the mean of all is taken."""


def _linear(inputs: Inputs) -> Array:
    weights = inputs.values["weight"]
    total = sum(weights)
    if inputs.values["normalize"] and total == 0:
        raise MergeError("the weights add up to 0, so that nothing can be divided by them")
    number = inputs.sides[0].dtype.type
    mixed = inputs.sides[0] * number(weights[0])
    for side, weight in zip(inputs.sides[1:], weights[1:], strict=True):
        mixed += side if weight == 1 else side * number(weight)
    if inputs.values["normalize"] and total != 1:
        mixed /= number(total)
    result: Array = mixed
    return result


def _average(inputs: Inputs) -> Array:
    return _linear(inputs._replace(values={**inputs.values, "normalize": True}))


def _fisher(inputs: Inputs) -> Array:
    import numpy as np

    number = inputs.sides[0].dtype.type
    total = mixed = None
    for side, importance, weight in zip(inputs.sides, inputs.importances, inputs.values["weight"], strict=True):
        if importance.size and importance.min() < 0:
            raise MergeError("an importance is negative")
        scale = np.maximum(importance, number(_LEAST_IMPORTANCE)) * number(weight)
        mixed = side * scale if mixed is None else mixed + side * scale
        total = scale if total is None else total + scale
    assert mixed is not None
    assert total is not None
    result: Array = mixed / total
    return result


_WEIGHT = Parameter("weight", 1.0, per_side=True)

METHODS = (
    Method("average", _average, (_WEIGHT,), is_elementwise=True),
    Method("linear", _linear, (_WEIGHT, Parameter("normalize", True)), is_elementwise=True),
    Method(
        "fisher",
        _fisher,
        (Parameter("weight", 1.0, per_side=True, least=1e-12), Parameter("fisher", "", per_side=True)),
        is_elementwise=True,
        needs_importances=True,
    ),
)
