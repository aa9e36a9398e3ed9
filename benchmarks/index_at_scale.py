"""The index of a store with a billion chunks, over a place that makes its bytes when they are asked for.

    python -m benchmarks.index_at_scale [--chunks 1000000000] [--json FILE]

The code that looks up is the store's own (`thetastore.packs.far_index`); only the bucket is made up. Fences stand
where order statistics of uniform digests would have them, noise included, and between two of them digests are uniform:
so interpolation is as wrong as it would be. What is measured: requests, bytes and round trips to open the run, to look
up one digest that is there, one that is not, and many at once; memory of this process; and, with real runs on disk,
what merging costs a row, in time and in memory.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import resource
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.requests import Listed
from thetastore.digest import Digest, checksum_of
from thetastore.packs.far_index import FarRun, look_up
from thetastore.packs.index import FENCE_ROWS, RUN_END, RUN_MAGIC, Run, create_run, encode_end
from thetastore.packs.merging_runs import merge_runs
from thetastore.packs.preamble import PREAMBLE_BYTES, checksum64, preamble
from thetastore.testing import Rounds

PACK_RECORDS = 95
"""Of 0.67 MiB each, in a pack of 64 MiB."""
NAME = "index/" + "0" * 32 + ".run"
_SPAN = 1 << 64


class MadeUpRun:
    """A place with one index run of any length. See `Requests`."""

    part_bytes = 0

    def __init__(self, count: int) -> None:
        self.count = count
        self.pack_count = -(-count // PACK_RECORDS)
        self._places_at = PREAMBLE_BYTES + 32 * count
        self._packs_at = self._places_at + 16 * count
        self._fences_at = self._packs_at + 32 * self.pack_count
        blocks = -(-count // FENCE_ROWS)
        spread = (np.arange(blocks + 1, dtype=np.float64) * FENCE_ROWS / count).clip(0, 1)
        noise = np.random.default_rng(2).standard_normal(blocks + 1) * np.sqrt(spread * (1 - spread) / count)
        self.fences = np.sort((spread + noise).clip(0, 1 - 1e-12) * float(_SPAN)).astype(np.uint64)
        self.fences[0] = 0
        self._end = self._made_end()
        self.file_bytes = self._fences_at + len(self._end)

    def _made_end(self) -> bytes:
        fences = self.fences[:-1].tobytes()
        is_read_whole = 32 * self.pack_count <= 1 << 20
        table = b"".join(map(self._pack, range(self.pack_count))) if is_read_whole else b""
        checksums = bytes(16), checksum_of(table), checksum_of(fences)
        trailer = struct.pack("<QQ16s16s16s", self.count, self.pack_count, *checksums)
        return fences + trailer + checksum64(trailer) + RUN_END

    @lru_cache(maxsize=64)  # noqa: B019  (one place lives as long as the program)
    def block(self, number: int) -> Any:
        """Return the digests of a block of rows, as words: uniform between its fences, in order."""
        rows = min(FENCE_ROWS, self.count - number * FENCE_ROWS)
        source = np.random.default_rng([3, number])
        low, high = int(self.fences[number]), int(self.fences[number + 1])
        words = source.integers(0, 1 << 64, (rows, 4), dtype=np.uint64)
        words[:, 3] = np.sort(source.integers(low, max(high, low + 1), rows, dtype=np.uint64))
        words[0, 3] = low
        return words

    def digest(self, row: int) -> Digest:
        """Return the digest in a row."""
        return Digest(self.block(row // FENCE_ROWS)[row % FENCE_ROWS].tobytes())

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`."""
        stop = min(stop, self.file_bytes)
        parts = []
        while start < stop:
            part = self._part(start)[: stop - start]
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def _part(self, at: int) -> bytes:
        """Return some bytes from an offset on."""
        if at < PREAMBLE_BYTES:
            return preamble(RUN_MAGIC)[at:]
        if at < self._places_at:
            number, inside = divmod(at - PREAMBLE_BYTES, 32 * FENCE_ROWS)
            return self.block(number).tobytes()[inside:]
        if at < self._packs_at:
            row, inside = divmod(at - self._places_at, 16)
            rows = range(row, min(row + 4096, self.count))
            return b"".join(
                struct.pack("<IIQ", r // PACK_RECORDS, 700_000, 32 + 700_000 * (r % PACK_RECORDS)) for r in rows
            )[inside:]
        if at < self._fences_at:
            number, inside = divmod(at - self._packs_at, 32)
            return self._pack(number)[inside:]
        return self._end[at - self._fences_at :]

    def _pack(self, number: int) -> bytes:
        return struct.pack("<16sQQ", hashlib.md5(str(number).encode()).digest(), 64 << 20, PACK_RECORDS)

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        return self.file_bytes

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`."""
        return iter([Listed(NAME, self.file_bytes)])

    def written_s(self, name: str) -> float:
        """See `Requests.written_s`."""
        return 0.0

    def _refuse(self, *_: object) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), NAME)

    put_new = delete = begin = put_part = finish = abandon = _refuse


def measure(chunks: int, questions: int = 200, batches: Sequence[int] = (1000, 5000)) -> list[dict[str, Any]]:
    """Look up in a run of so many chunks; return a row for each thing that was tried."""
    place = MadeUpRun(chunks)
    rounds = Rounds(place)
    backend = rounds.backend()
    rows: list[dict[str, Any]] = []

    def note(what: str, questions: int) -> None:
        rows.append(
            {
                "what": what,
                "chunks": chunks,
                "questions": questions,
                "requests": len(rounds.asked),
                "bytes": rounds.get_bytes,
                "round_trips": rounds.count,
            }
        )
        rounds.restart()

    list(backend.list("index"))
    rounds.restart()
    run = FarRun(backend, NAME, place.file_bytes)
    note("open", 0)
    source = np.random.default_rng(4)
    there = [place.digest(int(row)) for row in source.integers(0, chunks, questions)]
    absent = [Digest(source.bytes(32)) for _ in range(questions)]
    for digest in there:
        assert len(list(run.find(digest, int.from_bytes(digest[24:], "little")))) == 1
    note("one that is there", questions)
    for digest in absent:
        assert list(run.find(digest, int.from_bytes(digest[24:], "little"))) == []
    note("one that is not there", questions)
    for count in batches:
        look_up(backend, [run], [Digest(source.bytes(32)) for _ in range(count)])
        note(f"{count} at once", count)
    rows.append({"what": "memory of all this, peak", "chunks": chunks, "bytes": _peak_bytes()})
    return rows


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def merging(count: int, runs: int = 5) -> dict[str, Any]:
    """Merge real runs of so many rows in all, as upkeep does, and tell what it costs.

    Memory is what Python and numpy allocate: mapped files are not in it, since the system takes their pages back.
    """
    with tempfile.TemporaryDirectory() as directory:
        backend = DirectoryBackend(directory)
        Path(directory, "index").mkdir(exist_ok=True)
        names = [_real_run(backend, number, count // runs) for number in range(runs)]
        opened = [Run(backend.view(name), name) for name in names]
        started = time.process_time()
        backend.delete(merge_runs(backend, opened) or "")
        used_s = time.process_time() - started
        tracemalloc.start()
        merge_runs(backend, opened)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {
        "what": f"merge of {runs} runs",
        "chunks": count // runs * runs,
        "bytes": peak,
        "us_a_row": 1e6 * used_s / count,
        "bytes_a_row": peak / count,
    }


def _real_run(backend: DirectoryBackend, number: int, count: int) -> str:
    """Write a run of rows by chance; return its name. Made by numpy: as objects of Python they would not fit."""
    source = np.random.default_rng([5, number])
    digests = source.integers(0, 1 << 64, (count, 4), dtype=np.uint64)
    digests = digests[np.argsort(digests[:, 3])]
    places = np.zeros(count, [("pack", "<u4"), ("nbytes", "<u4"), ("offset", "<u8")])
    rows = source.permutation(count)
    places["pack"], places["nbytes"], places["offset"] = rows // PACK_RECORDS, 700_000, 32 + rows % PACK_RECORDS
    packs = np.zeros(-(-count // PACK_RECORDS), [("id", "<u8", 2), ("file_bytes", "<u8"), ("rows", "<u8")])
    packs["id"] = source.integers(1, 1 << 63, (len(packs), 2))
    packs["file_bytes"], packs["rows"] = 64 << 20, np.bincount(places["pack"])
    body = digests.tobytes() + places.tobytes()
    fences = digests[::FENCE_ROWS, 3].tobytes()
    return create_run(
        backend, preamble(RUN_MAGIC) + body + encode_end(packs.tobytes(), count, checksum_of(body), fences)
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| | chunks | asked | requests | round trips | bytes | each |", "| --- |" + " ---: |" * 6]
    for row in rows:
        each = f"{row['bytes'] / row['questions']:,.0f} B" if row.get("questions") else ""
        cells = [
            f"{row[key]:,}" if key in row else "" for key in ("chunks", "questions", "requests", "round_trips", "bytes")
        ]
        if "us_a_row" in row:
            each = f"{row['us_a_row']:.2f} us, {row['bytes_a_row']:.1f} B of memory a row"
        lines.append(f"| {row['what']} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index_at_scale", description=__doc__)
    parser.add_argument("--chunks", type=int, default=1_000_000_000)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = [row for chunks in (1_000_000, options.chunks) for row in measure(chunks)]
    rows += [merging(count) for count in (100_000, 1_000_000, 10_000_000)]
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps({"schema": 1, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
