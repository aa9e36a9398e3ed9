"""What the numbers of a tensor look like, in one pass over its bytes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from thetastore.dtypes import DTYPES
from thetastore.elements import components, has_values, is_floating, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thetastore.checkpoints.tensors import TensorReader
    from thetastore.elements import Floats
    from thetastore.manifest import Tensor

_BLOCK_BYTES = 4 << 20


class Summary(NamedTuple):
    """Figures of one tensor; a complex element counts as two numbers."""

    number_count: int
    nan_count: int
    infinite_count: int
    zero_count: int
    minimum: float
    """This and what follows: of the finite numbers, NaN where there are none."""
    maximum: float
    mean: float
    deviation: float
    """Standard deviation, of the whole population."""
    norm: float
    """Square root of the sum of squares."""


def summarise(reader: TensorReader, name: str) -> Summary | None:
    """Return figures of a tensor, or None where its type has no single numbers (block-quantised, 4 and 6 bits).

    Memory is a few megabytes. Raises as `TensorReader.read_range` does.
    """
    tensor = reader.tensor(name)
    if not has_values(tensor.dtype):
        return None
    running = _Running()
    for values in _blocks(reader, tensor):
        running.take(values)
    return running.summary()


def not_finite(reader: TensorReader, name: str) -> tuple[int, int]:
    """Return how many numbers of a tensor are NaN, and how many infinite; none where its type has no single numbers.

    Memory is a few megabytes. Raises as `TensorReader.read_range` does.
    """
    tensor = reader.tensor(name)
    nan_count = infinite_count = 0
    if is_floating(tensor.dtype):
        import numpy

        for values in _blocks(reader, tensor):
            if not numpy.isfinite(values).all():
                nan_count += int(numpy.isnan(values).sum())
                infinite_count += int(numpy.isinf(values).sum())
    return nan_count, infinite_count


def _blocks(reader: TensorReader, tensor: Tensor) -> Iterator[Floats]:
    """Yield the numbers of a tensor in order, a block at a time, each in the same buffer."""
    import numpy

    item_bytes = DTYPES[tensor.dtype].bits // 8
    step = _BLOCK_BYTES // item_bytes * item_bytes
    buffer = numpy.empty(min(step, tensor.raw_bytes) // item_bytes * components(tensor.dtype), "f8")
    for start in range(0, tensor.raw_bytes, step):
        stop = min(start + step, tensor.raw_bytes)
        values = buffer[: (stop - start) // item_bytes * components(tensor.dtype)]
        values_of(reader.read_range(tensor.name, start, stop), tensor.dtype, values)
        yield values


class _Running:
    """Figures of what was seen so far; means and squares are merged block by block, so that nothing cancels out."""

    def __init__(self) -> None:
        self._counts = (0, 0, 0, 0)
        self._finite_count = 0
        self._mean = self._squares = self._norm_squares = 0.0
        self._minimum, self._maximum = math.inf, -math.inf

    def take(self, values) -> None:  # type: ignore[no-untyped-def]  # an array of float64
        import numpy

        finite = values[numpy.isfinite(values)]
        nan_count = int(numpy.isnan(values).sum())
        infinite_count = len(values) - len(finite) - nan_count
        numbers, nans, infinite, zeros = self._counts
        zero_count = int((values == 0).sum())
        self._counts = (numbers + len(values), nans + nan_count, infinite + infinite_count, zeros + zero_count)
        if not len(finite):
            return
        with numpy.errstate(over="ignore"):
            mean = float(finite.mean())
            squares = float(numpy.square(finite - mean).sum())
            self._norm_squares += float(numpy.square(finite).sum())
        count, total = self._finite_count, self._finite_count + len(finite)
        away = mean - self._mean
        self._mean += away * len(finite) / total
        self._squares += squares + away * away * count * len(finite) / total
        self._finite_count = total
        self._minimum = min(self._minimum, float(finite.min()))
        self._maximum = max(self._maximum, float(finite.max()))

    def summary(self) -> Summary:
        if not self._finite_count:
            return Summary(*self._counts, math.nan, math.nan, math.nan, math.nan, math.nan)
        deviation = math.sqrt(self._squares / self._finite_count)
        return Summary(
            *self._counts, self._minimum, self._maximum, self._mean, deviation, math.sqrt(self._norm_squares)
        )
