"""The layout of `*.distcp`, the data files of torch's distributed checkpoints: archives of torch.save in a row.

Each item of a checkpoint (a tensor, a shard of one, a pickled value) is an archive of its own. What they are called is
in another file, `.metadata`, and a layout knows but one file: here items are numbered in the order of the file, so that
tensors are cut, digested and shared with every other format, under names that say no more than their place.

Source: torch/distributed/checkpoint/filesystem.py (`_write_item`), as of torch 2.13.
"""

from __future__ import annotations

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.forward import Part
from thetastore.formats.torch_archive import read_archive
from thetastore.formats.torch_spans import Found
from thetastore.formats.zip_directory import archive_start
from thetastore.layout import Layout, checked_layout

MAX_ARCHIVES = 100_000
"""Each takes about 0.2 ms."""


class TorchDcp:
    """`*.distcp` of two items and more; one with a single item is `torch-zip`."""

    name = "torch-dcp"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a zip file begins here."""
        return head[:4] == b"PK\3\4"

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: 350 MB, for an archive with 64 MiB of pickle."""
        found = Found([], [])
        for number, part in enumerate(_archives(file)):
            found.add(_shifted(read_archive(part), number, part.offset))
        return checked_layout(self.name, self.version, file.size, found.spans, found.tensors)


def _archives(file: RandomAccess) -> list[Part]:
    """Return the archives that fill a file. Each one's end says where it begins, so they are found backwards."""
    parts: list[Part] = []
    end = file.size
    while end:
        start = archive_start(Part(file, 0, end))
        parts.append(Part(file, start, end - start))
        if len(parts) > MAX_ARCHIVES or (start == 0 and len(parts) == 1):
            raise NotThisFormat("a single archive, or too many")
        end = start
    if not parts:
        raise NotThisFormat("an empty file")
    return parts[::-1]


def _shifted(found: Found, number: int, offset: int) -> Found:
    """Return what was found in the archive of this number as it lies in the file."""
    tensors = [
        tensor._replace(name=f"{number}.{tensor.name}" if tensor.name else str(number), offset=offset + tensor.offset)
        for tensor in found.tensors
    ]
    return Found(tensors, [span._replace(offset=offset + span.offset) for span in found.spans])
