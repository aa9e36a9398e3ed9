"""The anchors of a store: sorted runs from identities to the chunks that have them (`docs/format/anchors.md`).

A table of hints: a reader compares what it finds, so a run that is damaged, hostile, lost, or names chunks that are
gone costs some copies that are not found, and nothing else. That is why runs are opened without reading them, why
writing one is not part of making anything durable, and why a run that vanishes under a reader is no event.

Runs are searched for all anchors of a chunk at once with numpy, 10 microseconds a run, so there may be few: whoever
seals merges them, as index runs are merged, up to a size beyond which merging would need too much memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, Final

from thetastore.backends import Backend, Range
from thetastore.chunking import MAX_CHUNK_BYTES
from thetastore.digest import Digest, checksum_of
from thetastore.errors import BackendError, MalformedError, UnsupportedError
from thetastore.packs.levels import of_one_size
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble, checksum64, preamble
from thetastore.packs.writer import new_id
from thetastore.representations.anchors import IDENTITY_BYTES, Anchor
from thetastore.representations.matching import Hit

RUN_MAGIC: Final = b"\xa7thanc\n\0"
RUN_END: Final = b"\xa7thaend\n"
MERGE_LOCK: Final = "locks/anchors"
MOST_RUNS: Final = 8
"""Runs that are searched before they are merged."""
MAX_RUN_ANCHORS: Final = 1 << 22
"""A run of more would take over 64 MiB of memory to write; it stands for 256 GiB of weights."""
MOST_FAR_RUNS: Final = 32
MOST_FAR_BYTES: Final = 16 << 20
"""Of a far store's anchors, at most so much is fetched: it stands for 64 GiB of weights."""
MOST_PLACES: Final = 4
"""Places found for one identity: content that is everywhere is found somewhere."""
FLUSH_ANCHORS: Final = 1 << 16
"""Anchors held in memory before they are written as a run: of 4 GiB of weights, in 15 MB."""

_INTERPOLATED_COUNT: Final = 1 << 17
_WINDOW: Final = 32
"""The error that is left was 15 at most in 40,000 searches."""

_TRAILER: Final = struct.Struct("<QQ16s")  # anchors, chunks, XXH3-128 of everything between preamble and trailer
TRAILER_BYTES: Final = _TRAILER.size + 16


class AnchorRun:
    """One run, as it lies in the backend's memory. Immutable; thread-safe."""

    def __init__(self, view: memoryview, name: str) -> None:
        """Check what tells where things lie.

        Raises:
            MalformedError, UnsupportedError: the preamble, the trailer, or the length.
        """
        import numpy  # here, so that a store without anchors never needs it

        self.name = name
        check_preamble(view[:PREAMBLE_BYTES], RUN_MAGIC, name)
        trailer = bytes(view[-TRAILER_BYTES:])
        if len(view) < PREAMBLE_BYTES + TRAILER_BYTES or trailer[-8:] != RUN_END:
            raise MalformedError(f"'{name}' is malformed: it does not end as a run of anchors does")
        if checksum64(trailer[: _TRAILER.size]) != trailer[_TRAILER.size : -8]:
            raise MalformedError(f"'{name}' is malformed: its trailer does not have its checksum")
        fields: tuple[int, int, bytes] = _TRAILER.unpack_from(trailer)
        self.count, self.chunk_count, self._checksum = fields
        if PREAMBLE_BYTES + 16 * self.count + 32 * self.chunk_count + TRAILER_BYTES != len(view):
            raise MalformedError(f"'{name}' is malformed: {len(view)} bytes do not fit {self.count} anchors")
        self._body = view[PREAMBLE_BYTES:-TRAILER_BYTES]
        self.identities: Any = numpy.frombuffer(self._body, dtype="<u8", count=self.count)
        self.places: Any = numpy.frombuffer(self._body, dtype="<u4", count=2 * self.count, offset=8 * self.count)
        """Number of the chunk, offset in it; by turns."""
        self._chunks_at = 16 * self.count

    def is_intact(self) -> bool:
        """Tell whether all of it has its checksum."""
        return checksum_of(self._body) == self._checksum

    def chunk(self, number: int) -> Digest:
        """Return the digest of a chunk by its number."""
        start = self._chunks_at + 32 * number
        return Digest(self._body[start : start + 32])

    def find(self, anchors: Sequence[Anchor], identities: Any) -> list[Hit]:
        """Return where else the anchors are; `identities` are theirs, ascending, as an array."""
        import numpy

        if not self.count:
            return []
        first = self._first(identities)
        inside = numpy.minimum(first, self.count - 1)
        matches = (self.identities.take(inside) == identities).nonzero()[0]
        return [hit for index in matches.tolist() for hit in self._hits(anchors[index], int(first[index]))]

    def _first(self, identities: Any) -> Any:
        """Return where the identities first stand, if they do.

        A large run is searched by interpolation, since identities are uniform: from where one should be the error is
        about the square root of the distance gone, three times over. All reads of a step are independent, so that
        they wait for memory together: among 4 million, 50 us for 128 identities, where bisection takes 120.
        """
        import numpy

        if self.count < _INTERPOLATED_COUNT:
            return self.identities.searchsorted(identities)
        density = self.count / 2.0**64
        last = self.count - 1
        at = numpy.minimum((identities * density).astype(numpy.int64), last)
        for _ in range(3):
            distance = (identities - self.identities.take(at)).view(numpy.int64)
            at += (distance * density).astype(numpy.int64)
            numpy.minimum(numpy.maximum(at, 0, out=at), last, out=at)
        starts = numpy.minimum(numpy.maximum(at - _WINDOW // 2, 0), self.count - _WINDOW)
        windows = self.identities.take(starts[:, None] + numpy.arange(_WINDOW))
        return starts + (windows == identities[:, None]).argmax(axis=1)

    def _hits(self, anchor: Anchor, at: int) -> list[Hit]:
        hits: list[Hit] = []
        while at < self.count and self.identities[at] == anchor.identity and len(hits) < MOST_PLACES:
            number, offset = self.places[2 * at : 2 * at + 2].tolist()
            if number < self.chunk_count and offset <= MAX_CHUNK_BYTES - IDENTITY_BYTES:
                hits.append(Hit(anchor.offset, self.chunk(number), offset))
            at += 1
        return hits


class AnchorTable:
    """All anchors known to a store. `find` is thread-safe; the other methods belong to one thread.

    Memory: 15 MB of its own at most, besides what the runs map; 70 MB more while large runs are merged.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._runs: tuple[AnchorRun, ...] | None = None
        self._pending: dict[int, tuple[Hit, ...]] = {}
        """What was added and not written yet; hits with an offset of 0."""
        self._pending_count = 0

    def add(self, chunk: Digest, anchors: Iterable[Anchor]) -> None:
        """Remember where anchors are. They can be found at once, by other processes after `flush`.

        Raises:
            BackendError: many were added, and writing them failed: the disk is full or failing.
        """
        for offset, identity in anchors:
            known = self._pending.get(identity, ())
            if len(known) < MOST_PLACES:
                self._pending[identity] = (*known, Hit(0, chunk, offset))
                self._pending_count += 1
        if self._pending_count >= FLUSH_ANCHORS:
            self.flush()

    def find(self, anchors: Sequence[Anchor]) -> list[Hit]:
        """Return where else a chunk's anchors are: what was added lately first. Hints, all of them."""
        import numpy

        if not anchors:
            return []
        pending = self._pending
        hits = [hit._replace(offset=anchor.offset) for anchor in anchors for hit in pending.get(anchor.identity, ())]
        runs = self._opened()
        if runs:
            ascending = sorted(anchors, key=lambda anchor: anchor.identity)
            identities = numpy.array([anchor.identity for anchor in ascending], dtype="<u8")
            hits += [hit for run in runs for hit in run.find(ascending, identities)]
        return hits

    def flush(self) -> None:
        """Write what was added as a run; merge runs if there are many.

        Raises:
            BackendError: the run was not written, and what was added is forgotten, lest it fill the memory.
        """
        if not self._pending:
            return
        import numpy

        numbers: dict[Digest, int] = {}
        rows = [
            (identity, numbers.setdefault(hit.base, len(numbers)), hit.base_offset)
            for identity, hits in sorted(self._pending.items())
            for hit in hits
        ]
        identities = numpy.array([row[0] for row in rows], dtype="<u8")
        places = numpy.array([row[1:] for row in rows], dtype="<u4")
        try:
            self._write(identities, places, b"".join(numbers))
        finally:
            self._pending = {}
            self._pending_count = 0

    def share(self, target: AnchorTable, chunks: Container[Digest]) -> None:
        """Tell another store's table what this one knows of some chunks, which were copied there as they are stored.

        Reads all of this table; so one of over 4 million anchors is not shared, and copies of these chunks will not
        be found there.

        Raises:
            BackendError: the run was not written.
        """
        self.flush()
        runs = self._opened()
        if runs and sum(run.count for run in runs) <= MAX_RUN_ANCHORS:
            identities, places, digests = _merged([run for run in runs if run.is_intact()], chunks.__contains__)
            if digests:
                target._write(identities, places, digests)

    def _write(self, identities: Any, places: Any, chunks: bytes) -> None:
        if self._backend.is_remote:  # merging, or only looking whether to, would fetch all that others wrote
            write_run(self._backend, identities, places, chunks)
            self._runs = None
            return
        runs = self._opened()
        run = self._open(write_run(self._backend, identities, places, chunks))
        self._runs = (*runs, run) if run else runs
        if len(self._runs) > MOST_RUNS:
            self.merge()

    def merge(self, is_wanted: Callable[[Digest], bool] = lambda _: True) -> None:
        """Merge runs until few are left, unless another process does; drop the anchors of unwanted chunks.

        Raises:
            BackendError: the merged run was not written; the old ones stay.
        """
        with self._backend.try_lock(MERGE_LOCK) as is_ours:
            if not is_ours:
                return
            self._runs = None
            chosen = _runs_to_merge(self._opened())
            sound = [run for run in chosen if run.is_intact()]
            if sound:
                write_run(self._backend, *_merged(sound, is_wanted))
            for run in chosen:
                self._backend.delete(run.name)
            self._runs = None

    def clear(self) -> None:
        """Forget all anchors, to make the table anew from the store's chunks."""
        self._pending = {}
        self._pending_count = 0
        self._runs = None
        for name in list(self._backend.list("anchors")):
            self._backend.delete(name)

    @property
    def anchor_count(self) -> int:
        """How many entries there are, one identity counting once a place."""
        return self._pending_count + sum(run.count for run in self._opened())

    def _opened(self) -> tuple[AnchorRun, ...]:
        """Return the runs that could be opened; the first call lists them."""
        runs = self._runs
        if runs is None:
            try:
                names = sorted(name for name in self._backend.list("anchors") if name.endswith(".run"))
            except BackendError:
                names = []
            if self._backend.is_remote:
                names = self._nearest(names)
            opened = (self._open(name) for name in names)
            runs = self._runs = tuple(run for run in opened if run is not None)
        return runs

    def _nearest(self, names: Sequence[str]) -> list[str]:
        """Return the latest runs of a far store, as many as are worth fetching for hints, and announce them."""
        ranges: list[Range] = []
        for name in list(names)[: -MOST_FAR_RUNS - 1 : -1]:
            try:
                ranges.append(Range(name, 0, self._backend.open(name).size()))
            except (FileNotFoundError, BackendError):
                continue
            if sum(one.nbytes for one in ranges) > MOST_FAR_BYTES:
                ranges.pop()
                break
        self._backend.expect(ranges)
        return [one.name for one in ranges]

    def _open(self, name: str) -> AnchorRun | None:
        try:
            return AnchorRun(self._backend.view(name), name)
        except (FileNotFoundError, MalformedError, UnsupportedError, BackendError):
            return None  # hints: what cannot be read is not missed


def write_run(backend: Backend, identities: Any, places: Any, chunks: bytes) -> str:
    """Create a run; return its file name.

    Args:
        backend: where.
        identities: ascending, as `<u8`.
        places: number of the chunk and offset in it for each identity, `<u4`, shape (n, 2).
        chunks: the digests, one after the other.
    """
    body = b"".join((memoryview(identities).cast("B"), memoryview(places).cast("B"), chunks))
    trailer = _TRAILER.pack(identities.size, len(chunks) // 32, checksum_of(body))
    name = f"anchors/{new_id()}.run"
    backend.create(name, b"".join((preamble(RUN_MAGIC), body, trailer, checksum64(trailer), RUN_END)), durable=False)
    return name


def _runs_to_merge(runs: Sequence[AnchorRun]) -> list[AnchorRun]:
    """Choose the smallest runs while they are of one size, at least two, and memory lasts."""
    chosen = of_one_size(runs, least=2, most=MAX_RUN_ANCHORS)
    return chosen if len(chosen) > 1 else []


def _merged(runs: Sequence[AnchorRun], is_wanted: Callable[[Digest], bool]) -> tuple[Any, Any, bytes]:
    """Return the identities, places and chunks of several runs as those of one."""
    import numpy

    numbers: dict[Digest, int] = {}
    all_identities: list[Any] = [numpy.empty(0, "<u8")]
    all_places: list[Any] = [numpy.empty((0, 2), "<u4")]
    for run in runs:
        chunks = [run.chunk(number) for number in range(run.chunk_count)]
        renumbered = [numbers.setdefault(chunk, len(numbers)) if is_wanted(chunk) else -1 for chunk in chunks]
        places = run.places.reshape(-1, 2)
        known = places[:, 0] < run.chunk_count
        number_of = numpy.array([*renumbered, -1], dtype=numpy.int64)
        number = number_of[numpy.where(known, places[:, 0], run.chunk_count)]
        kept = number >= 0
        all_identities.append(run.identities[kept])
        all_places.append(numpy.stack([number[kept].astype("<u4"), places[kept, 1]], axis=1))
    identities, places = numpy.concatenate(all_identities), numpy.concatenate(all_places)
    order = identities.argsort(kind="stable")
    identities = identities[order]
    # The n-th of equal ones goes; MOST_PLACES before it have the same identity.
    surplus = numpy.zeros(identities.size, dtype=numpy.bool_)
    surplus[MOST_PLACES:] = identities[MOST_PLACES:] == identities[:-MOST_PLACES]
    order, identities = order[~surplus], identities[~surplus]
    return numpy.ascontiguousarray(identities), numpy.ascontiguousarray(places[order]), b"".join(numbers)
