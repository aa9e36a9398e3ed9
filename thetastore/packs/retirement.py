"""Packs that go because others hold all that is wanted of them, without anybody ever missing them.

A pack whose records were merely copied can be deleted at once: who looks for it lists again. But where an object gets
a deeper representation than it had, a writer that still leans on the old one would leave a delta whose base is too
deep. So such packs are first *retired*: a note names them, and from then on they are read only where nothing else
serves, and are nobody's base. A writer that looked at the store before the note has a locked pack in the making. Only
when none of these is left, and whatever they wrote has been looked at, is a retired pack deleted; what still leans on
something in it gets a copy of that first. No clock is asked. See docs/format/store.md, "Retiring".

What a collector lets go of takes the same way with two stops more: packs are *condemned* for a grace, looked at again,
and then lie in the *trash* for a while (docs/format/collecting.md).

All of it happens under the lock of merging, may be killed at any point, and is finished by whoever seals next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.digest import Buffer, Digest
from thetastore.errors import MalformedError, ObjectCorruptError, UnsupportedError
from thetastore.packs.catalog import Catalog, id_of, records_of
from thetastore.packs.index import Place
from thetastore.packs.reader import Packs, Record
from thetastore.packs.records import MAX_DEPTH, Entry
from thetastore.packs.retirement_notes import RetirementNote, Stage, write_note
from thetastore.packs.upkeep import MERGE_LOCK, Upkeep, stored_bytes_of
from thetastore.packs.writer import PackWriter

CodeAlone = Callable[[Digest], tuple[Entry, Buffer] | None]
"""Returns a record of an object that stands on nothing; None where the object cannot be read."""


class Wanted(NamedTuple):
    """What has to stay of packs that go."""

    is_wanted: Callable[[Entry], bool]
    leaning: Collection[str]
    """File names of the packs that stay and in which something has its base in one that goes."""
    looked_at: Collection[str]
    """File names of the packs that `leaning` was chosen from: whatever was sealed since may lean on anything."""

    def to_look_at(self, staying: Iterable[str]) -> list[str]:
        """Return which of the packs that stay may have a base in one that goes."""
        return [name for name in staying if name in self.leaning or name not in self.looked_at]


_ANY_DEPTH = MAX_DEPTH + 1
_PACK_BYTES = 256 << 20
_UNREADABLE = (FileNotFoundError, MalformedError, UnsupportedError, ObjectCorruptError)


def retire(
    backend: Backend,
    catalog: Catalog,
    packs: Packs,
    upkeep: Upkeep,
    going: frozenset[str],
    fresh: frozenset[str] = frozenset(),
    wanted: Wanted | None = None,
    stage: Stage = Stage.REPLACED,
) -> int:
    """Note durably that sealed packs will go; what only they have, or others need of them, is copied first.

    The caller holds the lock of merging.

    Args:
        backend: where the packs are.
        catalog: what it holds.
        packs: the open ones.
        upkeep: seals what is copied.
        going: file names of the packs.
        fresh: file names of packs that the caller has just written, whose stored bytes need no second look.
        wanted: what of the packs has to stay; None for everything.
        stage: `CONDEMNED` has the packs wait for a collector's second look.

    Returns:
        How many bytes were copied.

    Raises:
        BackendError: the disk is full or failing; nothing was retired.
        ObjectCorruptError: something that is wanted cannot be copied; nothing was retired.
    """
    catalog.refresh(thorough=True)
    rescue = _Rescue(backend, catalog, packs, going, fresh, wanted is not None)
    try:
        rescue.keep_all(going, wanted)
        checked = sorted(catalog.snapshot().packs - catalog.snapshot().retired - going)
        rescue.keep_bases(checked if wanted is None else wanted.to_look_at(checked))
        checked += [f"packs/{id_of(name)}.pack" for name in rescue.file_names]
        upkeep.settle(rescue.writers)
    finally:
        rescue.close()
    write_note(backend, map(id_of, going), map(id_of, checked), stage)
    catalog.refresh()
    return rescue.copied_bytes


def put_in_trash(
    backend: Backend, catalog: Catalog, packs: Packs, upkeep: Upkeep, note: RetirementNote, wanted: Wanted
) -> int:
    """Take condemned packs out of the index and of everybody's sight; what is wanted of them by now is copied first.

    The caller holds the lock of merging, and has looked at everything once more after all were gone who could have
    looked at the store before the note. Raises and returns as `retire` does.
    """
    going = note.file_names & catalog.snapshot().packs
    rescue = _Rescue(backend, catalog, packs, going, frozenset(), True)
    try:
        rescue.keep_all(going, wanted)
        rescue.keep_bases(wanted.leaning)
        upkeep.settle(rescue.writers)
    finally:
        rescue.close()
    try:
        write_note(backend, note.retired, (), Stage.TRASH, note.id)
    except FileExistsError:
        pass  # killed here, an earlier time
    upkeep.uncover(going, [])
    backend.delete(note.name)
    catalog.refresh()
    return rescue.copied_bytes


def sweep(backend: Backend, catalog: Catalog, packs: Packs, upkeep: Upkeep, code_alone: CodeAlone) -> bool:
    """Delete retired packs if no writer is alive that may lean on them; tell whether none are left.

    Does nothing while another process merges or repacks.

    Raises:
        BackendError: the disk is full or failing; the next sweep goes on.
    """
    with backend.try_lock(MERGE_LOCK) as is_ours:
        return is_ours and sweep_locked(backend, catalog, packs, upkeep, code_alone)


def sweep_locked(backend: Backend, catalog: Catalog, packs: Packs, upkeep: Upkeep, code_alone: CodeAlone) -> bool:
    """Do what `sweep` does for a caller that holds the lock."""
    # Listed after the note was written: who is not in the list has looked at the store after it.
    alive = upkeep.settle([])
    if not catalog.snapshot().notes_of(Stage.REPLACED):
        return True
    if alive:
        return False
    catalog.refresh(thorough=True)
    snapshot = catalog.snapshot()
    notes = snapshot.notes_of(Stage.REPLACED)
    going = snapshot.packs.intersection(name for note in notes for name in note.file_names)
    rescue = _Rescue(backend, catalog, packs, going, frozenset())
    checked = {f"packs/{pack_id}.pack" for note in notes for pack_id in note.checked}
    try:
        late = sorted(snapshot.packs - snapshot.retired - checked)
        rescue.keep_bases(late)
        rescue.keep_dear_ones(late, code_alone)
        upkeep.settle(rescue.writers)
    finally:
        rescue.close()
    upkeep.replace(going, [])
    for note in notes:
        backend.delete(note.name)
    catalog.refresh()
    return True


class _Rescue:
    """Copies, of what is in packs that go, what would be missed."""

    def __init__(
        self,
        backend: Backend,
        catalog: Catalog,
        packs: Packs,
        going: frozenset[str],
        fresh: frozenset[str],
        is_strict: bool = False,
    ) -> None:
        """Copy from packs, unless others have the same.

        Args:
            backend: where the packs are.
            catalog: what it holds.
            packs: the open ones.
            going: file names of the packs.
            fresh: see `retire`.
            is_strict: whether it is an error if something cannot be copied.
        """
        self.writers: list[PackWriter] = []
        self.copied_bytes = 0
        self._is_strict = is_strict
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

    def keep_all(self, names: Iterable[str], wanted: Wanted | None) -> None:
        """See to it that of what is in these packs some representation stays, as far as it is wanted."""
        for name in sorted(names):
            for record in records_of(self._packs.get(name)):
                if wanted is None or wanted.is_wanted(record.entry):
                    self.keep(record.entry.digest, _ANY_DEPTH)

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

    def keep_dear_ones(self, names: Iterable[str], code_alone: CodeAlone) -> None:
        """Store another time, alone, what a writer made of copies of differences, and had counted the cost of.

        A base may have become dearer to read without being too deep: by up to twice as a difference, which leaves room
        enough, but by more as copies. It is rare, and the next repack drops the one of the two that is larger.
        """
        for name in names:
            try:
                records = records_of(self._packs.get(name))
            except _UNREADABLE:
                continue
            for entry in (record.entry for record in records):
                if entry.depth > 1 and entry.codec != "difference" and entry.digest not in self._copied:
                    alone = code_alone(entry.digest)
                    if alone is not None:
                        self._append(*alone)

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
        elif self._is_strict:
            words = f"it has no sound record of a depth below {below}, so nothing may go"
            raise ObjectCorruptError(str(digest), going[0].file_name, words)

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
        entry = record.entry
        self._append(entry, stored_bytes_of(self._packs.get(place.file_name), record))
        for base in entry.bases:
            self.keep(base, entry.depth)

    def _append(self, entry: Entry, stored: Buffer) -> None:
        if not self.writers or not self.writers[-1].has_room_for(entry.stored_bytes, _PACK_BYTES):
            self.writers.append(PackWriter.new(self._backend))
        self.writers[-1].append(entry, stored)
        self._copied[entry.digest] = entry.depth
        self.copied_bytes += entry.stored_bytes

    def close(self) -> None:
        for writer in self.writers:
            writer.close()
