"""The figures that every changed tensor gets: how many elements, how far, in which direction.

Norms are kept as norms and merged by `hypot`, so that values of 1e200 and of 1e-200 have one too. Values that are not
finite are counted and take no part in sums: one NaN does not hide what else changed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from thetastore.elements import components, is_floating, significant_bits, smallest_step
from thetastore.statistics import Pair

if TYPE_CHECKING:
    import numpy

    from thetastore.elements import Floats

_TINY_NORM, _HUGE_NORM = 1e-140, 1e150
"""Outside of these a sum of squares lost digits."""


class Moments:
    """Counts, norms and the inner product of the change with what was there."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.read_elements = 0
        """Elements that were compared; the others are known to be equal."""
        self.changed_elements = 0
        self.before_norm = 0.0
        self.after_norm = 0.0
        self.change_norm = 0.0
        self.change_dot_before = 0.0
        self.largest = 0.0
        self.beyond_rounding = 0
        """Of a tensor that was recast: elements that no rounding to the new type explains."""
        self.nan_before = self.nan_after = self.inf_before = self.inf_after = 0
        self._parts = components(pair.after.dtype)
        self._may_be_rounded = pair.is_recast and is_floating(pair.after.dtype)

    def feed(self, before: Floats, after: Floats, change: Floats, changed_elements: int) -> None:
        """Take in a run of both sides; what is not finite on either is set to 0 in all three arrays."""
        import numpy

        self.read_elements += before.size // self._parts
        self.changed_elements += changed_elements
        with numpy.errstate(over="ignore", invalid="ignore"):
            numpy.subtract(after, before, out=change)
            change_norm = math.sqrt(numpy.dot(change, change))
        if not math.isfinite(change_norm):
            self._set_aside(before, after, change)
        self.before_norm = math.hypot(self.before_norm, norm_of(before))
        self.after_norm = math.hypot(self.after_norm, norm_of(after))
        if changed_elements:
            self._feed_change(before, change)

    def _feed_change(self, before: Floats, change: Floats) -> None:
        import numpy

        self.change_norm = math.hypot(self.change_norm, norm_of(change))
        with numpy.errstate(over="ignore", invalid="ignore"):
            self.change_dot_before += float(numpy.dot(change, before))
        if self._parts == 2:
            largest = float(numpy.abs(change.view("c16")).max())
        else:
            largest = max(float(change.max()), -float(change.min()))
        self.largest = max(self.largest, largest)
        if self._may_be_rounded:
            dtype = self.pair.after.dtype
            allowed = numpy.abs(before) * 2.0 ** -significant_bits(dtype) + smallest_step(dtype) / 2
            self.beyond_rounding += int(numpy.count_nonzero(numpy.abs(change) > allowed))

    def _set_aside(self, before: Floats, after: Floats, change: Floats) -> None:
        """Count what is not finite, and take it out."""
        import numpy

        out = ~(numpy.isfinite(before) & numpy.isfinite(after))
        if self._parts == 2:
            pairs = out.reshape(-1, 2)
            pairs |= pairs[:, ::-1]
        self.nan_before += self._elements(numpy.isnan(before))
        self.nan_after += self._elements(numpy.isnan(after))
        self.inf_before += self._elements(numpy.isinf(before))
        self.inf_after += self._elements(numpy.isinf(after))
        before[out] = after[out] = 0
        # A difference of two finite numbers may be beyond float64: half of each is not.
        with numpy.errstate(over="ignore"):
            numpy.subtract(after, before, out=change)
        numpy.clip(change, -_LARGEST, _LARGEST, out=change)

    def _elements(self, flags: numpy.ndarray[Any, Any]) -> int:
        import numpy

        return int(numpy.count_nonzero(flags.reshape(-1, 2).any(axis=1) if self._parts == 2 else flags))

    def merge(self, other: Moments) -> None:
        """Take in what another was fed."""
        self.read_elements += other.read_elements
        self.changed_elements += other.changed_elements
        self.before_norm = math.hypot(self.before_norm, other.before_norm)
        self.after_norm = math.hypot(self.after_norm, other.after_norm)
        self.change_norm = math.hypot(self.change_norm, other.change_norm)
        self.change_dot_before += other.change_dot_before
        self.largest = max(self.largest, other.largest)
        self.beyond_rounding += other.beyond_rounding
        self.nan_before += other.nan_before
        self.nan_after += other.nan_after
        self.inf_before += other.inf_before
        self.inf_after += other.inf_after

    @property
    def has_read_all(self) -> bool:
        """Every element was compared, so that norms are those of the whole tensors."""
        return self.read_elements == self.pair.after.element_count

    @property
    def relative(self) -> float | None:
        """Norm of the change over that of what was read before; None where that is 0.

        Where not all was read, the tensor's own figure is at most this.
        """
        if not self.change_norm:
            return 0.0
        if not self.before_norm:
            return None
        ratio = self.change_norm / self.before_norm
        return ratio if math.isfinite(ratio) else None

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between before and after; None where one of them is 0.

        Where not all was read it is a bound that the tensor's own figure is not below, or None if there is none.
        """
        if not self.has_read_all:
            ratio = self.relative
            return None if ratio is None or ratio >= 1 else math.sqrt((1 - ratio) * (1 + ratio))
        if not self.before_norm or not self.after_norm:
            return None
        if not self.change_norm:
            return 1.0
        # <before, after> = |before|^2 + <before, change>, all divided by |before| |after|.
        along = self.change_dot_before / self.before_norm
        cosine = (self.before_norm + along) / self.after_norm
        return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None

    @property
    def factor(self) -> float | None:
        """The number that `before` times is nearest to `after`; None where that is not known."""
        if not self.has_read_all or not self.before_norm:
            return None
        factor = 1 + self.change_dot_before / self.before_norm / self.before_norm
        return factor if math.isfinite(factor) else None

    @property
    def off_factor(self) -> float:
        """Norm of what is left of the change when that factor is taken out, over the norm of the change."""
        if not self.change_norm or not self.before_norm:
            return 1.0
        along = self.change_dot_before / self.before_norm / self.change_norm
        return math.sqrt(max(0.0, (1 - along) * (1 + along)))

    @property
    def rounding_norm(self) -> float:
        """Norm to expect of the rounding of `after` to its type: uniform errors, significands spread as by Benford."""
        bits = significant_bits(self.pair.after.dtype)
        return math.sqrt(0.18) * 2.0**-bits * math.hypot(self.after_norm, 2 * self.change_norm)


_LARGEST = 1.7e308


def norm_of(values: Floats) -> float:
    """Return the Euclidean norm, of very large and very small values too."""
    import numpy

    with numpy.errstate(over="ignore", under="ignore"):
        norm = math.sqrt(numpy.dot(values, values))
        if _TINY_NORM < norm < _HUGE_NORM or not values.size:
            return norm
        scale = float(numpy.abs(values).max())
        if not scale or not math.isfinite(scale):
            return scale
        scaled = values / scale
        return scale * math.sqrt(numpy.dot(scaled, scaled))
