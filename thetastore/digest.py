"""Names of objects: BLAKE3-256 of their raw bytes, and the fast checksum of stored bytes.

A chunk is named by the plain BLAKE3 of its bytes, so that anybody can compute the name with
`b3sum`. Manifests and pages are hashed in derive-key mode under contexts of their own: the bytes of
a tensor can then never be passed off as a manifest, or the other way round, whatever they spell.

Source: BLAKE3 specification, section 2.3 (modes). xxHash specification 0.1.1 (XXH3, 128 bits).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol, Self

import blake3 as _blake3
import xxhash

from thetastore.errors import MalformedError

Buffer = bytes | bytearray | memoryview


class Digest(bytes):
    """The 32 bytes that name an object. Equal and hashable as bytes; `str()` is hexadecimal."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read 64 lower-case hexadecimal digits.

        Raises:
            MalformedError: other length, other characters, or upper case.
        """
        if isinstance(text, bytes):
            text = text.decode("ascii", "replace")
        try:
            value = cls(bytes.fromhex(text))
        except ValueError:
            value = cls()
        if len(value) != 32 or value.hex() != text:
            raise MalformedError(f"'{text[:80]}' is not a digest: expected 64 lower-case hexadecimal digits")
        return value

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Digest({self.hex()})"


class Kind(enum.IntEnum):
    """What an object is; stored beside each record, and mixed into the names of all but chunks."""

    CHUNK = 1
    """Bytes of a file: a piece of a tensor, of the skeleton, or of an opaque file."""
    MANIFEST = 2
    """The root of a manifest."""
    PAGE = 3
    """A page of a manifest's chunk list."""


class Hasher(Protocol):
    """What BLAKE3 objects offer."""

    def update(self, data: Buffer, /) -> object:
        """Append bytes."""

    def digest(self) -> bytes:
        """Return the 32 bytes for what was appended so far."""


_MANIFEST_CONTEXT = "thetastore 2026-11 manifest root"
_PAGE_CONTEXT = "thetastore 2026-11 manifest page"

new_hasher: Callable[[], Hasher] = _blake3.blake3
"""Make an incremental hasher for tensors and files: plain BLAKE3."""


def digest_of(raw: Buffer, kind: Kind = Kind.CHUNK) -> Digest:
    """Return the name of an object; releases the GIL for large inputs."""
    if kind is Kind.CHUNK:
        return Digest(_blake3.blake3(raw).digest())
    context = _MANIFEST_CONTEXT if kind is Kind.MANIFEST else _PAGE_CONTEXT
    return Digest(_blake3.blake3(raw, derive_key_context=context).digest())


def checksum_of(stored: Buffer) -> bytes:
    """Return XXH3-128 of stored bytes, 16 bytes, canonical (big-endian) order."""
    return xxhash.xxh3_128(stored).digest()
