"""Methods that look at how the differences lie to each other before they mix them.

Source: Model Stock (arXiv 2403.19522), equation 8; SCE of FuseChat (arXiv 2408.07990), section 3.3.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from thetastore.merging import Inputs, Method, Parameter

if TYPE_CHECKING:
    from thetastore.merging import Array

_TINY = 1e-6


def _model_stock(inputs: Inputs) -> Array:
    """Go from the base towards the mean of the sides, the further the smaller the angles between them."""
    import numpy as np

    assert inputs.base is not None
    base = inputs.base
    rows = (base.shape[0], -1) if inputs.values["filter_wise"] and base.ndim > 1 else (1, -1)
    deltas = [(side - base).reshape(rows) for side in inputs.sides]
    norms = [np.sqrt(np.einsum("ij,ij->i", delta, delta, dtype="f8")) for delta in deltas]
    cosines = [
        np.clip(np.einsum("ij,ij->i", deltas[a], deltas[b], dtype="f8") / np.maximum(norms[a] * norms[b], _TINY), -1, 1)
        for a, b in itertools.combinations(range(len(deltas)), 2)
    ]
    count = len(deltas)
    cosine = sum(cosines) / len(cosines)
    divisor = 1 + (count - 1) * cosine
    is_singular = np.abs(divisor) < _TINY
    share = np.where(is_singular, 0.0, count * cosine / np.where(is_singular, 1.0, divisor))
    share = share.astype(base.dtype)[:, None]
    mean = sum(inputs.sides[1:], inputs.sides[0]) / base.dtype.type(count)
    result: Array = (share * mean.reshape(rows) + (1 - share) * base.reshape(rows)).reshape(base.shape)
    return result


def _sce(inputs: Inputs) -> Array:
    """Select elements that differ most between sides, weigh sides by energy, erase what goes against the majority."""
    import numpy as np

    assert inputs.base is not None
    deltas = np.stack([side - inputs.base for side in inputs.sides])
    if inputs.values["select_topk"] < 1:
        deltas *= _most_varying(deltas, inputs.values["select_topk"])
    agrees = np.where(deltas.sum(axis=0) >= 0, deltas > 0, deltas < 0)
    flat = deltas.reshape(len(deltas), -1)
    energies = np.einsum("ij,ij->i", flat, flat, dtype="f8") / max(flat.shape[1], 1)
    total = energies.sum()
    shares = np.full(len(deltas), 1 / len(deltas)) if total < _TINY else energies / total
    weights = agrees * shares.astype(deltas.dtype).reshape((-1,) + (1,) * (deltas.ndim - 1))
    mixed = (deltas * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), deltas.dtype.type(_TINY))
    result: Array = inputs.base + mixed
    return result


def _most_varying(deltas: Array, share: float) -> Array:
    """Return a mask of the elements whose variance over the sides is largest; `share` of those that vary at all."""
    import numpy as np

    variance = deltas.var(axis=0)
    count = int(np.count_nonzero(variance) * share)
    mask = np.zeros(variance.size, bool)
    if count:
        mask[np.argsort(-variance.reshape(-1), kind="stable")[:count]] = True
    return mask.reshape(variance.shape)


METHODS = (
    Method("model_stock", _model_stock, (Parameter("filter_wise", False),), needs_base=True, least_sides=2),
    Method("sce", _sce, (Parameter("select_topk", 1.0, least=0.0, most=1.0),), needs_base=True),
)
