"""What an HDF5 file is made of: a superblock, and object headers that are lists of messages.

Every read is charged against a budget: addresses may lead anywhere, in circles too, and then the budget ends it.
Checksums are not verified: they say nothing about where tensors lie.

Source: HDF5 File Format Specification 3.0, sections II (superblock) and IV.A (object headers).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess

MAGIC: Final = b"\x89HDF\r\n\x1a\n"
UNDEFINED: Final = (1 << 64) - 1
"""The address of what is not there."""
MAX_READ_BYTES: Final = 256 << 20
"""Of the directory, each piece as often as it is read; 200,000 datasets take 110 to 200 MB."""
_READ_COST_BYTES: Final = 64
_MESSAGE_COST_BYTES: Final = 32
"""What a read and a message cost beside their bytes, so that there are at most four and eight million."""
MAX_PIECE_BYTES: Final = 32 << 20
"""Read at once: a heap of names, a part of an object header."""
MAX_HEADER_PARTS: Final = 1000
MAX_MESSAGES: Final = 70_000
"""Of one object, which are held. A group keeps 65,535 links in its header at most."""

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 0x0B, 0x0C, 0x10, 0x11
_READ_TYPES = frozenset(
    (DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE)
)
"""Types of messages that are of interest."""
_SHARED = 0x02
_PREFIX_1 = struct.Struct("<BBHII")
_MESSAGE_1 = struct.Struct("<HHB3x")
_MESSAGE_2 = struct.Struct("<BHB")
_PLACE = struct.Struct("<QQ")


class Message(NamedTuple):
    """One message of an object header."""

    type: int
    offset: int
    """Where its bytes lie in the file."""
    raw: bytes
    is_shared: bool
    """Whether the bytes only say where the message is."""


class Hdf5File:
    """A file whose directory is read within a budget."""

    def __init__(self, file: RandomAccess) -> None:
        self._file = file
        self.size = file.size
        self._room_bytes = MAX_READ_BYTES

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly these bytes.

        Raises:
            NotThisFormat: they are not all there, or too many were read before.
        """
        if nbytes > MAX_PIECE_BYTES:
            raise NotThisFormat(f"{nbytes} bytes of the directory in one piece")
        self._charge(nbytes + _READ_COST_BYTES)
        raw = self._file.read_at(offset, nbytes) if offset + nbytes <= self.size else b""
        if len(raw) != nbytes:
            raise NotThisFormat(f"the file has no {nbytes} bytes at {offset}")
        return raw

    def _charge(self, nbytes: int) -> None:
        self._room_bytes -= nbytes
        if self._room_bytes < 0:
            raise NotThisFormat("the directory of the HDF5 file is beyond the limit")

    def root(self) -> int:
        """Return the address of the root group's object header.

        Raises:
            NotThisFormat: the superblock is not of version 0, 2 or 3, with addresses of eight bytes that count from the
                start of the file, or the file is shorter than it says.
        """
        magic, version = self.read(0, 8), self.read(8, 1)[0]
        if magic != MAGIC or version not in (0, 2, 3):
            raise NotThisFormat(f"a superblock of version {version}")
        if version == 0:
            widths, base, end, root = self.read(13, 2), *self._numbers(24, 40, 64)
        else:
            widths, base, end, root = self.read(9, 2), *self._numbers(12, 28, 36)
        if widths != b"\x08\x08" or base or end > self.size:
            raise NotThisFormat("addresses that are not of eight bytes, or do not lie within the file")
        return root

    def _numbers(self, *offsets: int) -> tuple[int, ...]:
        return tuple(int.from_bytes(self.read(offset, 8), "little") for offset in offsets)

    def messages(self, address: int) -> list[Message]:
        """Return those messages of the object header at an address that are of interest."""
        if self.read(address, 4) == b"OHDR":
            return self._messages_2(address)
        return self._messages_1(address)

    def _messages_1(self, address: int) -> list[Message]:
        version, _, _, _, nbytes = _PREFIX_1.unpack(self.read(address, _PREFIX_1.size))
        if version != 1:
            raise NotThisFormat(f"an object header of version {version}")
        found: list[Message] = []
        parts = [(address + 16, nbytes)]
        for at, part_bytes in parts:
            self._parse(at, self.read(at, part_bytes), _MESSAGE_1, _MESSAGE_1.size, 0, parts, found)
        return found

    def _messages_2(self, address: int) -> list[Message]:
        version, flags = self.read(address + 4, 2)
        if version != 2:
            raise NotThisFormat(f"an object header of version {version}")
        at = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        nbytes = int.from_bytes(self.read(at, width), "little")
        head_bytes = _MESSAGE_2.size + (2 if flags & 4 else 0)
        found: list[Message] = []
        parts: list[tuple[int, int]] = []
        self._parse(at + width, self.read(at + width, nbytes), _MESSAGE_2, head_bytes, 0, parts, found)
        for start, part_bytes in parts:
            if part_bytes < 8 or self.read(start, 4) != b"OCHK":
                raise NotThisFormat(f"no continuation of an object header at {start}")
            raw = self.read(start + 4, part_bytes - 8)
            self._parse(start + 4, raw, _MESSAGE_2, head_bytes, 0, parts, found)
        return found

    def _parse(
        self,
        offset: int,
        raw: bytes,
        head: struct.Struct,
        head_bytes: int,
        at: int,
        parts: list[tuple[int, int]],
        found: list[Message],
    ) -> None:
        """Read the messages of one part of a header; what is left over is shorter than a message's head."""
        while at + head_bytes <= len(raw):
            self._charge(_MESSAGE_COST_BYTES)
            kind, nbytes, flags = head.unpack_from(raw, at)
            at += head_bytes
            if at + nbytes > len(raw):
                raise NotThisFormat("a message is longer than its object header")
            if kind in _READ_TYPES:
                message = Message(kind, offset + at, raw[at : at + nbytes], bool(flags & _SHARED))
                if kind == CONTINUATION:
                    parts.append(_place(message))
                else:
                    found.append(message)
            if len(parts) > MAX_HEADER_PARTS or len(found) > MAX_MESSAGES:
                raise NotThisFormat(f"an object header of {len(parts)} parts and {len(found)} messages")
            at += nbytes


def _place(message: Message) -> tuple[int, int]:
    """Return address and length of a header's continuation."""
    if len(message.raw) < _PLACE.size:
        raise NotThisFormat("a continuation that does not say where")
    offset, nbytes = _PLACE.unpack_from(message.raw)
    return offset, nbytes
