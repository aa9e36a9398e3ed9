"""Methods by name, built in or from other packages, and their parameters from text.

What a plug-in returns is checked (`mixing`), and what it raises becomes a `MergeError` that names it: it can spoil a
merge, never a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thetastore.errors import near_names
from thetastore.merging import MergeError, Method, Parameter
from thetastore.plugins import MERGE_METHODS

_FAMILIES = {
    # name: module of thetastore.merging.methods
    **dict.fromkeys(("ours", "theirs", "base", "passthrough"), "choosing"),
    **dict.fromkeys(("average", "linear", "fisher"), "averaging"),
    **dict.fromkeys(("slerp", "nuslerp"), "spherical"),
    **dict.fromkeys(
        (
            "task_arithmetic",
            "ties",
            "dare_linear",
            "dare_ties",
            "della",
            "della_linear",
            "breadcrumbs",
            "breadcrumbs_ties",
        ),
        "task_vectors",
    ),
    **dict.fromkeys(("model_stock", "sce"), "geometry"),
}
BUILT_IN = tuple(_FAMILIES)
"""Names of the methods that need no plug-in."""


def find_method(name: str) -> Method:
    """Return a method by its name; `-` counts as `_`.

    Raises:
        MergeError: there is none; the message lists those that there are.
    """
    wanted = name.replace("-", "_")
    family = _FAMILIES.get(wanted)
    if family is None:
        return _from_plugin(name)
    from importlib import import_module

    module = import_module(f"thetastore.merging.methods.{family}")
    methods: tuple[Method, ...] = module.METHODS
    return next(method for method in methods if method.name == wanted)


def method_names() -> list[str]:
    """Return the names of all methods, those of plug-ins last. Reads entry points: 40 ms."""
    from thetastore.plugins import offered

    return [*BUILT_IN, *(point.name for point in offered(MERGE_METHODS) if point.name not in _FAMILIES)]


def _from_plugin(name: str) -> Method:
    from thetastore.plugins import offered

    for point in offered(MERGE_METHODS):
        if point.name == name:
            return _checked(name, _loaded(point))
    names = method_names()
    near = near_names(name.replace("-", "_"), names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise MergeError(f"there is no merge method '{name:.60}'", f"{hint}known here: {', '.join(names)}")


def _loaded(point: Any) -> Any:
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise MergeError(
            f"the merge method '{point.name}' cannot be loaded from {point.value}: {type(error).__name__}: {error}"
        ) from error


def _checked(name: str, found: Any) -> Method:
    is_sound = (
        isinstance(found, Method)
        and (callable(found.merge) or callable(found.copies))
        and all(isinstance(parameter, Parameter) for parameter in found.parameters)
    )
    if not is_sound:
        raise MergeError(f"the plug-in '{name}' of {MERGE_METHODS} is not a thetastore.merging.Method")
    method: Method = found
    return method


def parameter_values(method: Method, given: Mapping[str, Any], side_count: int) -> dict[str, Any]:
    """Return a value for every parameter of a method: what is given, checked, else its default.

    Args:
        method: whose parameters.
        given: numbers, truth values, text; of a `per_side` parameter one, or a sequence with one for each side.
            The plural of a name is the name (`weights`).
        side_count: how many sides there are.

    Raises:
        MergeError: an unknown name, a wrong type or number of values, a value out of its bounds.
    """
    known = {parameter.name: parameter for parameter in method.parameters}
    values: dict[str, Any] = {}
    for name, value in given.items():
        key = name if name in known else name.removesuffix("s")
        if key not in known or key in values:
            what = "is given twice" if key in values else "is no parameter of it"
            names = ", ".join(known) or "none"
            raise MergeError(f"'{name}' {what}: method '{method.name}'", f"its parameters: {names}")
        values[key] = _value(method, known[key], value, side_count)
    for name, parameter in known.items():
        if name not in values:
            values[name] = (parameter.default,) * side_count if parameter.per_side else parameter.default
    return values


def _value(method: Method, parameter: Parameter, value: Any, side_count: int) -> Any:
    if not parameter.per_side:
        return _one(method, parameter, value)
    several = list(value) if isinstance(value, list | tuple) else [value]
    if isinstance(value, str) and "," in value:
        several = value.split(",")
    if len(several) == 1:
        several *= side_count
    if len(several) != side_count:
        raise MergeError(
            f"'{parameter.name}' of method '{method.name}' has {len(several)} values for {side_count} sides"
        )
    return tuple(_one(method, parameter, one) for one in several)


def _one(method: Method, parameter: Parameter, value: Any) -> Any:
    import math

    default = parameter.default
    if isinstance(default, str):
        return str(value)
    if isinstance(default, bool):
        word = str(value).lower()
        if word in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            return word in ("true", "yes", "on", "1")
        raise MergeError(f"'{parameter.name}' of method '{method.name}' is '{value}', expected true or false")
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not parameter.least <= number <= parameter.most or math.isinf(number):
        bounds = f" from {parameter.least:g} to {parameter.most:g}" if math.isfinite(parameter.most) else ""
        raise MergeError(f"'{parameter.name}' of method '{method.name}' is '{value}', expected a number{bounds}")
    return number
