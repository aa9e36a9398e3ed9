"""The cases in which our methods are held against mergekit's: shared by the tests and by what makes the golden file."""

from __future__ import annotations

from typing import Any, NamedTuple

NAME, SEED = "model.layers.0.mlp.up_proj.weight", 7
"""What chance depends on, in cases with masks by chance."""


class Case(NamedTuple):
    """One call of one method."""

    name: str
    method: str
    sides: str
    """Letters of the sides, in order; the base goes first where `has_base`."""
    ours: dict[str, Any]
    """Parameters as our method takes them."""
    mergekit: dict[str, Any]
    """The same, where mergekit takes them otherwise."""
    has_base: bool = True


def _case(method: str, sides: str = "ab", has_base: bool = True, mergekit: Any = None, **ours: Any) -> Case:
    spelled = ",".join(f"{name}={value}".replace(" ", "") for name, value in ours.items())
    return Case(f"{method}:{sides}:{spelled}", method, sides, ours, {**ours, **(mergekit or {})}, has_base)


def _w(*weights: float) -> dict[str, Any]:
    return {"weight": list(weights)}


CASES = [
    _case("linear", has_base=False, **_w(1.0, 1.0)),
    _case("linear", "abc", has_base=False, **_w(0.5, 0.3, 0.9)),
    _case("linear", has_base=False, normalize=False, **_w(0.7, -0.2)),
    *(_case("slerp", t=t, has_base=False) for t in (0.0, 0.3, 0.5, 1.0)),
    _case("slerp", "ad", t=0.3, has_base=False),  # d is nearly parallel to a
    _case("nuslerp", has_base=False, **_w(1.0, 2.0)),
    _case("nuslerp", has_base=False, nuslerp_flatten=False, **_w(1.0, 2.0)),
    _case("nuslerp", has_base=False, nuslerp_flatten=False, nuslerp_row_wise=True, **_w(1.0, 2.0)),
    _case("nuslerp", nuslerp_flatten=True, from_base=True, **_w(1.0, 1.0)),
    _case("task_arithmetic", **_w(1.0, 1.0)),
    _case("task_arithmetic", "abc", normalize=True, **{"lambda": 0.7}, **_w(0.4, 0.3, 0.9)),
    *(_case("ties", "abc", density=density, **_w(1.0, 0.5, 0.7)) for density in (1.0, 0.5, 0.13)),
    _case("ties", density=0.5, normalize=False, **_w(1.0, 1.0)),
    _case("ties", density=0.5, rescale=True, **_w(1.0, 1.0)),
    _case("dare_linear", "abc", density=0.4, **_w(0.5, 0.5, 0.5)),
    _case("dare_linear", density=0.4, rescale=False, **_w(1.0, 1.0)),
    _case("dare_ties", "abc", density=0.4, **_w(0.5, 0.5, 0.5)),
    _case("della", "abc", density=0.5, epsilon=0.2, **_w(0.5, 0.6, 0.7)),
    _case("della_linear", density=0.6, epsilon=0.15, **_w(1.0, 1.0)),
    _case("breadcrumbs", density=0.8, gamma=0.05, **_w(1.0, 1.0)),
    _case("breadcrumbs", density=0.99, gamma=0.1, **_w(1.0, 0.5)),
    _case("breadcrumbs_ties", "abc", density=0.7, gamma=0.05, **_w(1.0, 0.5, 0.5)),
    _case("model_stock", "ab"),
    _case("model_stock", "abc"),
    _case("model_stock", "abc", filter_wise=True),
    _case("sce", "abc"),
    _case("sce", "abc", select_topk=0.3),
    _case("passthrough", "a", has_base=False, scale=0.5, mergekit={"scale": [0.5]}),
]
