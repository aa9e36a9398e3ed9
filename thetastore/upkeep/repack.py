"""Everything in a store represented anew, where that takes less, and laid out in few packs without duplicates.

Three passes. First every model's chunks, in the order of `lineage`: what is coded by itself is tried as a difference
from the same place of a model nearby, or as copies, and takes the place of the old record if it is smaller and the
limits on reads allow it. A delta whose base has become deeper is written with its own new depth, which takes no
decoding. Then all other objects, which only need that. Last, packs that hold a record that does not count any more, and
small ones, are emptied into new packs and retired (`packs.retirement`). What is better is looked for by `proposals`.

A chunk becomes a base only once its own record is settled, and what something settled stands on is not made deeper. So
depth falls along every chain at any moment, and there are no cycles whatever the order. Nothing old goes before all
that is new is durable; whoever is killed leaves both, and the next run takes the better record of each object.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from thetastore import codecs
from thetastore.bases.lineage import Leaning
from thetastore.digest import Buffer, Digest, Kind, checksum_of
from thetastore.errors import BackendError, MalformedError, ObjectCorruptError, ThetaError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.packs.records import Entry
from thetastore.packs.retirement import retire, sweep_locked
from thetastore.packs.upkeep import LITTER_AGE_S, MERGE_LOCK, SMALL_PACK_BYTES, Upkeep, stored_bytes_of
from thetastore.packs.writer import PackWriter
from thetastore.pool import Pool
from thetastore.upkeep.differences import check
from thetastore.upkeep.holdings import Held, Holdings, State
from thetastore.upkeep.proposals import AGGRESSIVE, HOT, Effort, Proposal, Search, Workers, thought_of

__all__ = ["AGGRESSIVE", "HOT", "Effort", "Repacked", "Report", "Workers", "repack"]

_HEAD_BYTES = 192
"""About what a head takes; so that a pack stays within its length."""


class Repacked(NamedTuple):
    """What a repack did, or would do."""

    before: State
    after: State
    rewritten_count: int
    """Objects that are represented anew."""
    is_swept: bool
    """Whether the old packs are gone; else they go once the processes that are writing now have ended."""


Report = Callable[[int, int], None]
"""Called with how many raw bytes were looked at, and how many there are."""


def repack(
    objects: Objects,
    pool: Pool,
    effort: Effort = HOT,
    is_dry: bool = False,
    report: Report | None = None,
    workers: Workers | None = None,
) -> Repacked:
    """Represent everything in a store anew where that takes less.

    Disk: what is new lies beside what is old until the end. Memory: 400 bytes an object, and some chunks.

    Args:
        objects: of the store; nothing may have been added to it that is not sealed.
        pool: threads for decoding and coding.
        effort: how far to go.
        is_dry: change nothing, and only estimate.
        report: see `Report`.
        workers: processes, here or elsewhere, that look for differences; `pool` does what is left then.

    Raises:
        BackendError: the disk is full or failing; another process merges or repacks (`EAGAIN`); or the store is far
            away, where no lock tells who is writing (`ENOTSUP`).
    """
    if objects.backend.is_remote:
        words = "a store that is far away cannot be repacked, as nothing tells there who is writing to it"
        raise BackendError(errno.ENOTSUP, words, objects.backend.url)
    if is_dry:
        objects.catalog.refresh(thorough=True)
        return _Repacking(objects, pool, effort, None, report, workers).run()
    upkeep = Upkeep(objects.backend, objects.catalog, objects.packs, objects.pack_bytes)
    with objects.backend.try_lock(MERGE_LOCK) as is_ours:
        if not is_ours:
            raise BackendError(errno.EAGAIN, "another process is merging or repacking the packs", objects.backend.url)
        objects.backend.delete_litter(LITTER_AGE_S)
        sweep_locked(objects.backend, objects.catalog, objects.packs, upkeep, objects.code_alone)
        objects.catalog.refresh(thorough=True)
        return _Repacking(objects, pool, effort, upkeep, report, workers).run()


class _Repacking:
    """One run."""

    def __init__(
        self,
        objects: Objects,
        pool: Pool,
        effort: Effort,
        upkeep: Upkeep | None,
        report: Report | None,
        workers: Workers | None,
    ) -> None:
        self._objects = objects
        self._upkeep = upkeep
        self._report = report
        self._holdings = Holdings(objects)
        self._search = Search(objects, pool, effort, self._holdings, workers)
        self._writers: list[PackWriter] = []
        self._rewritten_count = 0
        self._total_bytes = sum(held.raw_bytes for _, held in self._holdings if held.kind == Kind.CHUNK)
        self._done_bytes = 0

    def run(self) -> Repacked:
        before = self._holdings.state()
        is_swept = True
        try:
            for leaning in list(self._search.leanings()):
                self._repack_model(leaning)
            for digest, _ in list(self._holdings):
                if digest not in self._search.settled:
                    self._keep(digest, None)
            if self._upkeep is not None:
                is_swept = self._replace_packs(self._upkeep)
        finally:
            for writer in self._writers:
                writer.close()
        if self._upkeep is None:
            return Repacked(before, self._expected(before), self._rewritten_count, False)
        self._objects.catalog.refresh()
        return Repacked(before, Holdings(self._objects).state(), self._rewritten_count, is_swept)

    def _expected(self, before: State) -> State:
        """Return what a store would hold after what was only tried."""
        after = self._holdings.state()
        saved = sum(a.stored_bytes for a in before.by_codec.values()) - sum(
            a.stored_bytes for a in after.by_codec.values()
        )
        pack_bytes = before.pack_bytes - before.duplicate_bytes - saved
        staying = self._holdings.pack_bytes.keys() - self._going()
        moved_bytes = pack_bytes - sum(self._holdings.pack_bytes[name] for name in staying)
        pack_count = len(staying) + -(-moved_bytes // self._objects.pack_bytes)
        return after._replace(pack_count=pack_count, pack_bytes=pack_bytes, duplicate_bytes=0)

    def _repack_model(self, leaning: Leaning) -> None:
        for task, proposal in self._search.of_model(leaning):
            self._settle(task.digest, proposal, task.dtype)
            if self._report is not None:
                self._done_bytes += task.held.raw_bytes
                self._report(self._done_bytes, self._total_bytes)

    # Settling: in the one thread that writes

    def _settle(self, digest: Digest, proposal: Proposal | None, dtype: str | None) -> None:
        """Let a proposed record count if everything is still as it was when it was made; else keep what there is."""
        if proposal is None or digest in self._search.pinned or not self._still_fits(proposal.entry):
            self._keep(digest, dtype)
            return
        self._write(digest, proposal.entry, proposal.stored)
        self._search.settled.add(digest)

    def _still_fits(self, entry: Entry) -> bool:
        """Tell whether the bases are settled, and where they were: they are, but for one in the same few chunks."""
        return (
            all(base in self._search.settled for base in entry.bases)
            and self._holdings.depth_on(entry.bases) == entry.depth
        )

    def _keep(self, digest: Digest, dtype: str | None) -> None:
        """Settle an object with the record it has, at a new depth if need be; code it by itself if it cannot stay."""
        held = self._holdings.get(digest)
        assert held is not None
        depth = self._search.depth_needed(held)
        if depth is None or (depth > held.depth and digest in self._search.pinned):
            self._write_alone(digest, held, dtype)
        elif depth > held.depth:
            self._write_deeper(digest, held, depth)
        held = self._holdings.get(digest)
        assert held is not None
        self._search.pinned.update(base for base in held.bases if base not in self._search.settled)
        self._search.settled.add(digest)

    def _write_deeper(self, digest: Digest, held: Held, depth: int) -> None:
        try:
            pack = self._objects.packs.get(held.file_name)
            record = next(pack.records(held.offset), None)
            if record is not None and record.entry.digest == digest:
                self._write(digest, record.entry._replace(depth=depth), stored_bytes_of(pack, record))
        except (FileNotFoundError, MalformedError, ObjectCorruptError):
            pass  # damaged: it stays what it is

    def _write_alone(self, digest: Digest, held: Held, dtype: str | None) -> None:
        try:
            decoded = self._objects.representations.decode(digest, held.raw_bytes)
        except ThetaError:
            return  # damaged, or of a newer version: it stays what it is
        try:
            codec, params, stored = codecs.encode(decoded.raw, dtype)
            entry = Entry(
                held.kind, digest, codec, params, held.raw_bytes, memoryview(stored).nbytes, (), 0, checksum_of(stored)
            )
            check(self._objects.representations, codec, params, stored, decoded.raw, [])
            self._write(digest, entry, stored)
        finally:
            self._objects.representations.give(decoded.raw)

    def _write(self, digest: Digest, entry: Entry, stored: Buffer) -> None:
        self._rewritten_count += 1
        if self._upkeep is None:
            self._holdings.put(digest, thought_of(entry))
            return
        writer = self._writer(entry.stored_bytes)
        row = writer.append(entry, stored)
        self._holdings.put(digest, thought_of(entry)._replace(file_name=writer.file_name, offset=row.offset))

    def _writer(self, nbytes: int) -> PackWriter:
        pack_bytes = self._objects.pack_bytes
        if not self._writers or not self._writers[-1].has_room_for(nbytes + _HEAD_BYTES, pack_bytes):
            self._writers.append(PackWriter.new(self._objects.backend))
            self._objects.catalog.own(self._writers[-1].id)
        return self._writers[-1]

    # Packs

    def _replace_packs(self, upkeep: Upkeep) -> bool:
        """Empty the packs that are worth it, make what is new durable, retire them; tell whether they are gone."""
        emptied = frozenset(name for name in sorted(self._going()) if self._empty(name))
        objects = self._objects
        upkeep.settle(self._writers)
        if not emptied:
            return True
        fresh = frozenset(writer.file_name for writer in self._writers)
        retire(objects.backend, objects.catalog, objects.packs, upkeep, emptied, fresh)
        return sweep_locked(objects.backend, objects.catalog, objects.packs, upkeep, objects.code_alone)

    def _going(self) -> set[str]:
        """Return the packs that hold what does not count, and small ones if they become fewer by it."""
        small = {name for name, nbytes in self._holdings.pack_bytes.items() if nbytes < SMALL_PACK_BYTES}
        crowded = self._holdings.crowded & self._holdings.pack_bytes.keys()
        return crowded | (small if len(small) > 1 or (small and crowded) else set())

    def _empty(self, name: str) -> bool:
        """Copy what counts in a pack; tell whether all of it was sound. A damaged pack stays for repair to look at."""
        try:
            pack = self._objects.packs.get(name)
            for record in records_of(pack):
                held = self._holdings.get(record.entry.digest)
                if held is not None and (held.file_name, held.offset) == (name, record.offset):
                    self._writer(record.nbytes).append(record.entry, stored_bytes_of(pack, record))
        except (FileNotFoundError, MalformedError, UnsupportedError, ObjectCorruptError):
            return False
        return True
