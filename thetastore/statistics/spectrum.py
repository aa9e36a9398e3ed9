"""The singular values of a change: estimated from a random sketch while it goes by, or exact.

The change, as a matrix with the first axis for rows, is multiplied by a Gaussian matrix with `SKETCH_COLUMNS` columns.
If its rank is under that, the product has the same rank, and its singular values are near those of the change; what
rounding to the element type adds is spread evenly, at a level that is known. Source: Halko, Martinsson, Tropp,
"Finding structure with randomness" (2011), sections 4 and 10.

This is linear algebra by BLAS: its figures are estimates, never stored, and may differ in the last digits elsewhere.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from thetastore.elements import components, is_floating
from thetastore.statistics import Pair, Piece

if TYPE_CHECKING:
    import numpy

    Matrix = numpy.ndarray[Any, numpy.dtype[numpy.float32]]

SKETCH_COLUMNS = 72
"""Finds ranks up to 64. CPU time of a diff of 100 million elements: 1.5 s with 8 columns, 1.8 with 72, 2.4 with 144."""
_SPARE_COLUMNS = 8
_LEAST_SIDE = 8
"""Smaller matrices have no rank worth a word."""
_CLIFF = 1.5
"""Least ratio of the last singular value that counts to the first that does not. In a fine-tune of MiniLM, where values
that sink slowly into the noise were taken for ranks without this: at most 1.07."""
_MAX_ROW_NUMBERS = 1 << 18
"""Longer rows are no rows of a matrix: the Gaussian matrix would take more than 75 MB."""
_KEPT = 24
"""Singular values of a result; of an exact spectrum all."""


class Sketch:
    """The change times a Gaussian matrix. Memory: `SKETCH_COLUMNS` float32 a row."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows = rows
        self._columns = columns
        self._parts: list[tuple[int, Matrix]] = []

    @classmethod
    def of(cls, pair: Pair) -> Sketch | None:
        """Make one, where the change is a matrix of floats that could be of lower rank."""
        size = _matrix_size(pair)
        return None if size is None or min(size) < _LEAST_SIDE or size[1] > _MAX_ROW_NUMBERS else cls(*size)

    def feed(self, piece: Piece) -> None:
        """Multiply a piece of the change; rows may be cut anywhere."""
        if not piece.changed_count:
            return
        import numpy

        width = self._columns
        with numpy.errstate(over="ignore", invalid="ignore"):  # of float64, and of garbage: no estimate comes of it
            change = piece.change.astype("f4")
        first, skipped = divmod(piece.start, width)
        if skipped or change.size % width:
            padded = numpy.zeros(-(-(skipped + change.size) // width) * width, "f4")
            padded[skipped : skipped + change.size] = change
            change = padded
        with numpy.errstate(over="ignore", invalid="ignore", under="ignore"):
            self._parts.append((first, change.reshape(-1, width) @ _gaussian(width)))

    def merge(self, other: Sketch) -> None:
        """Take in another's rows."""
        self._parts += other._parts

    def singular_values(self) -> list[float]:
        """Return estimates of the largest singular values, the largest first; none where they overflow."""
        import numpy

        sketch = numpy.zeros((self._rows, min(SKETCH_COLUMNS, self._columns)))
        for first, part in self._parts:
            sketch[first : first + len(part)] += part
        with numpy.errstate(over="ignore", invalid="ignore", under="ignore"):
            gram = sketch.T @ sketch
        if not numpy.isfinite(gram).all():
            return []
        squares = numpy.linalg.eigvalsh(gram)[::-1]
        return [math.sqrt(max(square, 0.0) / gram.shape[0]) for square in squares.tolist()]

    def result(self) -> dict[str, Any]:
        """Return the estimates."""
        return {"singular_values": self.singular_values()[: min(_KEPT, self._rows)], "is_exact": False}

    def rank(self, rounding_norm: float) -> tuple[int, float] | None:
        """Return the rank of what is above the noise of rounding, and its share of the change's energy.

        Args:
            rounding_norm: norm of the noise to expect.

        Returns:
            None where the change has no low rank, or none that can be told from noise.
        """
        return low_rank(self.singular_values(), self._rows, self._columns, rounding_norm)


def low_rank(values: list[float], rows: int, columns: int, rounding_norm: float) -> tuple[int, float] | None:
    """Judge the estimates of a sketch; see `Sketch.rank`."""
    if not values or not values[0]:
        return None
    width = len(values)
    # A sketch of noise of norm f: singular values within f (1 +- sqrt(width / rows)) / sqrt(width).
    noise = rounding_norm * (1 + math.sqrt(width / rows)) / math.sqrt(width)
    floor = max(2 * noise, 1e-5 * values[0])
    rank = sum(value > floor for value in values)
    energy = sum(value * value for value in values)
    share = sum(value * value for value in values[:rank]) / energy
    if not 0 < rank <= min(width - _SPARE_COLUMNS, min(rows, columns) // 2) or share < 0.9:
        return None
    # A spectrum that sinks slowly into the noise has no rank, only a length.
    if values[rank - 1] < _CLIFF * values[rank]:
        return None
    return rank, share


class Spectrum:
    """The singular values of the whole change. Memory: the tensor as float32, and as much again at the end."""

    def __init__(self, rows: int, columns: int) -> None:
        self._shape = (rows, columns)
        self.rounding_norm = 0.0
        """Norm of the noise of rounding, to be set before `result`, which counts the rank above it."""
        self._parts: list[tuple[int, Matrix]] = []

    @classmethod
    def of(cls, pair: Pair) -> Spectrum | None:
        """Make one, where the change is a matrix of floats."""
        size = _matrix_size(pair)
        return None if size is None else cls(*size)

    def feed(self, piece: Piece) -> None:
        """Keep a piece of the change."""
        if piece.changed_count:
            self._parts.append((piece.start, piece.change.astype("f4")))

    def merge(self, other: Spectrum) -> None:
        """Keep what another kept."""
        self._parts += other._parts

    def result(self) -> dict[str, Any]:
        """Return all singular values, the largest first."""
        import numpy

        change = numpy.zeros(self._shape, "f4")
        while self._parts:
            start, part = self._parts.pop()
            change.reshape(-1)[start : start + part.size] = part
        if not numpy.isfinite(change).all():
            return {"singular_values": [], "is_exact": True}
        values = numpy.linalg.svd(change, compute_uv=False)
        # Noise of norm f, spread evenly, has singular values up to f (1 / sqrt(rows) + 1 / sqrt(columns)).
        noise = self.rounding_norm * sum(1 / math.sqrt(length) for length in self._shape)
        rank = int(numpy.count_nonzero(values > max(2 * noise, 1e-6 * values[0])))
        return {"singular_values": values.tolist(), "is_exact": True, "rank": rank}


def _matrix_size(pair: Pair) -> tuple[int, int] | None:
    """Return rows and columns of the change, where it is a real matrix with at least two of both."""
    if not (is_floating(pair.before.dtype) and is_floating(pair.after.dtype)) or components(pair.after.dtype) != 1:
        return None
    columns = pair.row_numbers
    if len(pair.after.shape) < 2 or columns < 2 or pair.after.shape[0] < 2:
        return None
    return pair.after.shape[0], columns


@lru_cache(maxsize=8)
def _gaussian(columns: int) -> Matrix:
    import numpy

    if columns <= SKETCH_COLUMNS:  # nothing to save: with the identity the values are exact
        return numpy.eye(columns, dtype="f4") * numpy.float32(math.sqrt(columns))
    generator = numpy.random.Generator(numpy.random.SFC64(columns))
    return generator.standard_normal((columns, SKETCH_COLUMNS), dtype=numpy.float32)
