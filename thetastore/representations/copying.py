"""Copies for new chunks: what their anchors lead to in a store, within what readers accept and reads are worth.

Copies are what is tried where no difference is: their bases have other lengths and lie elsewhere. Reading a chunk of
copies means reading its bases, two of them as a rule, since a shifted chunk straddles two. Neighbours share them, so
that a whole file costs little more than itself; what a single chunk may cost is bounded here.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.digest import Digest
from thetastore.dtypes import DTYPES
from thetastore.errors import BackendError, ThetaError
from thetastore.packs.records import base_cost_bytes, most_base_bytes
from thetastore.representations.anchor_table import AnchorTable
from thetastore.representations.anchors import Anchor, anchors_of, to_remember
from thetastore.representations.matching import CopyPlan, find_copies
from thetastore.representations.reading import Decoded, Representations

MOST_READ = 8
"""Raw bytes of bases, theirs included, by those of the chunk that is made of copies of them. A base that stands alone
counts twice: a repacking may make a difference of it, and readers are to grant that as well."""
LEAST_READ_BYTES = 4 << 20
"""So much may be read for any chunk, however short, if readers grant it: two whole chunks of the grid, each a
difference, since a short one may lie across two, as an eighth of a matrix does."""

KEPT_BYTES = 8 << 20
"""Of bases that are kept decoded."""
FREE_MISSES = 16
"""Chunks in a row of which nothing is found, until only one in `MISSES_A_LOOK` is looked for, and so on until one is
found. In a store of 10,000 models the search costs a third of an add; of a file whose copies are rare or begin late,
4 % of the bytes are missed at most."""
MISSES_A_LOOK = 4
ANCHORS_A_GLANCE = 4
"""And of such a chunk only one anchor in so many is looked up at first: of a copy of 1 MiB 32, of which one in five is
remembered."""


class Found(NamedTuple):
    """What a chunk is made of, as far as the store has it."""

    plan: CopyPlan
    depth: int
    """That of a record with these bases."""


class Copying:
    """The copies that a store's new chunks can be made of. `anchors` and `find` are thread-safe."""

    def __init__(self, backend: Backend, representations: Representations, looks_always: bool = False) -> None:
        """Find copies in a store; with `looks_always`, after any number of chunks that had none."""
        self._representations = representations
        self._table = AnchorTable(backend)
        self._looks_always = looks_always
        self._decoded = _Decoded(representations)
        self._misses = 0
        """In a row. Threads may lose count of each other, which does no harm."""

    @staticmethod
    def anchors(raw: memoryview, dtype: str | None) -> list[Anchor]:
        """Return the anchors of a chunk; opaque bytes have none, since they are cut where their content says."""
        return anchors_of(raw, _item_bytes(dtype)) if dtype in DTYPES else []

    def hope(self) -> None:
        """Look for every chunk again, from the next one on: the store has one beside it as it is."""
        self._misses = 0

    def find(
        self,
        raw: memoryview,
        dtype: str | None,
        anchors: Sequence[Anchor],
        most_depth: int,
        admits: Callable[[Digest], bool] = lambda _: True,
    ) -> Found | None:
        """Return what a chunk can be made of by a record of at most that depth; None where that is too little.

        Only what `admits` says yes to becomes a base; the chunk itself, where it is stored already, must not.
        """
        if self._misses >= FREE_MISSES and not self._looks_always and not self._glance(anchors):
            self._misses += 1
            return None
        found = self._found(raw, dtype, anchors, most_depth, admits)
        self._misses = 0 if found is not None else self._misses + 1
        return found

    def _glance(self, anchors: Sequence[Anchor]) -> bool:
        """Tell whether a look at one chunk in some, by one of its anchors in some, says that there may be copies."""
        return not self._misses % MISSES_A_LOOK and bool(self._table.find(anchors[::ANCHORS_A_GLANCE]))

    def _found(
        self,
        raw: memoryview,
        dtype: str | None,
        anchors: Sequence[Anchor],
        most_depth: int,
        admits: Callable[[Digest], bool],
    ) -> Found | None:
        hits = [hit for hit in self._table.find(anchors) if admits(hit.base)]
        if not hits or dtype is None:
            return None
        bases = _BaseReader(self._representations, self._decoded, raw.nbytes, most_depth - 1)
        try:
            plan = find_copies(raw, _item_bytes(dtype), hits, bases.read)
        finally:
            bases.close()
        return None if plan is None else Found(plan, 1 + max(bases.depths[base] for base in plan.bases))

    @staticmethod
    def memorable(
        anchors: Sequence[Anchor], raw_bytes: int, found: Found | None = None, stored_bytes: int | None = None
    ) -> list[Anchor]:
        """Return the anchors of a chunk for `remember`; of one made of copies only those of what no base has."""
        if found is not None:
            anchors = [anchor for anchor in anchors if not found.plan.has(anchor.offset, 1)]
        return to_remember(anchors, raw_bytes, stored_bytes)

    def remember(self, chunk: Digest, anchors: Sequence[Anchor]) -> None:
        """Take note of the anchors of a chunk that was stored. In one thread; it is no error if that fails."""
        try:
            self._table.add(chunk, anchors)
        except BackendError:
            pass  # hints; the disk's state will be said by what has to be written

    def share(self, target: Copying, chunks: Container[Digest]) -> None:
        """Let another store find copies in chunks that it got from this one. It is no error if that fails."""
        try:
            self._table.share(target._table, chunks)
        except BackendError:
            pass

    def flush(self) -> None:
        """Let other processes find what was remembered, and free memory. It is no error if that cannot be written."""
        self._decoded.clear()
        try:
            self._table.flush()
        except BackendError:
            pass


def _item_bytes(dtype: str) -> int:
    return max(1, DTYPES[dtype].bits // 8)


class _Decoded:
    """Bases that were decoded lately, whole, for chunks that are neighbours and so share them. Thread-safe.

    Without it, a file that was split in four took 1.5 times the processor time of one that has nothing in common.
    """

    def __init__(self, representations: Representations) -> None:
        self._representations = representations
        self._lock = _thread.allocate_lock()
        self._kept: dict[Digest, Decoded] = {}
        """What was asked for longest ago comes first."""
        self._users: dict[Digest, int] = {}

    def take(self, digest: Digest, raw_bytes: int) -> Decoded:
        """Return a chunk, to be handed back with `give`. Raises as `Representations.decode` does."""
        with self._lock:
            found = self._used(digest)
        if found is not None:
            return found
        decoded = self._representations.decode(digest, raw_bytes)
        with self._lock:
            found = self._used(digest)
            if found is None:
                self._kept[digest] = decoded
                self._users[digest] = 1
                return decoded
        self._representations.give(decoded.raw)  # another thread was faster
        return found

    def _used(self, digest: Digest) -> Decoded | None:
        found = self._kept.pop(digest, None)
        if found is not None:
            self._kept[digest] = found
            self._users[digest] += 1
        return found

    def give(self, digest: Digest) -> None:
        """Take back what `take` returned."""
        with self._lock:
            self._users[digest] -= 1
            surplus = sum(decoded.raw.nbytes for decoded in self._kept.values()) - KEPT_BYTES
            for oldest in list(self._kept) if surplus > 0 else ():
                if not self._users[oldest] and surplus > 0:
                    surplus -= self._drop(oldest)

    def clear(self) -> None:
        """Give back the memory of all that nobody uses."""
        with self._lock:
            for digest in [digest for digest, users in self._users.items() if not users]:
                self._drop(digest)

    def _drop(self, digest: Digest) -> int:
        del self._users[digest]
        raw = self._kept.pop(digest).raw
        self._representations.give(raw)
        return raw.nbytes


class _BaseReader:
    """Reads bases for one chunk as long as that is cheap enough for whoever reads the chunk."""

    def __init__(self, representations: Representations, decoded: _Decoded, raw_bytes: int, most_depth: int) -> None:
        self.depths: dict[Digest, int] = {}
        self._representations = representations
        self._decoded = decoded
        self._left_bytes = min(max(MOST_READ * raw_bytes, LEAST_READ_BYTES), most_base_bytes(raw_bytes))
        self._most_depth = most_depth
        self._taken: list[Digest] = []

    def read(self, digest: Digest) -> memoryview | None:
        """Return the bytes of an object, valid until `close`; None if it is gone, damaged, too deep or too dear."""
        try:
            entry = self._representations.entry(digest)
            cost_bytes = max(self._cost_bytes(digest, self._most_depth), 2 * base_cost_bytes(entry.raw_bytes))
            if entry.depth > self._most_depth or cost_bytes > self._left_bytes:
                return None
            decoded = self._decoded.take(digest, entry.raw_bytes)
        except ThetaError:
            return None
        self._taken.append(digest)
        # It may have been read from another place than its entry, or be stored anew since.
        depth = max(entry.depth, decoded.depth)
        if depth > self._most_depth:
            return None
        self._left_bytes -= cost_bytes
        self.depths[digest] = depth
        return decoded.raw

    def _cost_bytes(self, digest: Digest, most_depth: int) -> int:
        """Return what a reader is charged for a base and all behind it."""
        entry = self._representations.entry(digest)
        behind = (self._cost_bytes(base, most_depth - 1) for base in entry.bases if most_depth)
        return base_cost_bytes(entry.raw_bytes) + sum(behind)

    def close(self) -> None:
        """Hand back what was read."""
        for digest in self._taken:
            self._decoded.give(digest)
