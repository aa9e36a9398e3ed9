"""Checkpoint formats: where the tensors of a file lie.

A format is one of two kinds, told apart by where its directory is:

* `HeaderFormat`: the directory comes first (safetensors, GGUF). It is scanned while bytes stream in.
* `WholeFormat`: the directory comes last (zip) or anywhere (HDF5, ONNX, msgpack). The file is spooled, then scanned.

Scanners are total: whatever the bytes, they return a layout or raise `NotThisFormat`, in time and memory
bounded by the file's size; `resolve` turns anything else that a plug-in raises into `NotThisFormat` too.
The result depends on the bytes alone: not on the file's name, the platform, or what is installed
besides the plug-in itself.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from thetastore.layout import Layout

SNIFF_BYTES = 64
"""How many leading bytes `sniff` gets (fewer only where the file is shorter)."""


class RandomAccess(Protocol):
    """A whole file that can be read anywhere."""

    size: int
    """Length of the file in bytes."""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return the bytes `[offset, offset + nbytes)`; shorter only at the end of the file."""


class NeedBytes(Exception):  # noqa: N818 - a request
    """Raised by `scan_header` to ask for a longer prefix of the file."""

    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.nbytes = nbytes
        """How many leading bytes of the file are needed, as far as the prefix tells; at most `MAX_HEADER_BYTES`.
        Where the file has fewer it is opaque, so a plug-in asks for nothing that it does not know to be there."""


MAX_HEADER_BYTES = 32 << 20
"""A longer directory makes the file opaque: 200,000 tensors need less, and memory stays bounded."""

_GROWTH = 4


def next_prefix_bytes(prefix_bytes: int, needed_bytes: int) -> int:
    """Return how many bytes to offer a plug-in that needs `needed_bytes` and was offered `prefix_bytes`.

    Directories that do not begin with their own length (GGUF) are asked for item by item and read from the start
    each time. So each offer is four times the one before, as far as the file goes: all of them together then cost a
    third more than the last.
    """
    return min(max(needed_bytes, _GROWTH * prefix_bytes), MAX_HEADER_BYTES)


@runtime_checkable
class HeaderFormat(Protocol):
    """A format whose directory is a prefix of the file."""

    name: str
    version: int

    def sniff(self, head: bytes) -> bool:
        """Tell, from the first `SNIFF_BYTES`, whether the file may be of this format."""

    def scan_header(self, prefix: bytes) -> Layout:
        """Locate the tensors from a prefix of the file, which may be longer than was asked for.

        The layout's `file_bytes` is what the directory implies; a file of another length is opaque.

        Raises:
            NeedBytes: the prefix is too short to tell.
            NotThisFormat: the directory breaks a rule of the format.
        """


@runtime_checkable
class WholeFormat(Protocol):
    """A format whose directory may lie anywhere."""

    name: str
    version: int

    def sniff(self, head: bytes) -> bool:
        """Tell, from the first `SNIFF_BYTES`, whether the file may be of this format."""

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors of a whole file.

        Raises:
            NotThisFormat: the file breaks a rule of the format.
        """


Format = HeaderFormat | WholeFormat
