"""A file read forwards, for formats whose tensors lie between the items of their directory.

What is skipped is not read, so that a model of 70 GB costs the bytes around its tensors.
"""

from __future__ import annotations

from typing import Final

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess

_WINDOW_BYTES: Final = 16 << 10
MAX_VARINT_BYTES: Final = 10


class Forward:
    """A place in a file. Every method moves it over what it names, or raises `NotThisFormat` beyond the end."""

    def __init__(self, file: RandomAccess, start: int = 0) -> None:
        self._file = file
        self._window = b""
        self._window_at = start
        self.at = start
        self.end = file.size

    def take(self, nbytes: int) -> bytes:
        """Return the next `nbytes` bytes; the caller bounds them."""
        start = self.at - self._window_at
        if start + nbytes > len(self._window):
            if nbytes > self.end - self.at:
                raise NotThisFormat(f"the file ends within {nbytes} bytes at {self.at}")
            self._window = self._file.read_at(self.at, max(nbytes, _WINDOW_BYTES))
            self._window_at = self.at
            start = 0
            if len(self._window) < nbytes:
                raise NotThisFormat("the file is shorter than it was")
        self.at += nbytes
        return self._window[start : start + nbytes]

    def varint(self) -> int:
        """Return the next integer, of seven bits a byte, the lowest first."""
        value = 0
        for shift in range(0, 7 * MAX_VARINT_BYTES, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise NotThisFormat("an integer of more than 64 bits")

    def skip(self, nbytes: int) -> None:
        """Move over bytes that are of no interest."""
        if nbytes > self.end - self.at:
            raise NotThisFormat(f"the file ends within {nbytes} bytes at {self.at}")
        self.at += nbytes

    def move(self, offset: int) -> None:
        """Go to an earlier or later place."""
        if not 0 <= offset <= self.end:
            raise NotThisFormat(f"the file has no byte {offset}")
        if not self._window_at <= offset <= self._window_at + len(self._window):
            self._window, self._window_at = b"", offset
        self.at = offset


class Part:
    """A run of bytes of a file, as a file of its own."""

    def __init__(self, file: RandomAccess, offset: int, nbytes: int) -> None:
        self._file = file
        self.offset = offset
        """Where the part begins in the file."""
        self.size = nbytes

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return the bytes `[offset, offset + nbytes)` of the part; shorter only at its end."""
        nbytes = min(nbytes, self.size - offset)
        return self._file.read_at(self.offset + offset, nbytes) if nbytes > 0 else b""
