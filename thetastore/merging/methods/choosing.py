"""Methods that copy one side, bytes and dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thetastore.merging import BASE, Inputs, Method, Parameter

if TYPE_CHECKING:
    from thetastore.merging import Array


def _scaled(inputs: Inputs) -> Array:
    side = inputs.sides[0]
    scaled: Array = side * side.dtype.type(inputs.values["scale"])
    return scaled


METHODS = (
    Method("ours", None, copies=lambda _: 0),
    Method("theirs", None, least_sides=2, copies=lambda _: 1),
    Method("base", None, needs_base=True, copies=lambda _: BASE),
    Method(
        "passthrough",
        _scaled,
        (Parameter("scale", None),),
        is_elementwise=True,
        copies=lambda values: 0 if values["scale"] is None else None,
    ),
)
