"""Several index runs made into one, a piece at a time: memory does not grow with them.

The runs ascend, so that rows of which every run has shown all smaller ones can be put in order and written, while the
rest is unread. Digests are uniform: if each run is read on by the same share of its rows, all get about equally far,
and little waits. Two streams come out of one pass, digests and places, and a run has one after the other; so places
wait in a file of their own until the last digest is written.

What is read has its checksum looked at before the new run can be seen: damage does not come out with a good one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from thetastore.backends import Appender, Backend, Range
from thetastore.digest import checksum_of
from thetastore.errors import MalformedError
from thetastore.packs.index import (
    FENCE_ROWS,
    PACK_BYTES,
    PLACE_BYTES,
    RUN_MAGIC,
    Run,
    create_run,
    encode_end,
    encode_run,
    run_name,
)
from thetastore.packs.preamble import preamble
from thetastore.packs.records import HEAD_BYTES, MAX_RECORD_BYTES
from thetastore.packs.writer import SealedPack, new_id

PIECE_ROWS = 1 << 17
"""About so many rows are in memory: 30 MB with all that is made of them. Pieces twice as long are no faster."""
LEAST_READ_ROWS = 1 << 12
"""Of a short run beside a long one: more would be held for long, fewer make too many requests of a far one."""
_COPY_BYTES = 4 << 20
_PACK = [("id", "S16"), ("file_bytes", "<u8"), ("rows", "<u8")]
_PLACE = [("pack", "<u4"), ("nbytes", "<u4"), ("offset", "<u8")]


def merge_runs(
    backend: Backend,
    runs: Sequence[Run],
    without: frozenset[str] = frozenset(),
    sealed: Sequence[SealedPack] = (),
    piece_rows: int = PIECE_ROWS,
) -> str | None:
    """Create a run of all rows of some runs; return its file name, None where no pack is left.

    A pack that two runs cover is taken from the first. Rows whose places cannot be are left out. The runs stay.

    Args:
        backend: where the new one is made, and the far ones of `runs` are.
        runs: what is merged.
        without: ids of packs whose rows are left out.
        sealed: packs that are listed besides.
        piece_rows: about how many rows are held in memory.

    Raises:
        MalformedError: a run does not have its checksum, or does not ascend. Nothing was created.
        BackendError: the place does not take the new run.
    """
    fresh = [Run(memoryview(encode_run(sealed)), "new packs")] if sealed else []
    if not runs and not fresh:
        return None
    merged = _Merged(backend, [*runs, *fresh], without, piece_rows)
    if not len(merged.packs):
        return None
    if sum(run.count for run in merged.runs) <= piece_rows:
        pieces = list(merged.pieces())
        body = b"".join([digests for digests, _ in pieces] + [places for _, places in pieces])
        return create_run(backend, preamble(RUN_MAGIC) + body + merged.end(checksum_of(body)))
    return _create_long(backend, merged)


def delete_unfinished(backend: Backend) -> None:
    """Delete what dead processes had merged so far; of a far place, that died with them."""
    for name in () if backend.is_remote else list(backend.list("incoming")):
        if name.endswith((".run", ".places")):
            try:
                backend.reopen(name).discard()
            except (BlockingIOError, FileNotFoundError):
                pass  # its process is alive, or somebody else has deleted it


def _create_long(backend: Backend, merged: _Merged) -> str:
    """Create a run that need not fit into memory."""
    import xxhash

    unfinished, name = f"incoming/{new_id()}", run_name()
    checksum = xxhash.xxh3_128()
    run = backend.appender(f"{unfinished}.run")
    try:
        places = backend.appender(f"{unfinished}.places")
        try:
            run.write(preamble(RUN_MAGIC))
            for piece_digests, piece_places in merged.pieces():
                checksum.update(piece_digests)
                run.write(piece_digests)
                places.write(piece_places)
            for part in _parts_of(backend, places):
                checksum.update(part)
                run.write(part)
        finally:
            places.discard()
        run.write(merged.end(checksum.digest()))
        run.seal(name)
    except BaseException:
        run.discard()
        raise
    run.close()
    return name


def _parts_of(backend: Backend, file: Appender) -> Iterator[memoryview]:
    """Yield what was written to a file in the making; each part is good until the next."""
    reader = backend.open(file.name)
    out = memoryview(bytearray(_COPY_BYTES))
    for offset in range(0, file.size(), _COPY_BYTES):
        yield out[: reader.read_into(offset, out)]


class _Merged:
    """The rows of several runs in the order of one."""

    def __init__(self, backend: Backend, runs: Sequence[Run], without: frozenset[str], piece_rows: int) -> None:
        import numpy as np

        self.runs = runs
        self._backend = backend
        table = np.concatenate([np.frombuffer(run.pack_table, _PACK) for run in runs])
        is_wanted = np.zeros(len(table), bool)
        is_wanted[np.unique(table["id"], return_index=True)[1]] = True
        is_wanted &= ~np.isin(table["id"], np.array([bytes.fromhex(id) for id in without], "S16"))
        self.packs = table[is_wanted]
        """The packs of the merged run. Their numbers of rows are right when `pieces` has ended."""
        self.packs["rows"] = 0
        numbers = np.where(is_wanted, np.cumsum(is_wanted) - 1, -1)
        stops = np.cumsum([len(run.pack_table) // PACK_BYTES for run in runs])[:-1]
        least = min(LEAST_READ_ROWS, piece_rows)
        all_rows = max(sum(run.count for run in runs), 1)
        self._sources = [
            _Source(run, own, packs["file_bytes"], -(-piece_rows * run.count // all_rows), least)
            for run, own, packs in zip(runs, np.split(numbers, stops), np.split(table, stops), strict=True)
        ]
        self._count = 0
        self._fences: list[bytes] = []

    def pieces(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield digests and places, in order.

        Raises:
            MalformedError: some run does not have its checksum, or does not ascend.
        """
        import numpy as np

        while self._read_on():
            bound = min((source.reached for source in self._sources if source.is_unread), default=None)
            taken = [source.take(bound) for source in self._sources]
            digests = np.concatenate([digests for digests, _ in taken])
            places = np.concatenate([places for _, places in taken])
            order = _order(digests, places)
            yield self._noted(digests[order], places[order])
        for source in self._sources:
            source.check()

    def _read_on(self) -> bool:
        """Read on where little is left, or where nothing could be taken; tell whether there are rows to be written."""
        short = [source for source in self._sources if source.is_short()]
        self._backend.expect([one for source in short for one in source.ranges()])
        for source in short:
            source.read_on()
        return any(source.is_unread or source.waiting for source in self._sources)

    def _noted(self, digests: Any, places: Any) -> tuple[bytes, bytes]:
        """Take note of what the end of the run says of these rows."""
        import numpy as np

        np.add.at(self.packs["rows"], places["pack"], 1)
        self._fences.append(digests[-self._count % FENCE_ROWS :: FENCE_ROWS, 3].tobytes())
        self._count += len(digests)
        return digests.tobytes(), places.tobytes()

    def end(self, body_checksum: bytes) -> bytes:
        """Return what follows digests and places, when `pieces` has ended."""
        return encode_end(self.packs.tobytes(), self._count, body_checksum, b"".join(self._fences))


class _Source:
    """A run that is read from its first row to its last."""

    def __init__(self, run: Run, numbers: Any, file_bytes: Any, share: int, least: int) -> None:
        """Begin.

        Args:
            run: what is read.
            numbers: for each of its packs the number in the merged run; -1 for those that are left out.
            file_bytes: of each of its packs.
            share: how many rows there should be before rows are taken.
            least: how many rows are read at a time, or more.
        """
        import numpy as np
        import xxhash

        self._run = run
        self._numbers = numbers
        self._file_bytes = file_bytes
        self._share = share
        self._read_rows = max(share, least)
        self._checksum = xxhash.xxh3_128()
        self._at = 0
        self._digests = np.zeros((0, 4), "<u8")
        self._places = np.zeros(0, _PLACE)
        self.reached = 0
        """The most significant word of the last row that was read."""
        self._is_stuck = False

    @property
    def is_unread(self) -> bool:
        """Whether it has rows that were not read."""
        return self._at < self._run.count

    @property
    def waiting(self) -> int:
        """How many rows were read, and not taken."""
        return len(self._digests)

    def is_short(self) -> bool:
        """Tell whether it is to be read on."""
        return self.is_unread and (self.waiting < self._share or self._is_stuck)

    def _stop(self) -> int:
        # As many again as wait: else a long row of one digest would be copied for each few of them.
        return min(self._run.count, self._at + max(self._read_rows, self.waiting))

    def ranges(self) -> list[Range]:
        """Return what `read_on` will fetch."""
        if not self._run.is_far:
            return []
        run: Any = self._run
        return [run.digest_range(self._at, self._stop()), run.place_range(self._at, self._stop())]

    def read_on(self) -> None:
        """Read more rows. Raises as `_Merged.pieces` does."""
        import numpy as np

        stop = self._stop()
        stored = self._run.digests(self._at, stop)
        self._checksum.update(stored)
        digests = np.frombuffer(stored, "<u8").reshape(-1, 4)
        places = np.frombuffer(self._run.places(self._at, stop), _PLACE)
        self._at = stop
        words = digests[:, 3]
        if int(words[0]) < self.reached or (words[1:] < words[:-1]).any():
            raise MalformedError(f"'{self._run.name}' is malformed: its digests do not ascend")
        self.reached = int(words[-1])
        kept, numbers = self._wanted(places)
        renumbered = places[kept]
        renumbered["pack"] = numbers
        self._digests = np.concatenate([self._digests, digests[kept]])
        self._places = np.concatenate([self._places, renumbered])

    def _wanted(self, places: Any) -> tuple[Any, Any]:
        """Return which rows are taken over, and the new numbers of their packs."""
        import numpy as np

        kept = np.flatnonzero(places["pack"] < len(self._numbers))
        own, nbytes, offsets = places["pack"][kept], places["nbytes"][kept], places["offset"][kept]
        numbers, file_bytes = self._numbers[own], self._file_bytes[own]
        can_be = (nbytes >= HEAD_BYTES) & (nbytes <= MAX_RECORD_BYTES)
        can_be &= (nbytes <= file_bytes) & (offsets <= file_bytes - nbytes)
        can_be &= numbers >= 0
        return kept[can_be], numbers[can_be]

    def take(self, bound: int | None) -> tuple[Any, Any]:
        """Return the rows below a word, or all of them for None."""
        import numpy as np

        count = self.waiting
        if bound is not None:
            count = int(np.searchsorted(self._digests[:, 3], np.uint64(bound)))
        self._is_stuck = bound is not None and count == 0 and self.reached == bound
        taken = self._digests[:count], self._places[:count]
        self._digests, self._places = self._digests[count:], self._places[count:]
        return taken

    def check(self) -> None:
        """Look at the checksum of what was read: places are read once more, after the digests.

        Raises:
            MalformedError: it is another.
        """
        step = _COPY_BYTES // PLACE_BYTES
        for first in range(0, self._run.count, step):
            self._checksum.update(self._run.places(first, min(first + step, self._run.count)))
        if self._checksum.digest() != self._run.body_checksum:
            raise MalformedError(f"'{self._run.name}' is malformed: its digests do not have their checksum")


def _order(digests: Any, places: Any) -> Any:
    """Return the order of rows: by the digest as an integer, then pack, offset, length.

    Few rows share their most significant word with another one, so the rest is compared for those alone.
    """
    import numpy as np

    order = np.argsort(digests[:, 3], kind="stable")
    words = digests[order, 3]
    is_same = words[1:] == words[:-1]
    if is_same.any():
        tied = np.flatnonzero(np.append(is_same, False) | np.append(False, is_same))
        rows = order[tied]
        keys = [places[name][rows] for name in ("nbytes", "offset", "pack")]
        order[tied] = rows[np.lexsort((*keys, *(digests[rows, at] for at in range(4))))]
    return order
