"""One object's representation in a pack: a head that says everything about it, then its stored bytes.

A record does not know where it lies, so it is copied from pack to pack as it is. Its length is in the
index, so one range read brings all that decoding needs. See docs/format/pack.md, "Record".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from thetastore.digest import Buffer, Digest, Kind
from thetastore.errors import MalformedError
from thetastore.packs.preamble import checksum64

RECORD_MARK = b"\xa7rec"
MAX_RAW_BYTES = 128 << 20
"""No object is longer: chunks have about 1 MiB, and the root of a manifest stays under its pointer's 64 MiB."""
MAX_PARAMS_BYTES = 2048
MAX_BASES = 16
MAX_DEPTH = 8
MAX_AMPLIFICATION = 16
LEAST_BASE_BUDGET_BYTES = 2 << 20
LEAST_BASE_COST_BYTES = 4096
MAX_HEAD_BYTES = 4096
"""A read of this many bytes brings every head whole."""

_HEAD = struct.Struct("<4sBBBBIIQQ16s32s16s")
_KINDS = {int(kind): kind for kind in Kind}
HEAD_BYTES = _HEAD.size + 8
MAX_RECORD_BYTES = MAX_HEAD_BYTES + MAX_RAW_BYTES

assert HEAD_BYTES + MAX_PARAMS_BYTES + MAX_BASES * 32 <= MAX_HEAD_BYTES


class Entry(NamedTuple):
    """What is stored for one object."""

    kind: int
    """A `Kind`, or the number of one that this version does not know."""
    digest: Digest
    codec: str
    params: bytes
    raw_bytes: int
    stored_bytes: int
    bases: tuple[Digest, ...]
    """The objects that decoding needs besides; none of them deeper than this."""
    depth: int
    """0 without bases, else more than the depth of every base, so no cycle can be written down."""
    checksum: bytes
    """XXH3-128 of the stored bytes."""


def most_base_bytes(raw_bytes: int) -> int:
    """Return how many raw bytes of bases, theirs included, an object of this length may ask a reader to decode."""
    return max(MAX_AMPLIFICATION * raw_bytes, LEAST_BASE_BUDGET_BYTES)


def base_cost_bytes(raw_bytes: int) -> int:
    """Return what a base of this length counts for in that sum, each time that it is decoded."""
    return max(raw_bytes, LEAST_BASE_COST_BYTES)


def encode_head(entry: Entry) -> bytes:
    """Return the head of a record: fixed fields, their checksum, params, bases."""
    _check_limits(entry, "a new record")
    fields = _HEAD.pack(
        RECORD_MARK,
        entry.kind,
        len(entry.bases),
        entry.depth,
        0,
        len(entry.params),
        0,
        entry.raw_bytes,
        entry.stored_bytes,
        entry.codec.encode("ascii"),
        entry.digest,
        entry.checksum,
    )
    rest = entry.params + b"".join(entry.bases)
    return fields + checksum64(fields + rest) + rest


def decode_head(head: Buffer, name: str, offset: int) -> tuple[Entry, int]:
    """Read the head that `head` starts with; return the entry and the head's length.

    Raises:
        MalformedError: cut off, another mark or checksum, or a field beyond its limit; the message names
            `name` and `offset`.
    """
    where = f"'{name}' is malformed at {offset}"
    if len(head) < HEAD_BYTES:
        raise MalformedError(f"{where}: a record's head is cut off after {len(head)} bytes")
    mark, kind, base_count, depth, zero, params_bytes, zeros, raw_bytes, stored_bytes, codec, digest, checksum = (
        _HEAD.unpack_from(head)
    )
    if mark != RECORD_MARK:
        raise MalformedError(f"{where}: {mark!r} is not the mark of a record")
    end = HEAD_BYTES + params_bytes + 32 * base_count
    if params_bytes > MAX_PARAMS_BYTES or base_count > MAX_BASES or end > len(head):
        raise MalformedError(f"{where}: {params_bytes} bytes of params and {base_count} bases are beyond the limits")
    rest = bytes(head[HEAD_BYTES:end])
    if checksum64(bytes(head[: _HEAD.size]) + rest) != head[_HEAD.size : HEAD_BYTES] or zero or zeros:
        raise MalformedError(f"{where}: the record's head does not have its checksum")
    bases = tuple(Digest(rest[at : at + 32]) for at in range(params_bytes, len(rest), 32)) if base_count else ()
    entry = Entry(
        _KINDS.get(kind, kind),
        Digest(digest),
        _codec_name(codec, where),
        rest[:params_bytes],
        raw_bytes,
        stored_bytes,
        bases,
        depth,
        checksum,
    )
    _check_limits(entry, where)
    return entry, end


class PlainRecord(NamedTuple):
    """A record without bases and parameters, of a codec of this version; nothing of it was checked."""

    kind: int
    codec: str
    raw_bytes: int
    stored: memoryview


_PLAIN_CODECS = {name.encode().ljust(16, b"\0"): name for name in ("literal", "constant", "zstd", "planes")}


def parse_plain(record: memoryview) -> PlainRecord | None:
    """Return what a whole record of the plainest form says, for who proves what comes of it; None for all others.

    Unlike `decode_head`, it believes fields without their checksum: use lengths only within limits of your own.
    """
    if len(record) < HEAD_BYTES:
        return None
    mark, kind, base_count, _, _, params_bytes, _, raw_bytes, stored_bytes, field, _, _ = _HEAD.unpack_from(record)
    codec = _PLAIN_CODECS.get(field)
    if codec is None or mark != RECORD_MARK or base_count or params_bytes or HEAD_BYTES + stored_bytes != len(record):
        return None
    return PlainRecord(kind, codec, raw_bytes, record[HEAD_BYTES:])


def _codec_name(field: bytes, where: str) -> str:
    name = field.rstrip(b"\0")
    if not name or not name.isascii() or not name.decode("ascii").isprintable():
        raise MalformedError(f"{where}: {field!r} is not the name of a codec")
    return name.decode("ascii")


def _check_limits(entry: Entry, where: str) -> None:
    if not 0 <= entry.stored_bytes <= entry.raw_bytes <= MAX_RAW_BYTES:
        raise MalformedError(f"{where}: {entry.stored_bytes} bytes stored for {entry.raw_bytes} raw bytes")
    if len(entry.params) > MAX_PARAMS_BYTES or len(entry.bases) > MAX_BASES or len(entry.codec) > 16:
        raise MalformedError(f"{where}: too many params or bases, or too long a codec name")
    if not 0 <= entry.depth <= MAX_DEPTH or bool(entry.depth) != bool(entry.bases) or entry.digest in entry.bases:
        raise MalformedError(f"{where}: depth {entry.depth} does not fit {len(entry.bases)} bases")
