"""What an update consists of: thin matrices to multiply, factors for rows and columns.

A tensor is taken for a matrix, its elements in C order, `columns` of them a row. A *window* is what concerns one chunk
of it: some whole rows, or a part of one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from thetastore.errors import HintedError

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray[Any, numpy.dtype[Any]]

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""Element types that can be updated, by their numbers in a payload. Released: only ever appended to."""


class UpdateError(HintedError):
    """An update does not fit what it is for; nothing was changed."""

    code = "update"


class Window(NamedTuple):
    """The parts of an update that make one chunk from its base. Arrays are of `work_dtype`."""

    rows: int
    columns: int
    left: Array | None
    """rows x rank; None where nothing is added."""
    right: Array | None
    """rank x columns."""
    scale: float
    """Of the product."""
    rounds_product: bool
    """Whether the scaled product is rounded to the element type before it is added."""
    row_factors: Array | None
    column_factors: Array | None


class Recipe(NamedTuple):
    """An update of one tensor: `(base + scale * left @ right) * row_factors * column_factors`, without what is None."""

    columns: int
    """Of the matrix that the tensor is taken for; its rows follow from its size."""
    left: Array | None = None
    """rows x rank, of `work_dtype` of the tensor's element type."""
    right: Array | None = None
    """rank x columns."""
    scale: float = 1.0
    rounds_product: bool = False
    row_factors: Array | None = None
    """One for each row, multiplied after the product was added."""
    column_factors: Array | None = None

    @property
    def rank(self) -> int:
        """Columns of `left`; 0 where nothing is added."""
        return 0 if self.left is None else int(self.left.shape[1])

    def window(self, start: int, count: int) -> Window | None:
        """Return what concerns `count` elements from number `start` on; None where they are no such part."""
        row, column = divmod(start, self.columns)
        if column or count < self.columns:
            if column + count > self.columns:
                return None
            rows, columns = 1, count
        else:
            rows, rest = divmod(count, self.columns)
            if rest:
                return None
            columns = self.columns
        of_rows, of_columns = slice(row, row + rows), slice(column, column + columns)
        return Window(
            rows,
            columns,
            None if self.left is None else self.left[of_rows],
            None if self.right is None else self.right[:, of_columns],
            self.scale,
            self.rounds_product,
            None if self.row_factors is None else self.row_factors[of_rows],
            None if self.column_factors is None else self.column_factors[of_columns],
        )


def work_dtype(dtype: str) -> str:
    """Return the numpy type in which elements are computed: float64 for float64, else float32."""
    return "<f8" if dtype == "float64" else "<f4"
