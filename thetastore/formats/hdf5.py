"""The layout of HDF5 files: `*.h5`, `*.hdf5`, `*.weights.h5` of Keras, h5py's own."""

from __future__ import annotations

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.hdf5_datasets import read_datasets
from thetastore.formats.hdf5_objects import MAGIC
from thetastore.layout import Layout, checked_layout


class Hdf5:
    """HDF5 files with datasets that are neither chunked nor compressed."""

    name = "hdf5"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether the magic is there."""
        return head.startswith(MAGIC)

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: 1 kB a dataset, and 32 MiB."""
        tensors, spans = read_datasets(file)
        if not spans:
            raise NotThisFormat("no dataset is an array of plain numbers in one piece")
        return checked_layout(self.name, self.version, file.size, spans, tensors)
