"""Notes of packs that are about to go (docs/format/store.md, "Retiring"; docs/format/collecting.md).

A note's name says how far its packs are on their way: *replaced* ones go as soon as nobody can lean on them any more,
since others hold all that is wanted of them; *condemned* ones wait for a grace, and for a second look; those in the
*trash* are read by nobody, and may still come back. In all three, nothing in them counts as being there.

A note is written once, whole, and deleted after the last of its packs. One that cannot be read is none: its packs then
count as any others, and nothing is lost.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.digest import checksum_of
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble, preamble
from thetastore.packs.writer import new_id, sealed_name

NOTE_MAGIC = b"\xa7thret\n\0"
DIRECTORY = "retired"
_COUNTS = struct.Struct("<QQ")
MAX_NOTE_IDS = 1 << 20
"""256 TB of packs; what a note names is held in memory, by every reader."""
_CHECKSUM_BYTES = 16


class Stage(enum.Enum):
    """How far packs are on their way out; the value is how the file names of notes end."""

    REPLACED = ".note"
    CONDEMNED = ".condemned"
    TRASH = ".trash"


class RetirementNote(NamedTuple):
    """What one note says."""

    name: str
    """Its file name."""
    retired: frozenset[str]
    """Ids of the packs that will go."""
    checked: frozenset[str]
    """Ids of the packs that were looked at: nothing in them needs what goes."""

    @property
    def stage(self) -> Stage:
        """How far the packs are."""
        return _STAGES[self.name[self.name.rindex(".") :]]

    @property
    def id(self) -> str:
        """What its name has in common with that of its next stage."""
        return self.name.partition("/")[2].partition(".")[0]

    @property
    def file_names(self) -> frozenset[str]:
        """File names of the packs that will go."""
        return frozenset(map(sealed_name, self.retired))


def stage_of(name: str) -> Stage | None:
    """Return the stage that a file name tells; None where it is not that of a note."""
    directory, _, last = name.partition("/")
    note_id, dot, ending = last.partition(".")
    is_ours = directory == DIRECTORY and len(note_id) == 32 and _HEXADECIMAL.issuperset(note_id)
    return _STAGES.get(dot + ending) if is_ours else None


def write_note(
    backend: Backend,
    retired: Iterable[str],
    checked: Iterable[str],
    stage: Stage = Stage.REPLACED,
    note_id: str | None = None,
) -> str:
    """Write a note, durably; return its file name.

    Args:
        backend: where the packs are.
        retired: ids of the packs that will go.
        checked: ids of those that were looked at.
        stage: how far the packs are.
        note_id: of the note of the stage before, if there is one.

    Raises:
        FileExistsError: somebody else has taken the packs to this stage.
    """
    going, staying = sorted(retired), sorted(checked)
    ids = b"".join(bytes.fromhex(pack_id) for pack_id in going + staying)
    body = _COUNTS.pack(len(going), len(staying)) + ids
    name = f"{DIRECTORY}/{note_id or new_id()}{stage.value}"
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
    if _COUNTS.size + 16 * (going + staying) != len(body) or going + staying > MAX_NOTE_IDS:
        return None
    ids = [body[at : at + 16].hex() for at in range(_COUNTS.size, len(body), 16)]
    return RetirementNote(name, frozenset(ids[:going]), frozenset(ids[going:]))


_STAGES = {stage.value: stage for stage in Stage}
_HEXADECIMAL = frozenset("0123456789abcdef")
