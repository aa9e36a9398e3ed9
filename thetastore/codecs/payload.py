"""What codec `planes` stores: a header that describes itself, groups of planes, a tail.

    offset  size  field
         0     1  version, 0
         1     1  arrangement: 0 as in the file, 1 exponent first (`thetastore.codecs.splitting`)
         2     1  width of an element in bytes: 1, 2, 4 or 8
         3     1  g, the number of groups, 1 to width
         4     4  raw bytes
         8    6g  groups, from the lowest byte of an element up: byte count (1), coding (1), stored bytes (4)
      8+6g        what each group stores, in the same order
                  tail: the raw bytes after the last whole element, fewer than the width

Numbers are unsigned and little-endian. `docs/format/codecs.md` has the limits, the rationale and an annotated dump.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from thetastore.errors import MalformedError, UnsupportedError

VERSION: Final = 0
MAX_RAW_BYTES: Final = (1 << 32) - 1
_HEADER: Final = struct.Struct("<BBBBI")
_GROUP: Final = struct.Struct("<BBI")
_WIDTHS: Final = (1, 2, 4, 8)


class Coding(IntEnum):
    """How a group of bytes of the elements is stored. Released numbers: never reused."""

    RAW = 0
    """The bytes, as many together as the group has."""
    CONSTANT = 1
    """One byte, which all elements have there; a group of one byte."""
    ZSTD = 2
    """One zstd frame; a group of one byte."""
    CODES = 3
    """Codes of two bits for three values, and others (`thetastore.codecs.palette`); a group of one byte."""


class Group(NamedTuple):
    """Neighbouring bytes of every element, stored together."""

    first_byte: int
    """0 is the lowest; a multiple of `byte_count`."""
    byte_count: int
    coding: Coding
    stored_bytes: int


class Header(NamedTuple):
    """All that a payload says about itself."""

    width: int
    exponent_first: bool
    raw_bytes: int
    groups: tuple[Group, ...]

    @property
    def element_count(self) -> int:
        """Whole elements; the raw bytes after them are the tail."""
        return self.raw_bytes // self.width

    @property
    def tail_bytes(self) -> int:
        """Raw bytes after the last whole element."""
        return self.raw_bytes % self.width

    @property
    def joinable_end(self) -> int:
        """How many of the lower bytes may be grouped: an exponent that goes first, and the byte below it, may not."""
        return self.width - 2 if self.exponent_first else self.width

    @property
    def header_bytes(self) -> int:
        """Where the first group's stored bytes begin."""
        return _HEADER.size + _GROUP.size * len(self.groups)

    @property
    def payload_bytes(self) -> int:
        """Length of the whole payload."""
        return self.header_bytes + sum(group.stored_bytes for group in self.groups) + self.tail_bytes


def write_header(header: Header, payload: memoryview) -> None:
    """Write the header to the beginning of a payload."""
    _HEADER.pack_into(payload, 0, VERSION, header.exponent_first, header.width, len(header.groups), header.raw_bytes)
    for index, group in enumerate(header.groups):
        position = _HEADER.size + _GROUP.size * index
        _GROUP.pack_into(payload, position, group.byte_count, group.coding, group.stored_bytes)


def raw_bytes_of(payload: memoryview) -> int:
    """Return how many raw bytes a payload claims; for callers that have to allocate them, at their own risk.

    Raises:
        MalformedError: there is no whole header.
        UnsupportedError: the payload has a later version.
    """
    if payload.nbytes < _HEADER.size:
        raise MalformedError(f"planes are truncated in their header, at byte {payload.nbytes}")
    version, _, _, _, raw_bytes = _HEADER.unpack_from(payload)
    if version != VERSION:
        raise UnsupportedError(f"planes are of version {version}, this version reads {VERSION}: upgrade")
    return int(raw_bytes)


def read_header(payload: memoryview, raw_bytes: int) -> Header:
    """Check every number against the others, the payload's length and the memory that waits for it.

    Raises:
        MalformedError: a rule of the format is broken, or the payload is not for `raw_bytes` raw bytes.
        UnsupportedError: the payload has a later version.
    """
    claimed_bytes = raw_bytes_of(payload)
    if claimed_bytes != raw_bytes:
        raise MalformedError(f"planes say {claimed_bytes} raw bytes, {raw_bytes} were expected")
    _, arrangement, width, group_count, _ = _HEADER.unpack_from(payload)
    if width not in _WIDTHS or arrangement > (width > 1) or not 1 <= group_count <= width:
        raise MalformedError(f"planes have width {width}, arrangement {arrangement}, {group_count} groups")
    if payload.nbytes < _HEADER.size + _GROUP.size * group_count:
        raise MalformedError(f"planes are truncated in their groups, at byte {payload.nbytes}")
    header = Header(width, bool(arrangement), raw_bytes, _read_groups(payload, group_count))
    _check_groups(header)
    if header.payload_bytes != payload.nbytes:
        raise MalformedError(f"planes say they have {header.payload_bytes} bytes, {payload.nbytes} are stored")
    return header


def _read_groups(payload: memoryview, group_count: int) -> tuple[Group, ...]:
    groups: list[Group] = []
    first_byte = 0
    for index in range(group_count):
        byte_count, coding, stored_bytes = _GROUP.unpack_from(payload, _HEADER.size + _GROUP.size * index)
        if coding > Coding.CODES:
            raise MalformedError(f"planes have a group with the unknown coding {coding}")
        groups.append(Group(first_byte, byte_count, Coding(coding), stored_bytes))
        first_byte += byte_count
    return tuple(groups)


def _check_groups(header: Header) -> None:
    """Refuse groups that do not cover the element exactly, or store what they cannot."""
    for group in header.groups:
        end = group.first_byte + group.byte_count
        if group.byte_count not in (1, 2, 4):
            raise MalformedError(f"planes have a group of {group.byte_count} bytes")
        is_aligned = group.first_byte % group.byte_count == 0 and end <= header.joinable_end
        if group.byte_count > 1 and not (is_aligned and group.coding is Coding.RAW):
            raise MalformedError(
                f"planes have a {group.coding.name} group of {group.byte_count} bytes at byte {group.first_byte}"
            )
        if not _may_store(group, header.element_count):
            raise MalformedError(f"planes have a {group.coding.name} group of {group.stored_bytes} stored bytes")
    if end != header.width:
        raise MalformedError(f"planes have groups for {end} bytes of elements of {header.width}")


def _may_store(group: Group, element_count: int) -> bool:
    if group.coding is Coding.RAW:
        return group.stored_bytes == element_count * group.byte_count
    if group.coding is Coding.CONSTANT:
        return group.stored_bytes == 1 and element_count > 0
    return 0 < group.stored_bytes < element_count
