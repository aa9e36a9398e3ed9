"""The layout of `*.npz`: a zip file with an array a member, as numpy.savez makes it.

Members that are compressed, or hold anything but plain numbers, are skeleton: they are no bytes of a tensor as it is.
"""

from __future__ import annotations

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.npy_header import read_array_at
from thetastore.formats.zip_directory import read_directory
from thetastore.layout import Layout, Span, Tensor, checked_layout

_SUFFIX = ".npy"


class Npz:
    """`*.npz`."""

    name = "npz"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a zip file begins here."""
        return head[:4] == b"PK\3\4"

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the arrays; see `WholeFormat.scan`. Peak memory: about 1 kB a member."""
        entries = read_directory(file)
        if any(name.endswith("/data.pkl") and name.count("/") == 1 for name in entries):
            raise NotThisFormat("a zip file made by torch")
        spans: list[Span] = []
        tensors: list[Tensor] = []
        for name, entry in entries.items():
            if not entry.stored or not name.endswith(_SUFFIX):
                continue
            try:
                array = read_array_at(file, entry.offset, entry.nbytes)
            except NotThisFormat:
                continue
            spans.append(array.span(entry.offset))
            if array.is_named:
                tensors.append(array.tensor(name.removesuffix(_SUFFIX), entry.offset))
        if not spans:
            raise NotThisFormat("no member of the zip file is an array of plain numbers, uncompressed")
        return checked_layout(self.name, self.version, file.size, spans, tensors)
