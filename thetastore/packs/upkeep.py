"""What follows a seal: packs of dead writers adopted, the index completed, small packs and runs merged.

Whoever seals does it, so no process of its own is needed. Everything here only ever adds a file before
it removes what the file replaces, and every reader lists again when a file is gone; so all of it may
be killed at any point, beside readers and writers. Only one process merges at a time, under a lock
that nobody waits for.
"""

from __future__ import annotations

import errno

from thetastore.backends import Backend
from thetastore.digest import checksum_of
from thetastore.errors import (
    BackendError,
    FileUnreadableError,
    MalformedError,
    ObjectCorruptError,
    UnsupportedError,
)
from thetastore.packs.catalog import Catalog, Snapshot, id_of, open_run, records_of, sealed_pack
from thetastore.packs.index import PackInfo, Run, create_run, encode_run, write_run
from thetastore.packs.levels import of_one_size
from thetastore.packs.merging_runs import PIECE_ROWS, delete_unfinished, merge_runs
from thetastore.packs.reader import Pack, Packs, Record
from thetastore.packs.records import MAX_DEPTH, Entry
from thetastore.packs.writer import PackWriter, Row, SealedPack, sealed_name

SMALL_PACK_BYTES = 8 << 20
MOST_SMALL_PACKS = 50
MOST_RUNS = 50
MERGE_LOCK = "locks/merge"
LITTER_AGE_S = 24 * 3600.0
"""No process takes so long to create a file."""
_UNREADABLE = (FileNotFoundError, MalformedError, UnsupportedError, ObjectCorruptError, FileUnreadableError)


class Upkeep:
    """Seals packs and keeps a store's files few. Used by one thread."""

    def __init__(self, backend: Backend, catalog: Catalog, packs: Packs, pack_bytes: int) -> None:
        self._backend = backend
        self._catalog = catalog
        self._packs = packs
        self._pack_bytes = pack_bytes
        self._not_covered: list[SealedPack] = []

    def seal(self, writers: list[PackWriter]) -> None:
        """Seal packs in the making, dead writers' too; cover by one run what no run covers; merge.

        Writers that were sealed are closed, whatever happens; the others can be tried again.

        Raises:
            BackendError: some pack or the run could not be made durable. What was written stays readable,
                and the next seal, of whatever process, finishes the work.
        """
        self.settle(writers)
        if self._is_crowded(self._catalog.snapshot()):
            try:
                with self._backend.try_lock(MERGE_LOCK) as is_ours:
                    if is_ours:
                        self._catalog.refresh(thorough=True)
                        self._merge(self._catalog.snapshot())
            except BackendError as error:
                if not self._backend.is_remote or error.errno != errno.EACCES:
                    raise  # else somebody merges who may delete; what was written is durable

    def seal_early(self, writer: PackWriter) -> None:
        """Seal one pack; the run that covers it is written by the next `seal`.

        Raises:
            BackendError: it could not be made durable, and stays what it was.
        """
        self._not_covered.append(writer.seal())
        writer.close()

    def settle(self, writers: list[PackWriter]) -> set[str]:
        """Do what `seal` does but for merging; return the ids of packs whose writers are alive."""
        orphanage = _Orphanage(self._backend, self._packs)
        try:
            for writer in writers:
                self._not_covered.append(writer.seal())
            if not self._backend.is_remote:  # where writers cannot be seen, later listings tell nothing of them
                self._catalog.refresh()
            self._not_covered += orphanage.seal(self._catalog.snapshot())
            self._cover(self._catalog.snapshot(), orphanage.alive)
        finally:
            orphanage.close()
            for writer in writers:
                if writer.is_sealed:
                    writer.close()
        return orphanage.alive

    def replace(self, replaced: frozenset[str], sealed: list[SealedPack]) -> None:
        """Delete packs of which nothing is wanted that others do not hold, after they are out of the index."""
        self.uncover(replaced, sealed)
        for name in sorted(replaced):
            self._backend.delete(name)
        self._catalog.refresh()

    def uncover(self, replaced: frozenset[str], sealed: list[SealedPack]) -> None:
        """Take packs out of the index, by way of one new run: over `sealed`, and what is kept."""
        snapshot = self._catalog.snapshot()
        runs = _runs_to_merge(snapshot.runs, replaced)
        merge_runs(self._backend, runs, frozenset(map(id_of, snapshot.lost | replaced)), sealed)
        for run in runs:
            self._backend.delete(run.name)
        self._catalog.refresh()

    def rebuild_index(self) -> int:
        """Replace all index runs by one, made from the packs alone; return how many records it lists.

        Raises:
            BackendError: `EAGAIN` while another process merges.
        """
        with self._backend.try_lock(MERGE_LOCK) as is_ours:
            if not is_ours:
                raise BackendError(errno.EAGAIN, "another process is merging the index", self._backend.url)
            old_runs = list(self._backend.list("index"))
            self._catalog.refresh()
            new_runs, row_count = self._index_packs(sorted(self._catalog.snapshot().packs))
            while len(new_runs) > 1:
                new_runs = [self._merge_new(new_runs[at : at + MOST_RUNS]) for at in range(0, len(new_runs), MOST_RUNS)]
            for name in old_runs:
                self._backend.delete(name)
            self._catalog.refresh()
            return row_count

    def _index_packs(self, names: list[str]) -> tuple[list[str], int]:
        """Write runs that cover packs, each no longer than it may be in memory; return their names, and all rows."""
        runs: list[str] = []
        found: list[SealedPack] = []
        row_count = waiting = 0
        for name in names:
            for pack in self._read_pack(name):
                found.append(pack)
                waiting += len(pack.rows)
            if waiting > PIECE_ROWS:
                runs.append(write_run(self._backend, found))
                row_count, waiting, found = row_count + waiting, 0, []
        if found:
            runs.append(write_run(self._backend, found))
        return runs, row_count + waiting

    def _merge_new(self, names: list[str]) -> str:
        """Replace runs by one, which has all that they have."""
        if len(names) == 1:
            return names[0]
        merged = merge_runs(self._backend, [open_run(self._backend, name) for name in names])
        assert merged is not None
        for name in names:
            self._backend.delete(name)
        return merged

    def _cover(self, snapshot: Snapshot, alive: set[str]) -> None:
        """Write one run for all sealed packs without one, but those whose living writer is about to write it."""
        packs = {pack.id: pack for pack in self._not_covered}
        for loose in snapshot.loose:
            pack_id = id_of(loose.file_name)
            if loose.file_name in snapshot.packs and pack_id not in alive:
                packs.setdefault(pack_id, sealed_pack(loose))
        if packs:
            stored = encode_run(list(packs.values()))
            name = create_run(self._backend, stored)
            self._not_covered = []
            if self._backend.is_remote:
                self._catalog.add_run(Run(memoryview(stored), name))
            else:
                self._catalog.refresh()

    def _is_crowded(self, snapshot: Snapshot) -> bool:
        return len(snapshot.runs) > MOST_RUNS or self._has_many_small_packs(snapshot)

    def _has_many_small_packs(self, snapshot: Snapshot) -> bool:
        """Tell whether small packs are to be merged; not those of a far store: all of them would have to be fetched."""
        return not self._backend.is_remote and len(_small_packs(snapshot)) > MOST_SMALL_PACKS

    def _merge(self, snapshot: Snapshot) -> None:
        """Write what replaces small packs and runs; only then delete these: runs first, then packs."""
        self._backend.delete_litter(LITTER_AGE_S)
        delete_unfinished(self._backend)
        small = _small_packs(snapshot)
        rewriting = _Rewriting(self._backend, self._packs, snapshot, self._pack_bytes)
        try:
            if self._has_many_small_packs(snapshot):
                rewriting.copy(small)
            self.replace(rewriting.replaced, rewriting.seal())
        finally:
            rewriting.close()

    def _read_pack(self, name: str) -> list[SealedPack]:
        try:
            pack = self._packs.get(name)
            rows = [Row(record.entry.digest, record.offset, record.nbytes) for record in records_of(pack)]
            return [SealedPack(id_of(name), pack.size(), rows)]
        except (FileNotFoundError, MalformedError, UnsupportedError):
            return []


class _Orphanage:
    """Packs in the making whose writers are dead: taken over, cut to the last whole record, sealed."""

    def __init__(self, backend: Backend, packs: Packs) -> None:
        self._backend = backend
        self._packs = packs
        self._adopted: list[PackWriter] = []
        self.alive: set[str] = set()
        """Ids of the packs whose writers are alive."""

    def seal(self, snapshot: Snapshot) -> list[SealedPack]:
        sealed = []
        for name in sorted(snapshot.incoming):
            writer = self._adopt(name)
            if writer is not None:
                self._adopted.append(writer)
                try:
                    sealed.append(writer.seal())
                except BackendError:
                    pass  # it stays as readable as it was, and nobody was told that it is durable
        return sealed

    def close(self) -> None:
        for writer in self._adopted:
            writer.close()

    def _adopt(self, name: str) -> PackWriter | None:
        try:
            appender = self._backend.reopen(name)
        except (BlockingIOError, FileUnreadableError):  # somebody else's, who may be alive
            self.alive.add(id_of(name))
            return None
        except FileNotFoundError:
            return None  # another process has dealt with it
        try:
            if self._is_there(sealed_name(id_of(name))):
                appender.discard()  # killed after sealing: only the old name is left
                return None
            records = whole_records(self._packs.get(name)) if appender.size() else []
        except (MalformedError, UnsupportedError, FileUnreadableError):
            appender.close()  # not a pack, or a newer program's: not ours to judge; `verify` reports it
            return None
        if not records:
            appender.discard()
            return None
        return PackWriter.adopt(id_of(name), appender, records)

    def _is_there(self, name: str) -> bool:
        try:
            self._backend.size(name)
            return True
        except FileNotFoundError:
            return False


class _Rewriting:
    """Copies the records of small packs into new ones, each stored checksum looked at on the way."""

    def __init__(self, backend: Backend, packs: Packs, snapshot: Snapshot, pack_bytes: int) -> None:
        self.replaced: frozenset[str] = frozenset()
        """File names of the packs all of whose records are in the new ones, or elsewhere."""
        self._backend = backend
        self._packs = packs
        self._snapshot = snapshot
        self._pack_bytes = pack_bytes
        self._writers: list[PackWriter] = []
        self._copied: dict[bytes, int] = {}
        """Depth of what was copied, by digest."""

    def copy(self, small: list[PackInfo]) -> None:
        """Copy these packs, in the order of their ids: by age, so neighbours stay neighbours."""
        names = [sealed_name(info.id) for info in small]
        for name in names:
            if self._copy_pack(name, frozenset(names)):
                self.replaced |= {name}

    def _copy_pack(self, name: str, names: frozenset[str]) -> bool:
        """Copy one pack; tell whether all of it was read. A damaged one stays for repair to look at."""
        try:
            pack = self._packs.get(name)
            for record in pack.table():
                entry = record.entry
                if self._copied.get(entry.digest, MAX_DEPTH + 1) <= entry.depth or self._is_elsewhere(entry, names):
                    continue
                stored = stored_bytes_of(pack, record)
                self._writer(record.nbytes).append(entry, stored)
                self._copied[entry.digest] = entry.depth
            return True
        except _UNREADABLE:
            return False

    def _is_elsewhere(self, entry: Entry, names: frozenset[str]) -> bool:
        """Tell whether a sound representation, no deeper than this one, is in a sealed pack that is not being replaced.

        A deeper one will not do: this one may be the base of its base.
        """
        for place in self._snapshot.find(entry.digest):
            if place.file_name in names or place.file_name not in self._snapshot.packs - self._snapshot.retired:
                continue
            try:
                pack = self._packs.get(place.file_name)
                record = next(pack.records(place.offset), None)
                if record is not None and record.entry.digest == entry.digest and record.entry.depth <= entry.depth:
                    stored_bytes_of(pack, record)
                    return True
            except _UNREADABLE:
                continue
        return False

    def _writer(self, nbytes: int) -> PackWriter:
        if not self._writers or not self._writers[-1].has_room_for(nbytes, self._pack_bytes):
            self._writers.append(PackWriter.new(self._backend))
        return self._writers[-1]

    def seal(self) -> list[SealedPack]:
        return [writer.seal() for writer in self._writers]

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def stored_bytes_of(pack: Pack, record: Record) -> memoryview:
    """Read the stored bytes of a record.

    Raises:
        ObjectCorruptError: they do not have their checksum.
    """
    entry: Entry = record.entry
    stored = pack.read(record.offset + record.nbytes - entry.stored_bytes, entry.stored_bytes)
    if checksum_of(stored) != entry.checksum:
        raise ObjectCorruptError(str(entry.digest), pack.name, "the stored bytes do not have their checksum")
    return stored


def whole_records(pack: Pack) -> list[Record]:
    """Return the records of a pack, read forwards, up to the last one whose stored bytes are whole.

    A damaged one before others stays: cutting there would lose what follows.
    """
    records = list(pack.records())
    while records and not _is_whole(pack, records[-1]):
        records.pop()
    return records


def _is_whole(pack: Pack, record: Record) -> bool:
    try:
        stored_bytes_of(pack, record)
        return True
    except ObjectCorruptError:
        return False


def _small_packs(snapshot: Snapshot) -> list[PackInfo]:
    packs = {pack.id: pack for run in snapshot.runs for pack in run.packs if pack.file_bytes < SMALL_PACK_BYTES}
    return [pack for id, pack in sorted(packs.items()) if sealed_name(id) in snapshot.packs - snapshot.retired]


def _runs_to_merge(runs: tuple[Run, ...], replaced: frozenset[str]) -> list[Run]:
    """Choose the runs that name a replaced pack, and the smallest others while they are of one size."""
    chosen = [run for run in runs if any(sealed_name(pack.id) in replaced for pack in run.packs)]
    others = (run for run in runs if run not in chosen)
    return chosen + of_one_size(others, sum(run.count for run in chosen), least=0)
