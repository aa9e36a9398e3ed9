"""Packs that go because others hold all that is in them, without anybody ever missing them.

A pack whose records were merely copied can be deleted at once: who looks for it lists again. But where an object gets
a deeper representation than it had, a writer that still leans on the old one would leave a delta whose base is too
deep. So such packs are first *retired*: a note names them, and from then on they are read only where nothing else
serves, and are nobody's base. A writer that looked at the store before the note has a locked pack in the making. Only
when none of these is left, and whatever they wrote has been looked at, is a retired pack deleted; what still leans on
something in it gets a copy of that first. No clock is asked. See docs/format/store.md, "Retiring".

All of it happens under the lock of merging, may be killed at any point, and is finished by whoever seals next.
"""

from __future__ import annotations

from collections.abc import Iterable

from thetastore.backends import Backend
from thetastore.digest import Digest
from thetastore.errors import MalformedError, ObjectCorruptError, UnsupportedError
from thetastore.packs.catalog import Catalog, id_of, records_of
from thetastore.packs.index import Place
from thetastore.packs.reader import Packs, Record
from thetastore.packs.records import MAX_DEPTH
from thetastore.packs.retirement_notes import write_note
from thetastore.packs.upkeep import MERGE_LOCK, Upkeep, stored_bytes_of
from thetastore.packs.writer import PackWriter

_ANY_DEPTH = MAX_DEPTH + 1
_UNREADABLE = (FileNotFoundError, MalformedError, UnsupportedError, ObjectCorruptError)


def retire(
    backend: Backend, catalog: Catalog, packs: Packs, upkeep: Upkeep, going: frozenset[str], fresh: frozenset[str]
) -> None:
    """Note durably that sealed packs will go; what only they have, or others need of them, is copied first.

    The caller holds the lock of merging.

    Args:
        backend: where the packs are.
        catalog: what it holds.
        packs: the open ones.
        upkeep: seals what is copied.
        going: file names of the packs.
        fresh: file names of packs that the caller has just written, whose stored bytes need no second look.

    Raises:
        BackendError: the disk is full or failing; nothing was retired.
    """
    catalog.refresh(thorough=True)
    rescue = _Rescue(backend, catalog, packs, going, fresh)
    try:
        for name in sorted(going):
            for record in records_of(packs.get(name)):
                rescue.keep(record.entry.digest, _ANY_DEPTH)
        checked = sorted(catalog.snapshot().packs - catalog.snapshot().retired - going)
        rescue.keep_bases(checked)
        checked += [f"packs/{id_of(name)}.pack" for name in rescue.file_names]
        upkeep.settle(rescue.writers)
    finally:
        rescue.close()
    write_note(backend, map(id_of, going), map(id_of, checked))
    catalog.refresh()


def sweep(backend: Backend, catalog: Catalog, packs: Packs, upkeep: Upkeep) -> bool:
    """Delete retired packs if no writer is alive that may lean on them; tell whether none are left.

    Does nothing while another process merges or repacks.

    Raises:
        BackendError: the disk is full or failing; the next sweep goes on.
    """
    with backend.try_lock(MERGE_LOCK) as is_ours:
        return is_ours and sweep_locked(backend, catalog, packs, upkeep)


def sweep_locked(backend: Backend, catalog: Catalog, packs: Packs, upkeep: Upkeep) -> bool:
    """Do what `sweep` does for a caller that holds the lock."""
    # Listed after the note was written: who is not in the list has looked at the store after it.
    alive = upkeep.settle([])
    if not catalog.snapshot().notes:
        return True
    if alive:
        return False
    catalog.refresh(thorough=True)
    snapshot = catalog.snapshot()
    rescue = _Rescue(backend, catalog, packs, snapshot.retired, frozenset())
    checked = {f"packs/{pack_id}.pack" for note in snapshot.notes for pack_id in note.checked}
    try:
        rescue.keep_bases(sorted(snapshot.packs - snapshot.retired - checked))
        upkeep.settle(rescue.writers)
    finally:
        rescue.close()
    upkeep.replace(snapshot.retired, [])
    for note in snapshot.notes:
        backend.delete(note.name)
    catalog.refresh()
    return True


class _Rescue:
    """Copies, of what is in packs that go, what would be missed."""

    def __init__(
        self, backend: Backend, catalog: Catalog, packs: Packs, going: frozenset[str], fresh: frozenset[str]
    ) -> None:
        self.writers: list[PackWriter] = []
        self._backend = backend
        self._packs = packs
        self._snapshot = catalog.snapshot()
        self._going = going
        self._fresh = fresh
        self._copied: dict[Digest, int] = {}
        """Depth of what was copied."""

    @property
    def file_names(self) -> list[str]:
        return [writer.file_name for writer in self.writers]

    def keep_bases(self, names: Iterable[str]) -> None:
        """See to it that all that stands in these packs keeps bases that are not too deep for it."""
        for name in names:
            try:
                records = records_of(self._packs.get(name))
            except _UNREADABLE:
                continue  # nothing can be read of it; `verify` says so
            for record in records:
                for base in record.entry.bases:
                    self.keep(base, record.entry.depth)

    def keep(self, digest: Digest, below: int) -> None:
        """See to it that a representation of a depth `below` stays, if there is one."""
        if self._copied.get(digest, _ANY_DEPTH) < below:
            return
        places = list(self._snapshot.find(digest))
        going = [place for place in places if place.file_name in self._going]
        if not going:
            return
        if any(
            self._record(place, digest, below, place.file_name not in self._fresh)
            for place in places
            if place.file_name.startswith("packs/") and place.file_name not in self._going | self._snapshot.retired
        ):
            return
        found = [(place, record) for place in going if (record := self._record(place, digest, below, True))]
        if found:
            self._copy(*min(found, key=lambda pair: pair[1].entry.depth))

    def _record(self, place: Place, digest: Digest, below: int, is_looked_at: bool) -> Record | None:
        """Return the record at a place, if it is that object's, `below` that depth, and sound."""
        try:
            pack = self._packs.get(place.file_name)
            record = next(pack.records(place.offset), None)
            if record is None or record.entry.digest != digest or record.entry.depth >= below:
                return None
            if is_looked_at:
                stored_bytes_of(pack, record)
            return record
        except _UNREADABLE:
            return None

    def _copy(self, place: Place, record: Record) -> None:
        if not self.writers or not self.writers[-1].has_room_for(record.nbytes, 256 << 20):
            self.writers.append(PackWriter.new(self._backend))
        entry = record.entry
        self.writers[-1].append(entry, stored_bytes_of(self._packs.get(place.file_name), record))
        self._copied[entry.digest] = entry.depth
        for base in entry.bases:
            self.keep(base, entry.depth)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
