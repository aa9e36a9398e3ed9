"""The layout of `*.npy`, one array as numpy saves it: a short header, then the elements.

Two plug-ins make the one format. Where the axes lie in C order the file is scanned as it streams in. In Fortran order
the digest of the tensor, whose bytes are taken in C order, needs the elements in another order than the file's, so
the whole file is spooled.
"""

from __future__ import annotations

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.npy_header import MAGIC, Array, read_array, read_array_at
from thetastore.layout import Layout, checked_layout

_NAME = "npy"
_VERSION = 1


class Npy:
    """`*.npy` with the axes in C order."""

    name = _NAME
    version = _VERSION

    def sniff(self, head: bytes) -> bool:
        """Tell whether the magic is there."""
        return head.startswith(MAGIC)

    def scan_header(self, prefix: bytes) -> Layout:
        """Locate the array; see `HeaderFormat.scan_header`."""
        array = read_array(prefix)
        if array.tensor("", 0).strides is not None:
            raise NotThisFormat("an array in Fortran order is read as a whole file")
        return _layout_of(array)


class FortranNpy:
    """`*.npy` with the axes in Fortran order."""

    name = _NAME
    version = _VERSION

    def sniff(self, head: bytes) -> bool:
        """Tell whether the magic is there and Fortran order is near: numpy writes it within the first 56 bytes."""
        return head.startswith(MAGIC) and b"True" in head

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the array; see `WholeFormat.scan`."""
        return _layout_of(read_array_at(file, 0, file.size))


def _layout_of(array: Array) -> Layout:
    """Return the layout of a file that is nothing but this array. Its tensor has the empty name."""
    tensors = [array.tensor("", 0)] if array.is_named else []
    return checked_layout(_NAME, _VERSION, array.end, [array.span(0)], tensors)
