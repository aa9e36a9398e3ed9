"""Notes of packs that are about to go, because others hold all that is in them (docs/format/store.md, "Retiring").

A note is written once, whole, and deleted after the last of its packs. One that cannot be read is none: its packs then
count as any others, and nothing is lost.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.digest import checksum_of
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble, preamble
from thetastore.packs.writer import new_id

NOTE_MAGIC = b"\xa7thret\n\0"
_COUNTS = struct.Struct("<QQ")
_CHECKSUM_BYTES = 16


class RetirementNote(NamedTuple):
    """What one note says."""

    name: str
    """Its file name."""
    retired: frozenset[str]
    """Ids of the packs that will go."""
    checked: frozenset[str]
    """Ids of the packs that were looked at: nothing in them needs what goes."""


def write_note(backend: Backend, retired: Iterable[str], checked: Iterable[str]) -> str:
    """Write a note, durably; return its file name."""
    going, staying = sorted(retired), sorted(checked)
    ids = b"".join(bytes.fromhex(pack_id) for pack_id in going + staying)
    body = _COUNTS.pack(len(going), len(staying)) + ids
    name = f"retired/{new_id()}.note"
    backend.create(name, preamble(NOTE_MAGIC) + body + checksum_of(body))
    return name


def read_note(backend: Backend, name: str) -> RetirementNote | None:
    """Return what a note says; None if it is gone, malformed, or of a newer version."""
    try:
        stored = backend.view(name)
        check_preamble(stored[:PREAMBLE_BYTES], NOTE_MAGIC, name)
    except (FileNotFoundError, MalformedError, UnsupportedError):
        return None
    body = stored[PREAMBLE_BYTES:-_CHECKSUM_BYTES]
    if len(body) < _COUNTS.size or checksum_of(body) != bytes(stored[-_CHECKSUM_BYTES:]):
        return None
    going, staying = _COUNTS.unpack_from(body)
    if _COUNTS.size + 16 * (going + staying) != len(body):
        return None
    ids = [body[at : at + 16].hex() for at in range(_COUNTS.size, len(body), 16)]
    return RetirementNote(name, frozenset(ids[:going]), frozenset(ids[going:]))
