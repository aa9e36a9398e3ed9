"""What was let go of, taken back: out of the trash, or before it ever got there."""

from __future__ import annotations

from typing import NamedTuple

from thetastore.backends.clock import now_s
from thetastore.errors import MalformedError
from thetastore.objects import Objects
from thetastore.packs.retirement_notes import RetirementNote, Stage


class LetGo(NamedTuple):
    """Packs that are on their way out together."""

    id: str
    stage: Stage
    since_s: float
    """How long they have been in this stage, by the place's clock."""
    pack_count: int
    nbytes: int


def list_let_go(objects: Objects) -> list[LetGo]:
    """Return what is condemned or in the trash, the oldest first.

    Raises:
        BackendError: the place does not answer.
    """
    objects.count_only_durable()
    objects.catalog.refresh()
    backend, time_s = objects.backend, now_s(objects.backend)
    found = []
    for note in _notes(objects):
        try:
            sizes = [backend.size(name) for name in note.file_names]
            since_s = time_s - backend.written_s(note.name)
        except FileNotFoundError:
            continue  # deleted, or taken back, just now
        found.append(LetGo(note.id, note.stage, since_s, len(sizes), sum(sizes)))
    return found


def undelete(objects: Objects, note_id: str | None = None) -> list[LetGo]:
    """Take packs back, so that everything in them is there as before; return which.

    They stay for a grace: what nothing names by then is let go of again.

    Args:
        objects: of the store.
        note_id: which; None for all.

    Raises:
        MalformedError: nothing of this id was let go of.
        BackendError: the place does not answer.
    """
    found = [one for one in list_let_go(objects) if note_id in (None, one.id)]
    if note_id is not None and not found:
        raise MalformedError(f"nothing that was let go of is called '{note_id[:40]}'")
    for note in _notes(objects):
        if note.id in {one.id for one in found}:
            objects.backend.delete(note.name)
    objects.catalog.refresh()
    objects.seal()
    return found


def _notes(objects: Objects) -> list[RetirementNote]:
    return [note for note in objects.catalog.snapshot().notes if note.stage is not Stage.REPLACED]
