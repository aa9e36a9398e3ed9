"""The layout of zip files made by torch.save: `*.pt`, `*.pth`, `*.bin`, `*.ckpt`, TorchScript archives.

An archive has a pickle that describes tensors as views of storages, and one stored entry a storage. Tensors are
named by their path in the pickled state; storages are cut where tensors begin and end.
"""

from __future__ import annotations

from thetastore.formats import RandomAccess
from thetastore.formats.torch_archive import read_archive
from thetastore.layout import Layout, checked_layout


class TorchZip:
    """Zip files made by torch.save, and TorchScript archives."""

    name = "torch-zip"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a zip file begins here."""
        return head[:4] == b"PK\3\4"

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: 350 MB, for 64 MiB of hostile pickle."""
        found = read_archive(file)
        return checked_layout(self.name, self.version, file.size, found.spans, found.tensors)
