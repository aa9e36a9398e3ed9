"""Tensors as Zarr has arrays: names of nodes, numpy types, and the regular grid whose cells are the store's chunks.

Zarr's cells at the end of an axis are as long as all others, and the store's are not: they are filled up with zeros.
Where the store joins a short chunk to its neighbour, the two are cells of their own here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

from thetastore.arrays import array_form
from thetastore.chunking import GRID_BYTES

if TYPE_CHECKING:
    import numpy

META = "zarr.json"
_SAFE = "".join(chr(code) for code in range(33, 127) if chr(code) not in "/%")


class Sliced(Protocol):
    """What parts of a tensor are taken from."""

    def __getitem__(self, index: Any) -> Any:
        """Return a part as a numpy array."""


class Grid(NamedTuple):
    """A tensor's place in a hierarchy: what its elements are to numpy, and how its axes are cut."""

    type: numpy.dtype[Any]
    shape: tuple[int, ...]
    cell: tuple[int, ...]
    """Length of a cell along each axis."""

    @property
    def cell_bytes(self) -> int:
        """Bytes of a cell, filled up."""
        return math.prod(self.cell) * self.type.itemsize

    @property
    def counts(self) -> list[int]:
        """Cells along each axis."""
        return [-(-length // cell) for length, cell in zip(self.shape, self.cell, strict=True)]

    @property
    def dimensions(self) -> list[str]:
        """Names of the axes, for xarray: it wants those of one name to have one length, whatever the array."""
        return [f"axis{axis}_{length}" for axis, length in enumerate(self.shape)]

    def cells(self) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of all cells, in C order."""
        return itertools.product(*map(range, self.counts))

    def place(self, cell: tuple[int, ...]) -> tuple[int, int]:
        """Return the first byte of a cell in the tensor's bytes in C order, and how many of them it has."""
        start, nbytes, step = 0, self.type.itemsize, self.type.itemsize
        for at, size, length in reversed(list(zip(cell, self.cell, self.shape, strict=True))):
            start += at * size * step
            nbytes *= min(size, length - at * size)
            step *= length
        return start, nbytes

    def read(self, tensor: Sliced, cell: tuple[int, ...]) -> bytes:
        """Return the bytes of a cell, filled up."""
        ranges = tuple(
            slice(at * size, min((at + 1) * size, length))
            for at, size, length in zip(cell, self.cell, self.shape, strict=True)
        )
        raw: bytes = tensor[ranges].tobytes()
        return raw + bytes(self.cell_bytes - len(raw))


def grid_of(dtype_name: str, shape: tuple[int, ...]) -> Grid:
    """Return the grid of a tensor."""
    numpy_type, in_numpy = array_form(dtype_name, shape)
    steps = [numpy_type.itemsize * math.prod(in_numpy[axis + 1 :]) for axis in range(len(in_numpy))]
    cut = next((axis for axis, nbytes in enumerate(steps) if nbytes <= GRID_BYTES), 0)
    cell = tuple(max(length, 1) for length in in_numpy)
    if in_numpy and steps[cut]:
        indices = 1 << (max(GRID_BYTES // steps[cut], 1).bit_length() - 1)
        rows = min(indices, max(in_numpy[cut], 1))
        cell = (*[1] * cut, rows, *cell[cut + 1 :])
    return Grid(numpy_type, in_numpy, cell)


def node_name(name: str) -> str:
    """Return the name of a tensor's node: a `/` is written `%2F`, and names that Zarr reserves are quoted, too."""
    quoted = quote(name, safe=_SAFE)
    if not quoted.strip(".") or quoted.startswith("__") or quoted == META:
        return f"%{ord(name[0]):02X}{quoted[1:]}" if name else "%"
    return quoted
