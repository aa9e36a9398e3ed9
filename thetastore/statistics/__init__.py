"""Figures about what changed between two tensors, computed piece by piece and merged.

A metric is made for one pair of tensors and fed with pieces of both as float64, in any order and by several threads,
each with metrics of its own, which are merged at the end. So the memory is that of a piece (and of what the metric
keeps), and what is equal on both sides need not be read: it is not fed.

Other packages add metrics by the entry-point group `thetastore.metrics`: the name of the entry point is that of the
metric, and it leads to a function `(pair: Pair) -> Metric | None`, None for pairs that the metric says nothing of. What
a metric raises is its own failure and is reported as such; the figures of the others stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from thetastore.elements import components
from thetastore.plugins import METRICS, load

if TYPE_CHECKING:
    import numpy

    from thetastore.elements import Floats


class TensorKind(NamedTuple):
    """What a tensor is, apart from its values."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def element_count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Pair(NamedTuple):
    """Two tensors with as many elements, both of types with values."""

    before: TensorKind
    after: TensorKind

    @property
    def is_recast(self) -> bool:
        """The element types differ."""
        return self.before.dtype != self.after.dtype

    @property
    def row_numbers(self) -> int:
        """Numbers in one index of the first axis: a row, as pieces count them; 0 where there are no rows."""
        if not self.after.shape or not self.after.shape[0]:
            return 0
        return math.prod(self.after.shape[1:]) * components(self.after.dtype)


class Piece(NamedTuple):
    """A run of both tensors, in C order, as float64; complex numbers take two places. Valid while it is fed."""

    start: int
    """Place of the first number in the tensor."""
    before: Floats
    after: Floats
    """Where an element is not finite on either side, `before`, `after` and `change` are all 0."""
    change: Floats
    """`after - before`."""
    is_changed: numpy.ndarray[Any, numpy.dtype[numpy.bool_]]
    """Which elements (a complex number is one) differ: in their bits, or, between two types, in their value."""
    changed_count: int
    """How many of them."""


class Metric(Protocol):
    """Figures of one pair of tensors."""

    def feed(self, piece: Piece) -> None:
        """Take in a piece; each number of the tensors is fed once, or not at all where both are equal."""

    def merge(self, other: Any) -> None:
        """Take in what another metric of the same pair was fed."""

    def result(self) -> Mapping[str, Any]:
        """Return the figures: numbers, text, lists and mappings as JSON has them."""


MakeMetric = Callable[[Pair], Metric | None]


def metric_named(name: str) -> MakeMetric:
    """Return a metric by name: a built-in one, or another package's.

    Raises:
        UnsupportedError: there is none; the message lists what there is.
    """
    from thetastore.statistics.histogram import Histogram
    from thetastore.statistics.spectrum import Sketch, Spectrum

    built_in: dict[str, MakeMetric] = {
        "histogram": Histogram.of,
        "sketch": Sketch.of,
        "spectrum": Spectrum.of,
    }
    if name in built_in:
        return built_in[name]
    found: MakeMetric = load(METRICS, name, tuple(built_in))
    return found
