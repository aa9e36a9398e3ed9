"""Short records that stand alone, read with as little ceremony as the proof allows.

A checkout of a thousand small adapters is six thousand of them (`benchmarks.spine --only small`), and what `reading`
weighs for each, bases, budgets, other places, explanations, took longer than reading, decoding and hashing. What is odd
in any way is None here and left to it: only bytes that have the digest are returned, so nothing else is believed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thetastore import codecs
from thetastore.digest import Digest, Kind, digest_of
from thetastore.errors import MalformedError
from thetastore.packs.records import parse_plain

if TYPE_CHECKING:
    from thetastore.packs.index import Place
    from thetastore.packs.reader import Packs

MAX_RECORD_BYTES = 64 << 10
"""Longer records are decoded into memory that is used again, see `Representations.take`."""
_MAX_RAW_BYTES = 256 << 10


def read_short(packs: Packs, place: Place, kind: Kind, digest: Digest, out: memoryview | None) -> memoryview | None:
    """Return an object's bytes, proven, in `out` or new memory; None where its record is not short and plain.

    Raises:
        FileNotFoundError: the pack is gone.
        MalformedError, UnsupportedError: the preamble of the pack.
    """
    if place.nbytes > MAX_RECORD_BYTES:
        return None
    record = packs.get(place.file_name).read(place.offset, place.nbytes)
    plain = parse_plain(record)
    if plain is None or plain.kind != kind or plain.raw_bytes > _MAX_RAW_BYTES:
        return None
    if out is None:
        out = memoryview(bytearray(plain.raw_bytes))
    elif len(out) != plain.raw_bytes:
        return None
    try:
        codecs.decode(plain.codec, b"", plain.stored, out)
    except MalformedError:
        return None
    return out if digest_of(out, kind) == digest else None
