"""The first 32 bytes of binary files: packs, index runs and the like (docs/format/store.md, "Preamble")."""

from __future__ import annotations

import struct

import xxhash

from thetastore.digest import Buffer
from thetastore.errors import MalformedError, UnsupportedError

VERSION = 1
OLDEST_VERSION = 0
"""The draft; it differs in nothing but this number, so what it wrote is read, and copied, as it is."""
PREAMBLE_BYTES = 32
_PREAMBLE = struct.Struct("<8sIIII")  # magic, version, required features, optional features, zero


def preamble(magic: bytes) -> bytes:
    """Return the preamble of a new file."""
    fields = _PREAMBLE.pack(magic, VERSION, 0, 0, 0)
    return fields + checksum64(fields)


def check_preamble(head: Buffer, magic: bytes, name: str) -> None:
    """Refuse a file that is something else, is damaged, or needs a newer reader.

    Raises:
        MalformedError: too short, another magic, another checksum, a reserved field that is not zero.
        UnsupportedError: a version or a required feature that this reader does not know.
    """
    if len(head) < PREAMBLE_BYTES:
        raise MalformedError(f"'{name}' is malformed: it has {len(head)} bytes, its preamble alone takes 32")
    found, version, required, _optional, zero = _PREAMBLE.unpack_from(head)
    if found != magic:
        raise MalformedError(f"'{name}' is malformed: it starts with {found!r}, expected {magic!r}")
    if checksum64(head[: _PREAMBLE.size]) != head[_PREAMBLE.size : PREAMBLE_BYTES] or zero:
        raise MalformedError(f"'{name}' is malformed: its preamble does not have its checksum")
    if not OLDEST_VERSION <= version <= VERSION or required:
        raise UnsupportedError(
            f"'{name}' has format version {version} and required features {required:#x}: this thetastore reads "
            f"version {VERSION} without features; a newer one is needed (pip install --upgrade thetastore)"
        )


def version_of(head: Buffer, magic: bytes, name: str) -> int:
    """Return the version that a file says it has; errors as of `check_preamble`."""
    check_preamble(head, magic, name)
    version: int = _PREAMBLE.unpack_from(head)[1]
    return version


def checksum64(part: Buffer) -> bytes:
    """Return XXH3-64 in canonical (big-endian) order, 8 bytes: the checksum of heads and trailers."""
    return xxhash.xxh3_64(part).digest()
