"""Which indices of the first axis changed: a vocabulary's rows, a layer's outputs. A metric like any other."""

from __future__ import annotations

from typing import Any

from thetastore.statistics import Pair, Piece


class Rows:
    """A flag for each row. Memory: a byte a row."""

    def __init__(self, row_count: int, row_elements: int) -> None:
        import numpy

        self._row_elements = row_elements
        self._is_changed = numpy.zeros(row_count, bool)

    @classmethod
    def of(cls, pair: Pair) -> Rows | None:
        """Make one, where there are rows of more than one element."""
        count = pair.after.shape[0] if len(pair.after.shape) > 1 else 0
        elements = pair.after.element_count // count if count else 0
        return cls(count, elements) if elements > 1 else None

    def feed(self, piece: Piece) -> None:
        """Flag the rows in which an element changed."""
        import numpy

        if not piece.changed_count:
            return
        first = piece.start * piece.is_changed.size // piece.before.size
        begin, end = first // self._row_elements, -(-(first + piece.is_changed.size) // self._row_elements)
        if piece.changed_count == piece.is_changed.size:
            self._is_changed[begin:end] = True
            return
        starts = numpy.arange(begin, end) * self._row_elements - first
        starts[0] = 0
        self._is_changed[begin:end] |= numpy.logical_or.reduceat(piece.is_changed, starts)

    def merge(self, other: Rows) -> None:
        """Flag what another has flagged."""
        self._is_changed |= other._is_changed

    def result(self) -> dict[str, Any]:
        """Return how many rows changed, of how many."""
        import numpy

        return {"changed": int(numpy.count_nonzero(self._is_changed)), "count": self._is_changed.size}
