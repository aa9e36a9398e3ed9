"""Better records for the chunks of a model, as repacking wants them: looked for, and not yet written.

What is coded by itself is tried as a difference from the same place of a model nearby, or as copies. It may stand only
on what is settled, and cost a reader no more than the limits allow. Threads of this process do it; or workers of any
executor look for the differences, which are most of the work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from thetastore import codecs
from thetastore.bases.candidates import Candidate, TensorMap, beginning, read_manifest, resembles
from thetastore.bases.lineage import Leaning, lineage
from thetastore.bases.renamed import Renamed
from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.chunking import columns_of
from thetastore.digest import Digest, Kind, checksum_of
from thetastore.errors import ThetaError
from thetastore.objects import Objects
from thetastore.packs.records import MAX_DEPTH, Entry, base_cost_bytes, most_base_bytes
from thetastore.pool import Pool, spread
from thetastore.representations.choice import HOT_DEPTH, LEAST_DIFFERENCE_BYTES, MOST_READ
from thetastore.representations.copying import Copying
from thetastore.upkeep.differences import Difference, Guess, Opener, Wanted, best_difference, check, differences
from thetastore.upkeep.holdings import Held, Holdings

if TYPE_CHECKING:
    from concurrent.futures import Executor

_PLAIN = ("literal", "planes", "zstd")
_LEAST_SAVED = 32
"""One part in so many of a record has to be saved for a new one: less is not worth the write."""
_COPIES_FROM_BYTES = 16 << 10
_SMALL_CHUNK_BYTES = 32 << 10
_CHUNKS_AN_ITEM = 16
"""Handed to a worker at once, who opens the store for them: some tenths of a second of work."""


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


class Workers(NamedTuple):
    """Who looks for differences instead of this process's threads."""

    executor: Executor
    opener: Opener
    """How each of them opens the store; picklable."""

    def differences(self) -> Callable[[list[Wanted | None]], list[Difference | None]]:
        """Return what they are to do with each item."""
        return partial(differences, self.opener)


class Task(NamedTuple):
    """A chunk to be looked at."""

    digest: Digest
    held: Held
    dtype: str | None
    columns: int
    """Elements of a row, of a part of a matrix; else 0."""
    guesses: tuple[Digest, ...]


class Proposal(NamedTuple):
    """Another record for an object."""

    entry: Entry
    stored: bytes


class Search:
    """Looks for better records; what it finds holds as long as what is settled stays as it is."""

    def __init__(
        self, objects: Objects, pool: Pool, effort: Effort, holdings: Holdings, workers: Workers | None
    ) -> None:
        self.settled: set[Digest] = set()
        """Chunks whose records stay: these may become bases."""
        self.pinned: set[Digest] = set()
        """What something settled stands on, and is not settled itself."""
        self._objects = objects
        self._pool = pool
        self._effort = effort
        self._holdings = holdings
        self._workers = workers
        self._copying = Copying(objects.backend, objects.representations, effort.looks_at_deltas)

    def leanings(self) -> Iterator[Leaning]:
        """Yield the models of the store, each after those that it resembles."""
        depth, near = self._effort.most_depth, self._effort.most_near
        return lineage(self._objects, self._holdings.manifests, depth, near)

    def of_model(self, leaning: Leaning) -> Iterator[tuple[Task, Proposal | None]]:
        """Yield each chunk of a model that is not settled yet, with a better record, or None."""
        tasks = self._tasks(leaning)
        if self._workers is None:
            yield from self._pool.map_bounded(self._proposed, tasks, _is_small)
            return
        under_way: deque[list[Task]] = deque()
        for found in spread(self._workers.executor, self._workers.differences(), self._items(tasks, under_way)):
            yield from self._pool.map_bounded(
                self._completed, zip(under_way.popleft(), found, strict=True), _is_settled
            )

    def _tasks(self, leaning: Leaning) -> Iterator[Task]:
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
                if held is None or chunk.digest in self.settled or chunk.digest in seen or held.kind != Kind.CHUNK:
                    continue
                seen.add(chunk.digest)
                tensor = tensors.at(offset, chunk.raw_bytes)
                like = [model.chunk_like(tensor, offset, chunk.raw_bytes) for model in models] if tensor else []
                if tensor and not any(like) and chunk.raw_bytes >= LEAST_DIFFERENCE_BYTES:
                    read = partial(beginning, self._objects, chunk)
                    like = [other.chunk_like(tensor, offset, chunk.raw_bytes, read) for other in renamed]
                guesses = tuple(dict.fromkeys(guess for guess in like if guess not in (None, chunk.digest)))
                dtype, columns = (None, 0) if tensor is None else (tensor.dtype, columns_of(tensor.shape))
                yield Task(chunk.digest, held, dtype, columns, guesses)
        except ThetaError:
            return  # a page that cannot be read; what it lists is kept as it is

    def _items(self, tasks: Iterator[Task], under_way: deque[list[Task]]) -> Iterator[list[Wanted | None]]:
        """Yield what workers are given, and note for which chunks."""
        while batch := list(islice(tasks, _CHUNKS_AN_ITEM)):
            under_way.append(batch)
            yield [self._wanted(task) if self._is_worth_looking_at(task) else None for task in batch]

    def _proposed(self, task: Task) -> tuple[Task, Proposal | None]:
        """Return a better record for a chunk, or None. Runs in a thread."""
        if not self._is_worth_looking_at(task):
            return task, None
        return task, self._with_raw(task, partial(self._better, task))

    def _completed(self, item: tuple[Task, Difference | None]) -> tuple[Task, Proposal | None]:
        """Return a chunk with what a worker found for it; or as copies, which are found where the anchors are."""
        task, found = item
        if found is not None:
            return task, self._proposal_of(task, found)
        if not self._is_worth_looking_at(task) or task.held.raw_bytes < _COPIES_FROM_BYTES:
            return task, None
        return task, self._with_raw(task, lambda raw: self._copies(task, raw, self._most_bytes(task)))

    def _with_raw(self, task: Task, act: Callable[[memoryview], Proposal | None]) -> Proposal | None:
        try:
            decoded = self._objects.representations.decode(task.digest, task.held.raw_bytes)
        except ThetaError:
            return None
        try:
            return act(decoded.raw)
        finally:
            self._objects.representations.give(decoded.raw)

    def _is_worth_looking_at(self, task: Task) -> bool:
        held = task.held
        if task.dtype is None or held.raw_bytes < LEAST_DIFFERENCE_BYTES or task.digest in self.pinned:
            return False
        if held.codec in _PLAIN:
            return True
        if held.codec not in ("difference", "copies"):
            return False
        if self._effort.looks_at_deltas or self.depth_needed(held) is None:
            return True
        return held.codec == "difference" and bool(task.guesses and held.bases) and not self._stands_as_planned(task)

    def _stands_as_planned(self, task: Task) -> bool:
        """Tell whether a difference is already one from its guess, or from what that stands on."""
        base = self._holdings.get(task.guesses[0])
        standing = [task.guesses[0]]
        while base is not None and base.codec == "difference" and base.bases and len(standing) <= MAX_DEPTH:
            standing.append(base.bases[0])
            base = self._holdings.get(base.bases[0])
        return task.held.bases[0] in standing

    def _better(self, task: Task, raw: memoryview) -> Proposal | None:
        """Return the smallest record within the limits, if it is smaller than the one that counts."""
        found = best_difference(self._objects.representations, self._wanted(task), raw)
        if found is not None:
            return self._proposal_of(task, found)
        if task.held.raw_bytes >= _COPIES_FROM_BYTES:
            return self._copies(task, raw, self._most_bytes(task))
        return None

    def _most_bytes(self, task: Task) -> int:
        """Return the stored bytes below which another record is worth being written."""
        if self.depth_needed(task.held) is None:
            return task.held.raw_bytes
        return task.held.stored_bytes - task.held.stored_bytes // _LEAST_SAVED

    def _wanted(self, task: Task) -> Wanted:
        """Return the bases that a chunk may become a difference from: those guessed, and what they stand on."""
        chains = tuple(tuple(self._chain(task, guess)) for guess in task.guesses)
        return Wanted(
            task.digest,
            task.held.raw_bytes,
            task.dtype,
            task.columns,
            chains,
            self._most_bytes(task),
            self._effort.looks_at_deltas,
        )

    def _chain(self, task: Task, guess: Digest) -> Iterator[Guess]:
        base: Digest | None = guess
        for _ in range(MAX_DEPTH + 1):
            held = None if base is None or base == task.digest else self._holdings.get(base)
            if base is None or held is None or held.raw_bytes != task.held.raw_bytes:
                return
            if (
                base in self.settled
                and held.depth < self._effort.most_depth
                and self._is_affordable(held.raw_bytes, (base,))
            ):
                most_read = int(self._effort.most_read * self._alone_bytes(task.held, held))
                yield Guess(base, most_read - self._holdings.read_bytes(held))
            base = held.bases[0] if held.codec == "difference" and held.bases else None

    def _alone_bytes(self, before: Held, standing: Held) -> int:
        """Return about what a chunk takes by itself: its record before, or what it stands on in the end."""
        return before.stored_bytes if not before.bases else self._holdings.root_bytes(standing)

    def _is_affordable(self, raw_bytes: int, bases: tuple[Digest, ...]) -> bool:
        """Tell whether readers put up with the bases of an object, also after the next repacking.

        So a base that stands alone counts twice, since it may become a difference then; as `Copying` counts.
        """
        allowed = most_base_bytes(raw_bytes)
        total = 0
        for base in bases:
            held = self._holdings.get(base)
            least = 2 * base_cost_bytes(held.raw_bytes) if held is not None else 0
            total += max(least, self._holdings.cost_bytes((base,), allowed))
        return total <= allowed

    def _is_readable(self, held: Held) -> bool:
        """Tell whether readers put up with the bases of an object as they are by now."""
        allowed = most_base_bytes(held.raw_bytes)
        return self._holdings.cost_bytes(held.bases, allowed) <= allowed

    def _proposal_of(self, task: Task, found: Difference) -> Proposal:
        bases = (found.base,)
        depth = self._holdings.depth_on(bases)
        entry = Entry(
            Kind.CHUNK, task.digest, found.codec, found.params, task.held.raw_bytes, len(found.stored), bases, depth,
            checksum_of(found.stored),
        )  # fmt: skip
        return Proposal(entry, found.stored)

    def _copies(self, task: Task, raw: memoryview, most: int) -> Proposal | None:
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

    def _may_be_base(self, task: Task, base: Digest) -> bool:
        held = self._holdings.get(base)
        is_settled = base != task.digest and base in self.settled
        return is_settled and held is not None and held.depth < self._effort.most_depth

    def _proposal(
        self, task: Task, coded: codecs.Coded, raw: memoryview, bases: tuple[Digest, ...], views: list[memoryview]
    ) -> Proposal | None:
        """Return a record, if it is within the limits and gives the chunk back: what it was made from may go."""
        depth = self._holdings.depth_on(bases)
        stored = bytes(coded.stored)
        entry = Entry(
            Kind.CHUNK, task.digest, coded.codec, coded.params, raw.nbytes, len(stored), bases, depth,
            checksum_of(stored),
        )  # fmt: skip
        if depth > self._effort.most_depth or not self._is_cheap_enough(thought_of(entry), task.held):
            return None
        check(self._objects.representations, entry.codec, entry.params, stored, raw, views)
        return Proposal(entry, stored)

    def _is_cheap_enough(self, held: Held, before: Held) -> bool:
        """Tell whether a delta may be read."""
        if not self._is_affordable(held.raw_bytes, held.bases):
            return False
        if held.codec != "difference":
            return True  # how much may be read for copies is counted in raw bytes, by `Copying`
        return self._holdings.read_bytes(held) <= self._effort.most_read * self._alone_bytes(before, held)

    def depth_needed(self, held: Held) -> int | None:
        """Return the depth that a record has to have by now; None where it cannot stay."""
        if not held.bases:
            return 0
        depth = self._holdings.depth_on(held.bases)
        if depth <= held.depth:
            return held.depth if self._is_readable(held) else None
        moved = held._replace(depth=depth)
        is_fine = depth <= max(self._effort.most_depth, HOT_DEPTH) and self._is_cheap_enough(moved, held)
        return depth if is_fine else None


def thought_of(entry: Entry) -> Held:
    """Return a record that has no place yet."""
    return Held("", 0, 0, entry.kind, entry.codec, entry.raw_bytes, entry.stored_bytes, entry.bases, entry.depth)


def _is_settled(item: tuple[Task, Difference | None]) -> bool:
    """Tell whether nothing is left to be done for a chunk that was with a worker."""
    task, found = item
    return found is not None or _is_small(task)


def _is_small(task: Task) -> bool:
    return task.held.raw_bytes <= _SMALL_CHUNK_BYTES
