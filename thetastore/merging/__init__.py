"""Merge tensors of checkpoints: who changed what, what conflicts, and how numbers are mixed.

`three_way` decides by name and digest which tensors need no mixing. `methods` knows the ways to mix the rest, one
module a family; another package adds one by the entry point group `thetastore.merge_methods`, naming a `Method`
(`thetastore.testing.merge_methods` is its conformance suite). `docs/merge.md` is the specification.

A method is a pure function of numbers: it gets float64 arrays (float32 for tensors of 16 and 8 bits), and returns one
of the same shape and dtype. They have at least one axis: a tensor of none comes as one element. Reading, dtypes,
rounding, NaN and vocabularies are not its business (`mixing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from thetastore.errors import HintedError

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, numpy.dtype[Any]]

Value = float | bool | str | None
"""What a parameter may be. Of a parameter for each side: a tuple of them."""

BASE = -1
"""As the number of a side: the base."""


FROM_BASE = "from_base"
"""Name of the parameter by which a method that can do without a base asks for it."""


class MergeError(HintedError):
    """A merge cannot be done as it was asked for; nothing was written."""

    code = "merge"


class Parameter(NamedTuple):
    """A knob of a method."""

    name: str
    default: Value
    """Also says of which type it is: `float`, `bool`, `str`; None is an optional `float`."""
    per_side: bool = False
    """One value for each side; where one is given, it holds for all."""
    least: float = float("-inf")
    most: float = float("inf")


class Inputs(NamedTuple):
    """What a method mixes. The arrays are read-only for it, or it copies them first."""

    name: str
    """Of the tensor: with the seed, it is what chance depends on."""
    base: Array | None
    sides: tuple[Array, ...]
    """Of a merge in Git: ours, theirs."""
    values: Mapping[str, Any]
    """Each parameter of the method by name; of a `per_side` one a tuple."""
    seed: int = 0
    importances: tuple[Array, ...] = ()
    """For each side how much each of its elements counts; only for methods with `needs_importances`."""


class Method(NamedTuple):
    """A way to mix tensors."""

    name: str
    merge: Callable[[Inputs], Array] | None
    """Return the mixed array; None for a method that only ever copies."""
    parameters: tuple[Parameter, ...] = ()
    needs_base: bool = False
    """Without it, and without a true parameter `from_base`, the base is neither read nor given."""
    least_sides: int = 1
    most_sides: int | None = None
    is_elementwise: bool = False
    """Each element of the result depends only on the elements at its place: the method may be given parts."""
    copies: Callable[[Mapping[str, Any]], int | None] | None = None
    """Return the number of the side (or `BASE`) whose bytes are the result, whatever their dtype; None: `merge`."""
    needs_importances: bool = False
