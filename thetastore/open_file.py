"""An open file that is read and written at absolute offsets, by several threads at once."""

from __future__ import annotations

import os


class OpenFile:
    """A descriptor with the length of its file. Does not own the descriptor."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        """Length of the file in bytes."""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return the bytes `[offset, offset + nbytes)`; shorter only at the end of the file."""
        return os.pread(self.descriptor, nbytes, offset)

    def write_at(self, offset: int, raw: memoryview) -> None:
        """Write all of `raw` at an offset.

        Raises:
            OSError: the disk is full or failing.
        """
        while raw:
            written = os.pwrite(self.descriptor, raw, offset)
            raw, offset = raw[written:], offset + written
