"""What changed between two files' tensors: which, of what kind, and by how much.

Names, types, shapes and digests say which tensors changed, and nothing is read for that. For the figures only the parts
are read that differ: of two versions of one file, the chunks whose digests do. They are measured by several threads,
a chunk of both sides each, and merged in order, so that memory does not depend on the tensor, but for what a
metric keeps of it.

Types of equal width are compared by their bits, so that no change is overlooked; figures are of values as float64. What
has no values element by element (quantised blocks) is compared block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from thetastore.buffers import Buffers
from thetastore.chunking import MAX_GRID_CHUNK_BYTES
from thetastore.comparing.changes import Change
from thetastore.comparing.sides import Part, Side
from thetastore.dtypes import DTYPES
from thetastore.elements import bits_of, components, has_values, is_floating, values_of
from thetastore.pool import Pool
from thetastore.statistics import MakeMetric, Metric, Pair, Piece, TensorKind, metric_named
from thetastore.statistics.looks import Looks, looks_of
from thetastore.statistics.moments import Moments
from thetastore.statistics.rows import Rows
from thetastore.statistics.spectrum import Sketch, Spectrum

if TYPE_CHECKING:
    from thetastore.elements import Floats

_RANGE_BYTES = 1 << 20
"""Read and measured by one thread at once."""
_PIECE_NUMBERS = 1 << 17
"""Three arrays of float64 make 3 MB. CPU time of two files of 400 MB fp32: 1.7 s with 2^15 to 2^19, 2.0 s with 2^13."""
_SMALL_BYTES = 32 << 10
"""Shorter ranges are measured in the caller's thread."""
_FAILURES = (Exception, SystemExit)
"""What another package's metric may raise, without harm to the figures of others; `sys.exit` would end the command."""


class Measured(NamedTuple):
    """A change and its figures."""

    change: Change
    unit: str = "element"
    """What is counted: `element`, or `block` or `byte` where elements have no values of their own."""
    compared: int = 0
    """How many there are to compare; 0 where the two cannot be compared."""
    changed: int = 0
    read_bytes: int = 0
    """Raw bytes of both sides that were read."""
    moments: Moments | None = None
    """None where elements have no values."""
    rows: tuple[int, int] | None = None
    """Indices of the first axis that changed, and how many there are."""
    looks: Looks | None = None
    metrics: Mapping[str, Mapping[str, Any]] = {}
    """Further figures by the name of their metric; `{"error": ...}` where that failed."""


class Comparison:
    """Measures what changed between two sides. A context manager, as it has threads."""

    def __init__(self, before: Side, after: Side, metrics: Sequence[str] = (), read_all: bool = False) -> None:
        """Prepare to compare.

        Args:
            before: one side.
            after: the other.
            metrics: names of further metrics: see `statistics.metric_named`.
            read_all: read what is known to be equal too, so that norms and cosines are those of whole tensors.

        Raises:
            UnsupportedError: there is no such metric.
        """
        self._sides = before, after
        self._pool = Pool()
        self._read_all = read_all
        self._makers: dict[str, MakeMetric] = {"rows": Rows.of, "sketch": Sketch.of}
        self._makers |= {name: metric_named(name) for name in metrics}
        self._raw = Buffers(MAX_GRID_CHUNK_BYTES)
        self._floats: list[tuple[Floats, Floats, Floats]] = []

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def measure(self, changes: Iterable[Change]) -> Iterator[Measured]:
        """Yield the figures of changes, in their order.

        Raises:
            ObjectMissingError: a chunk is not in the store; names the tensor.
            ObjectCorruptError: a chunk is damaged.
        """
        part: _Part | None = None
        for task, done in self._pool.map_bounded(self._work, self._tasks(changes), _is_small):
            if part is not None and task.start == task.stop:
                yield part.measured()
            part = done if part is None or task.start == task.stop else part.merged(done)
        if part is not None:
            yield part.measured()

    def _tasks(self, changes: Iterable[Change]) -> Iterator[_Task]:
        """Yield an empty task for each change, then those that read what differs."""
        for change in changes:
            plan = _plan(change)
            yield _Task(plan, 0, 0)
            for start, stop in self._ranges(plan):
                step = max(_RANGE_BYTES // plan.unit_bytes, 1)
                for at in range(start, stop, step):
                    yield _Task(plan, at, min(at + step, stop))

    def _ranges(self, plan: _Plan) -> Iterator[tuple[int, int]]:
        """Yield the runs of units that may differ."""
        before, after = plan.change.before, plan.change.after
        if not plan.compared or before is None or after is None:
            return
        known: frozenset[Part] = frozenset()
        if before.dtype == after.dtype and not self._read_all:
            known = frozenset(part for part in self._sides[0].parts(before.name) if part.digest is not None)
        begin = end = 0
        for part in self._sides[1].parts(after.name):
            first, last = part.start // plan.unit_bytes, min(-(-part.stop // plan.unit_bytes), plan.compared)
            if part in known or first >= last:
                continue
            if first > end:
                if begin < end:
                    yield begin, end
                begin = first
            end = last
        if begin < end:
            yield begin, end

    def _work(self, task: _Task) -> tuple[_Task, _Part]:
        part = _Part(task.plan, self._makers)
        if task.start < task.stop:
            before, after = self._read(task, 0), self._read(task, 1)
            part.read_bytes = before.nbytes + after.nbytes
            if part.moments is None:
                part.feed_units(before, after)
            else:
                arrays = self._taken_floats()
                part.feed_values(task.start, before, after, arrays)
                self._floats.append(arrays)
            self._raw.give(before)
            self._raw.give(after)
        return task, part

    def _taken_floats(self) -> tuple[Floats, Floats, Floats]:
        import numpy

        try:
            return self._floats.pop()
        except IndexError:  # each thread needs its own
            return numpy.empty(_PIECE_NUMBERS), numpy.empty(_PIECE_NUMBERS), numpy.empty(_PIECE_NUMBERS)

    def _read(self, task: _Task, side: int) -> memoryview:
        entry = (task.plan.change.before, task.plan.change.after)[side]
        assert entry is not None, "what is measured has both sides"
        unit_bytes = task.plan.unit_bytes if side else task.plan.before_unit_bytes
        start, stop = task.start * unit_bytes, task.stop * unit_bytes
        out = self._raw.take(stop - start)
        self._sides[side].read(entry.name, start, stop, out)
        return out


class _Plan(NamedTuple):
    """How a change is measured."""

    change: Change
    unit: str
    unit_bytes: int
    before_unit_bytes: int
    compared: int
    """Units that both sides have; 0 where they cannot be compared."""
    pair: Pair | None
    """None where there are no values."""


def _plan(change: Change) -> _Plan:
    before, after = change.before, change.after
    if before is None or after is None or change.has_same_values:
        return _Plan(change, "element", 1, 1, 0, None)
    is_same_type = before.dtype == after.dtype
    shape = _common_shape(before.shape, after.shape)
    if has_values(after.dtype) and (is_same_type or (is_floating(before.dtype) and is_floating(after.dtype))):
        if shape is None or components(before.dtype) != components(after.dtype):
            return _Plan(change, "element", 1, 1, 0, None)
        pair = Pair(TensorKind(before.dtype, shape), TensorKind(after.dtype, shape))
        widths = DTYPES[after.dtype].bits // 8, DTYPES[before.dtype].bits // 8
        return _Plan(change, "element", *widths, pair.after.element_count, pair)
    if not is_same_type or before.raw_bytes != after.raw_bytes:
        return _Plan(change, "element", 1, 1, 0, None)
    is_block = DTYPES[after.dtype].kind == "block"
    unit_bytes = DTYPES[after.dtype].bits // 8 if is_block else 1
    unit = "block" if is_block else "byte"
    return _Plan(change, unit, unit_bytes, unit_bytes, after.raw_bytes // unit_bytes, None)


def _common_shape(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape to compare: all elements where there are as many, else the rows that both have."""
    if math.prod(before) == math.prod(after):
        return after
    if before and after and before[1:] == after[1:]:
        return (min(before[0], after[0]), *after[1:])
    return None


class _Task(NamedTuple):
    """Units `[start, stop)` of a change."""

    plan: _Plan
    start: int
    stop: int


def _is_small(task: _Task) -> bool:
    return (task.stop - task.start) * task.plan.unit_bytes <= _SMALL_BYTES


class _Part:
    """The figures of a part of a change."""

    def __init__(self, plan: _Plan, makers: Mapping[str, MakeMetric]) -> None:
        self._plan = plan
        self.read_bytes = 0
        self.moments = Moments(plan.pair) if plan.pair else None
        self._changed_units = 0
        self._metrics: dict[str, Metric] = {}
        self._failed: dict[str, str] = {}
        if plan.pair:
            for name, make in makers.items():
                try:
                    metric = make(plan.pair)
                except _FAILURES as error:
                    self._failed[name] = _said(error)
                else:
                    if metric is not None:
                        self._metrics[name] = metric

    def feed_units(self, before: memoryview, after: memoryview) -> None:
        """Count the units that differ."""
        import numpy

        differs = numpy.frombuffer(before, "u1") != numpy.frombuffer(after, "u1")
        if self._plan.unit_bytes > 1:
            differs = differs.reshape(-1, self._plan.unit_bytes).any(axis=1)
        self._changed_units += int(numpy.count_nonzero(differs))

    def feed_values(
        self, first: int, before: memoryview, after: memoryview, arrays: tuple[Floats, Floats, Floats]
    ) -> None:
        """Measure elements, the first of which is number `first` of the tensor."""
        plan = self._plan
        assert plan.pair is not None, "units are counted by feed_units"
        step = _piece_elements(plan.pair)
        for at in range(0, len(after) // plan.unit_bytes, step):
            a = before[at * plan.before_unit_bytes : (at + step) * plan.before_unit_bytes]
            b = after[at * plan.unit_bytes : (at + step) * plan.unit_bytes]
            self._feed_piece(plan.pair, first + at, a, b, arrays)

    def _feed_piece(
        self, pair: Pair, first: int, before: memoryview, after: memoryview, arrays: tuple[Floats, Floats, Floats]
    ) -> None:
        import numpy

        assert self.moments is not None, "there are values"
        parts = components(pair.after.dtype)
        numbers = len(after) // (DTYPES[pair.after.dtype].bits // 8) * parts
        a, b, change = (array[:numbers] for array in arrays)
        values_of(before, pair.before.dtype, a)
        values_of(after, pair.after.dtype, b)
        if pair.is_recast:
            is_changed = (a != b) & ~(numpy.isnan(a) & numpy.isnan(b))
        else:
            is_changed = bits_of(before, pair.before.dtype) != bits_of(after, pair.after.dtype)
        if is_changed.size != numbers // parts:
            is_changed = is_changed.reshape(numbers // parts, -1).any(axis=1)
        changed_count = int(numpy.count_nonzero(is_changed))
        self.moments.feed(a, b, change, changed_count)
        shown = [_read_only(array) for array in (a, b, change, is_changed)]
        piece = Piece(first * parts, shown[0], shown[1], shown[2], shown[3], changed_count)
        for name in list(self._metrics):
            try:
                self._metrics[name].feed(piece)
            except _FAILURES as error:
                self._fail(name, error)

    def _fail(self, name: str, error: BaseException) -> None:
        """Leave a metric out that failed; a plug-in's error is no reason to hide the figures of others."""
        self._failed[name] = _said(error)
        self._metrics.pop(name, None)

    def merged(self, other: _Part) -> _Part:
        """Take in the figures of another part of the same change."""
        self.read_bytes += other.read_bytes
        self._changed_units += other._changed_units
        self._failed |= other._failed
        if self.moments is not None and other.moments is not None:
            self.moments.merge(other.moments)
        for name in list(self._metrics):
            try:
                if name in other._metrics:
                    self._metrics[name].merge(other._metrics[name])
            except _FAILURES as error:
                self._fail(name, error)
        return self

    def measured(self) -> Measured:
        """Return the figures, once all parts are merged."""
        plan, moments = self._plan, self.moments
        changed = moments.changed_elements if moments else self._changed_units
        rows, sketch = self._metrics.pop("rows", None), self._metrics.pop("sketch", None)
        looks = looks_of(moments, sketch if isinstance(sketch, Sketch) else None) if moments else None
        if plan.change.has_same_values:
            looks = Looks("same")
        results: dict[str, Mapping[str, Any]] = {}
        if isinstance(sketch, Sketch) and changed and looks and looks.word in ("low-rank", "dense"):
            results["sketch"] = sketch.result()
        for metric in self._metrics.values():
            if isinstance(metric, Spectrum) and moments is not None:
                metric.rounding_norm = moments.rounding_norm
        for name in list(self._metrics):
            try:
                results[name] = _as_json(self._metrics[name].result())
            except _FAILURES as error:
                self._fail(name, error)
        results |= {name: {"error": text} for name, text in self._failed.items()}
        counts = rows.result() if isinstance(rows, Rows) else None
        return Measured(
            plan.change,
            plan.unit,
            plan.compared,
            changed,
            self.read_bytes,
            moments,
            (counts["changed"], counts["count"]) if counts else None,
            looks,
            results,
        )


def _piece_elements(pair: Pair) -> int:
    """Return how many elements make a piece: whole rows where several fit."""
    row = pair.row_numbers
    numbers = _PIECE_NUMBERS // row * row if 0 < row <= _PIECE_NUMBERS else _PIECE_NUMBERS
    return numbers // components(pair.after.dtype)


def _read_only(array: Any) -> Any:
    """Return a view that no metric can write to: the next one is to see the same numbers."""
    view = array[:]
    view.flags.writeable = False
    return view


def _as_json(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a metric as JSON has them, which is all that the reports can show.

    Raises:
        ValueError, TypeError: they are no such thing.
    """
    import json

    values = json.loads(json.dumps(figures, allow_nan=False))
    if not isinstance(values, dict):
        raise TypeError(f"the result is a {type(figures).__name__}, not a mapping")
    return values


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
