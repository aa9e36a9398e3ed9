"""The contract of `thetastore.statistics.Metric` as tests.

class TestMyMetric(MetricConformance):
    make = staticmethod(my_metric)              # (pair) -> Metric or None
    dtypes = ("float32", "int8")                # those that it has something to say of
"""

from __future__ import annotations

import itertools
import json
import math
from typing import Any, ClassVar

import numpy
import pytest

from thetastore.statistics import MakeMetric, Metric, Pair, Piece, TensorKind

_SHAPE = (24, 18)
_COUNT = 24 * 18
_CUTS = ([0, _COUNT], [0, 1, 5, 100, 101, _COUNT], [0, 18, 180, _COUNT], list(range(0, _COUNT + 1, 48)))


class MetricConformance:
    """What every metric does. Subclass it, and name what makes the metric."""

    make: ClassVar[MakeMetric]
    """As the entry point leads to it."""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    """Element types of pairs that the metric is made for."""

    @pytest.fixture(params=_CUTS, ids=str)
    def cuts(self, request: pytest.FixtureRequest) -> list[int]:
        """Return where the tensors are cut into pieces."""
        cuts: list[int] = request.param
        return cuts

    def test_figures_do_not_depend_on_how_tensors_are_cut_nor_on_who_was_fed_what(self, cuts: list[int]) -> None:
        for dtype in self.dtypes:
            parts = [_fed(self._made(dtype), [cut]) for cut in itertools.pairwise(cuts)]
            merged = parts[-1]
            for part in parts[-2::-1]:
                merged.merge(part)

            whole = _fed(self._made(dtype), [(0, _COUNT)])
            assert _is_close(dict(merged.result()), dict(whole.result()))

    def test_pieces_are_not_changed_and_not_kept(self) -> None:
        for dtype in self.dtypes:
            metric = self._made(dtype)
            piece = _piece(0, _COUNT)
            before = [array.copy() for array in piece[1:5]]
            metric.feed(piece)

            assert all((was == now).all() for was, now in zip(before, piece[1:5], strict=True))
            for array in piece[1:4]:
                array[:] = math.nan  # the memory is used again for the next piece
            assert _is_close(dict(metric.result()), dict(_fed(self._made(dtype), [(0, _COUNT)]).result()))

    def test_figures_are_json(self) -> None:
        for dtype in self.dtypes:
            figures = dict(_fed(self._made(dtype), [(0, _COUNT)]).result())

            assert json.loads(json.dumps(figures, allow_nan=False)) == figures

    def test_what_was_fed_nothing_has_figures_too(self) -> None:
        for dtype in self.dtypes:
            json.dumps(dict(self._made(dtype).result()), allow_nan=False)

    def test_no_pair_of_tensors_is_a_reason_to_fail(self) -> None:
        for shape in ((), (0,), (7,), (1, 1), (2, 3, 4, 5), (0, 4)):
            for dtype in ("float64", "float8_e5m2", "int64", "bool", "complex64"):
                kind = TensorKind(dtype, shape)
                metric = type(self).make(Pair(kind, kind))

                assert metric is None or dict(metric.result()) is not None

    def _made(self, dtype: str) -> Metric:
        kind = TensorKind(dtype, _SHAPE)
        metric = type(self).make(Pair(kind, kind))
        assert metric is not None, f"the metric says nothing of {dtype}, although `dtypes` lists it"
        return metric


def _piece(start: int, stop: int) -> Piece:
    random = numpy.random.default_rng(5)
    before, after = random.standard_normal(_COUNT), random.standard_normal(_COUNT)
    after[::3] = before[::3]
    before, after = before[start:stop].copy(), after[start:stop].copy()
    is_changed = before != after
    return Piece(start, before, after, after - before, is_changed, int(numpy.count_nonzero(is_changed)))


def _fed(metric: Metric, cuts: list[tuple[int, int]]) -> Metric:
    for start, stop in cuts:
        metric.feed(_piece(start, stop))
    return metric


def _is_close(one: Any, other: Any) -> bool:
    """Compare figures; the order of additions may cost the last digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
    return bool(one == other)
