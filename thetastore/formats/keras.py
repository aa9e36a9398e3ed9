"""The layout of `*.keras`: a zip file in which the weights are an HDF5 file, as it is.

Source: keras/src/saving/saving_lib.py, as of Keras 3.15.
"""

from __future__ import annotations

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.forward import Part
from thetastore.formats.hdf5_datasets import read_datasets
from thetastore.formats.zip_directory import read_directory
from thetastore.layout import Layout, checked_layout

_WEIGHTS = "model.weights.h5"


class Keras:
    """`*.keras`."""

    name = "keras"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a zip file begins here."""
        return head[:4] == b"PK\3\4"

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. They are named as in the HDF5 file."""
        entry = read_directory(file).get(_WEIGHTS)
        if entry is None or not entry.stored:
            raise NotThisFormat(f"a zip file without '{_WEIGHTS}', or with a compressed one")
        tensors, spans = read_datasets(Part(file, entry.offset, entry.nbytes))
        if not spans:
            raise NotThisFormat("no dataset of the weights is an array of plain numbers in one piece")
        tensors = [tensor._replace(offset=entry.offset + tensor.offset) for tensor in tensors]
        spans = [span._replace(offset=entry.offset + span.offset) for span in spans]
        return checked_layout(self.name, self.version, file.size, spans, tensors)
