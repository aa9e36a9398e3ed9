"""Everything in a store represented anew, where that takes less, and laid out in few packs without duplicates.

Three passes. First every model's chunks, in the order of `lineage`: what is coded by itself is tried as a difference
from the same place of a model nearby, or as copies, and takes the place of the old record if it is smaller and the
limits on reads allow it. A delta whose base has become deeper is written with its own new depth, which takes no
decoding. Then all other objects, which only need that. Last, packs that hold a record that does not count any more, and
small ones, are emptied into new packs and retired (`packs.retirement`).

A chunk becomes a base only once its own record is settled, and what something settled stands on is not made deeper. So
depth falls along every chain at any moment, and there are no cycles whatever the order. Nothing old goes before all
that is new is durable; whoever is killed leaves both, and the next run takes the better record of each object.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from thetastore import codecs
from thetastore.bases.candidates import Candidate, TensorMap, beginning, read_manifest, resembles
from thetastore.bases.lineage import Leaning, lineage
from thetastore.bases.renamed import Renamed
from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.chunking import columns_of
from thetastore.digest import Buffer, Digest, Kind, checksum_of
from thetastore.errors import BackendError, MalformedError, ObjectCorruptError, ThetaError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.packs.records import MAX_DEPTH, Entry, most_base_bytes
from thetastore.packs.retirement import retire, sweep_locked
from thetastore.packs.upkeep import LITTER_AGE_S, MERGE_LOCK, SMALL_PACK_BYTES, Upkeep, stored_bytes_of
from thetastore.packs.writer import PackWriter
from thetastore.pool import Pool
from thetastore.representations.choice import HOT_DEPTH, LEAST_DIFFERENCE_BYTES, MOST_READ
from thetastore.representations.copying import Copying
from thetastore.upkeep.holdings import Held, Holdings, State

_PLAIN = ("literal", "planes", "zstd")
_LEAST_SAVED = 32
"""One part in so many of a record has to be saved for a new one: less is not worth the write."""
_COPIES_FROM_BYTES = 16 << 10
_SMALL_CHUNK_BYTES = 32 << 10
_HEAD_BYTES = 192
"""About what a head takes; so that a pack stays within its length."""


class Effort(NamedTuple):
    """How far a repack goes."""

    most_depth: int
    most_read: float
    """Stored bytes to read for an object, by those of the object coded by itself."""
    most_near: int
    """Models of the family that a chunk may be tried as a difference from."""
    looks_at_deltas: bool
    """Whether something better is looked for where a difference or copies are stored already, at any cost of time."""


HOT = Effort(HOT_DEPTH, MOST_READ, 1, False)
AGGRESSIVE = Effort(MAX_DEPTH, 3.0, 3, True)
"""For archives: reading takes up to three times what whole copies would take."""


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
    objects: Objects, pool: Pool, effort: Effort = HOT, is_dry: bool = False, report: Report | None = None
) -> Repacked:
    """Represent everything in a store anew where that takes less.

    Disk: what is new lies beside what is old until the end. Memory: 400 bytes an object, and some chunks.

    Args:
        objects: of the store; nothing may have been added to it that is not sealed.
        pool: threads for decoding and coding.
        effort: how far to go.
        is_dry: change nothing, and only estimate.
        report: see `Report`.

    Raises:
        BackendError: the disk is full or failing; another process merges or repacks (`EAGAIN`); or the store is far
            away, where no lock tells who is writing (`ENOTSUP`).
    """
    if objects.backend.is_remote:
        words = "a store that is far away cannot be repacked, as nothing tells there who is writing to it"
        raise BackendError(errno.ENOTSUP, words, objects.backend.url)
    if is_dry:
        objects.catalog.refresh(thorough=True)
        return _Repacking(objects, pool, effort, None, report).run()
    upkeep = Upkeep(objects.backend, objects.catalog, objects.packs, objects.pack_bytes)
    with objects.backend.try_lock(MERGE_LOCK) as is_ours:
        if not is_ours:
            raise BackendError(errno.EAGAIN, "another process is merging or repacking the packs", objects.backend.url)
        objects.backend.delete_litter(LITTER_AGE_S)
        sweep_locked(objects.backend, objects.catalog, objects.packs, upkeep, objects.code_alone)
        objects.catalog.refresh(thorough=True)
        return _Repacking(objects, pool, effort, upkeep, report).run()


class _Task(NamedTuple):
    """A chunk to be looked at."""

    digest: Digest
    held: Held
    dtype: str | None
    columns: int
    """Elements of a row, of a part of a matrix; else 0."""
    guesses: tuple[Digest, ...]


class _Proposal(NamedTuple):
    """Another record for an object."""

    entry: Entry
    stored: bytes


class _Repacking:
    """One run."""

    def __init__(
        self, objects: Objects, pool: Pool, effort: Effort, upkeep: Upkeep | None, report: Report | None
    ) -> None:
        self._objects = objects
        self._pool = pool
        self._effort = effort
        self._upkeep = upkeep
        self._report = report
        self._holdings = Holdings(objects)
        self._copying = Copying(objects.backend, objects.representations, effort.looks_at_deltas)
        self._settled: set[Digest] = set()
        self._pinned: set[Digest] = set()
        """What something settled stands on, and is not settled itself."""
        self._writers: list[PackWriter] = []
        self._rewritten_count = 0
        self._total_bytes = sum(held.raw_bytes for _, held in self._holdings if held.kind == Kind.CHUNK)
        self._done_bytes = 0

    def run(self) -> Repacked:
        before = self._holdings.state()
        is_swept = True
        try:
            for leaning in list(self._leanings()):
                self._repack_model(leaning)
            for digest, _ in list(self._holdings):
                if digest not in self._settled:
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

    def _leanings(self) -> Iterator[Leaning]:
        depth, near = self._effort.most_depth, self._effort.most_near
        return lineage(self._objects, self._holdings.manifests, depth, near)

    # What represents an object

    def _repack_model(self, leaning: Leaning) -> None:
        for task, proposal in self._pool.map_bounded(self._proposed, self._tasks(leaning), _is_small):
            self._settle(task.digest, proposal, task.dtype)
            if self._report is not None:
                self._done_bytes += task.held.raw_bytes
                self._report(self._done_bytes, self._total_bytes)

    def _tasks(self, leaning: Leaning) -> Iterator[_Task]:
        """Yield the chunks of a model that are not settled yet."""
        manifest = read_manifest(self._objects, leaning.manifest_digest)
        if manifest is None:
            return
        found = (read_manifest(self._objects, digest) for digest in leaning.nearest)
        models = [Candidate(self._objects, near) for near in found if near is not None]
        renamed = [Renamed(manifest.tensors, model, partial(resembles, self._objects)) for model in models]
        tensors = TensorMap(manifest.tensors)
        seen: set[Digest] = set()
        try:
            for offset, chunk in iter_chunks(self._objects, manifest):
                held = self._holdings.get(chunk.digest)
                if held is None or chunk.digest in self._settled or chunk.digest in seen or held.kind != Kind.CHUNK:
                    continue
                seen.add(chunk.digest)
                tensor = tensors.at(offset, chunk.raw_bytes)
                like = [model.chunk_like(tensor, offset, chunk.raw_bytes) for model in models] if tensor else []
                if tensor and not any(like) and chunk.raw_bytes >= LEAST_DIFFERENCE_BYTES:
                    read = partial(beginning, self._objects, chunk)
                    like = [other.chunk_like(tensor, offset, chunk.raw_bytes, read) for other in renamed]
                guesses = tuple(dict.fromkeys(guess for guess in like if guess not in (None, chunk.digest)))
                dtype, columns = (None, 0) if tensor is None else (tensor.dtype, columns_of(tensor.shape))
                yield _Task(chunk.digest, held, dtype, columns, guesses)
        except ThetaError:
            return  # a page that cannot be read; what it lists is kept as it is

    def _proposed(self, task: _Task) -> tuple[_Task, _Proposal | None]:
        """Return a better record for a chunk, or None. Runs in a thread; all is looked at again by `_settle`."""
        if not self._is_worth_looking_at(task):
            return task, None
        try:
            decoded = self._objects.representations.decode(task.digest, task.held.raw_bytes)
        except ThetaError:
            return task, None
        try:
            return task, self._better(task, decoded.raw)
        finally:
            self._objects.representations.give(decoded.raw)

    def _is_worth_looking_at(self, task: _Task) -> bool:
        held = task.held
        if task.dtype is None or held.raw_bytes < LEAST_DIFFERENCE_BYTES or task.digest in self._pinned:
            return False
        if held.codec in _PLAIN:
            return True
        if held.codec not in ("difference", "copies"):
            return False
        if self._effort.looks_at_deltas or self._depth_needed(held) is None:
            return True
        return held.codec == "difference" and bool(task.guesses and held.bases) and not self._stands_as_planned(task)

    def _stands_as_planned(self, task: _Task) -> bool:
        """Tell whether a difference is already one from its guess, or from what that stands on."""
        base = self._holdings.get(task.guesses[0])
        standing = [task.guesses[0]]
        while base is not None and base.codec == "difference" and base.bases and len(standing) <= MAX_DEPTH:
            standing.append(base.bases[0])
            base = self._holdings.get(base.bases[0])
        return task.held.bases[0] in standing

    def _better(self, task: _Task, raw: memoryview) -> _Proposal | None:
        """Return the smallest record within the limits, if it is smaller than the one that counts."""
        best: _Proposal | None = None
        most = task.held.stored_bytes - task.held.stored_bytes // _LEAST_SAVED
        if self._depth_needed(task.held) is None:
            most = task.held.raw_bytes
        for guess in task.guesses:
            found = self._difference(task, raw, guess, most)
            if found is not None:
                best, most = found, found.entry.stored_bytes
        if best is None and task.held.raw_bytes >= _COPIES_FROM_BYTES:
            best = self._copies(task, raw, most)
        return best

    def _difference(self, task: _Task, raw: memoryview, guess: Digest, most: int) -> _Proposal | None:
        """Return the difference from a guessed base or from what that stands on, if it takes less than `most`."""
        representations = self._objects.representations
        base: Digest | None = guess
        for _ in range(MAX_DEPTH + 1):
            held = None if base is None or base == task.digest else self._holdings.get(base)
            if base is None or held is None or held.raw_bytes != raw.nbytes:
                return None
            if base in self._settled and held.depth < self._effort.most_depth:
                try:
                    decoded = representations.decode(base, raw.nbytes)
                except ThetaError:
                    return None
                try:
                    is_thorough = self._effort.looks_at_deltas
                    coded = codecs.encode_difference(
                        raw, decoded.raw, task.dtype, columns=task.columns, is_thorough=is_thorough
                    )
                    if coded is None or memoryview(coded.stored).nbytes >= most:
                        return None
                    proposal = self._proposal(task, coded, raw, (base,), [decoded.raw])
                finally:
                    representations.give(decoded.raw)
                if proposal is not None:
                    return proposal
            base = held.bases[0] if held.codec == "difference" and held.bases else None
        return None

    def _copies(self, task: _Task, raw: memoryview, most: int) -> _Proposal | None:
        anchors = self._copying.anchors(raw, task.dtype)
        found = self._copying.find(raw, task.dtype, anchors, self._effort.most_depth, partial(self._may_be_base, task))
        coded = None if found is None else codecs.encode_copies(raw, found.plan.recipe, task.dtype)
        if found is None or coded is None or memoryview(coded.stored).nbytes >= most:
            return None
        views: list[memoryview] = []
        try:
            for base in found.plan.bases:
                held = self._holdings.get(base)
                assert held is not None, "it was admitted"
                views.append(self._objects.representations.decode(base, held.raw_bytes).raw)
            return self._proposal(task, coded, raw, found.plan.bases, views)
        except ThetaError:
            return None  # it could be read a moment ago
        finally:
            for view in views:
                self._objects.representations.give(view)

    def _may_be_base(self, task: _Task, base: Digest) -> bool:
        held = self._holdings.get(base)
        is_settled = base != task.digest and base in self._settled
        return is_settled and held is not None and held.depth < self._effort.most_depth

    def _proposal(
        self, task: _Task, coded: codecs.Coded, raw: memoryview, bases: tuple[Digest, ...], views: list[memoryview]
    ) -> _Proposal | None:
        """Return a record, if it is within the limits and gives the chunk back: what it was made from may go."""
        depth = self._holdings.depth_on(bases)
        stored = bytes(coded.stored)
        entry = Entry(
            Kind.CHUNK, task.digest, coded.codec, coded.params, raw.nbytes, len(stored), bases, depth,
            checksum_of(stored),
        )  # fmt: skip
        if depth > self._effort.most_depth or not self._is_cheap_enough(_thought_of(entry), task.held):
            return None
        self._check(entry, stored, raw, views)
        return _Proposal(entry, stored)

    def _check(self, entry: Entry, stored: Buffer, raw: memoryview, views: list[memoryview]) -> None:
        """Decode a new record, whose object's other records may go because of it."""
        out = self._objects.representations.take(raw.nbytes)
        try:
            codecs.decode(entry.codec, entry.params, stored, out, views)
            assert out == raw, f"codec '{entry.codec}' does not give back object '{entry.digest}'"
        finally:
            self._objects.representations.give(out)

    def _is_cheap_enough(self, held: Held, before: Held) -> bool:
        """Tell whether a delta may be read: by what writers allow, and by what readers put up with, half of it."""
        allowed = most_base_bytes(held.raw_bytes) // 2
        if self._holdings.cost_bytes(held.bases, allowed) > allowed:
            return False
        if held.codec != "difference":
            return True  # how much may be read for copies is counted in raw bytes, by `Copying`
        alone_bytes = before.stored_bytes if not before.bases else self._holdings.root_bytes(held)
        return self._holdings.read_bytes(held) <= self._effort.most_read * alone_bytes

    def _depth_needed(self, held: Held) -> int | None:
        """Return the depth that a record has to have by now; None where it cannot stay."""
        if not held.bases:
            return 0
        depth = self._holdings.depth_on(held.bases)
        if depth <= held.depth:
            return held.depth
        moved = held._replace(depth=depth)
        is_fine = depth <= max(self._effort.most_depth, HOT_DEPTH) and self._is_cheap_enough(moved, held)
        return depth if is_fine else None

    # Settling: in the one thread that writes

    def _settle(self, digest: Digest, proposal: _Proposal | None, dtype: str | None) -> None:
        """Let a proposed record count if everything is still as it was when it was made; else keep what there is."""
        if proposal is None or digest in self._pinned or not self._still_fits(proposal.entry):
            self._keep(digest, dtype)
            return
        self._write(digest, proposal.entry, proposal.stored)
        self._settled.add(digest)

    def _still_fits(self, entry: Entry) -> bool:
        """Tell whether the bases are settled, and where they were: they are, but for one in the same few chunks."""
        return (
            all(base in self._settled for base in entry.bases) and self._holdings.depth_on(entry.bases) == entry.depth
        )

    def _keep(self, digest: Digest, dtype: str | None) -> None:
        """Settle an object with the record it has, at a new depth if need be; code it by itself if it cannot stay."""
        held = self._holdings.get(digest)
        assert held is not None
        depth = self._depth_needed(held)
        if depth is None or (depth > held.depth and digest in self._pinned):
            self._write_alone(digest, held, dtype)
        elif depth > held.depth:
            self._write_deeper(digest, held, depth)
        held = self._holdings.get(digest)
        assert held is not None
        self._pinned.update(base for base in held.bases if base not in self._settled)
        self._settled.add(digest)

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
            self._check(entry, stored, decoded.raw, [])
            self._write(digest, entry, stored)
        finally:
            self._objects.representations.give(decoded.raw)

    def _write(self, digest: Digest, entry: Entry, stored: Buffer) -> None:
        self._rewritten_count += 1
        if self._upkeep is None:
            self._holdings.put(digest, _thought_of(entry))
            return
        writer = self._writer(entry.stored_bytes)
        row = writer.append(entry, stored)
        self._holdings.put(digest, _thought_of(entry)._replace(file_name=writer.file_name, offset=row.offset))

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


def _thought_of(entry: Entry) -> Held:
    return Held("", 0, 0, entry.kind, entry.codec, entry.raw_bytes, entry.stored_bytes, entry.bases, entry.depth)


def _is_small(task: _Task) -> bool:
    return task.held.raw_bytes <= _SMALL_CHUNK_BYTES
