"""Pushing to, and fetching from, a bucket that holds nothing else, and one with a million other objects.

    python -m benchmarks.far_store [--objects 1000000] [--json FILE]

The other objects are real entries of index runs; their packs are never read. What is counted: requests, round trips,
bytes read and sent, processor time, and what Python allocates at the peak. The target: what grows, grows as the new
work does, and not as the store.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from thetastore.arrays import new_tensor
from thetastore.backends.memory import MemoryBackend
from thetastore.backends.remote import RemoteBackend
from thetastore.checkpoints.compose import safetensors_source
from thetastore.digest import Digest
from thetastore.packs.index import write_run
from thetastore.packs.writer import Row, SealedPack, sealed_name
from thetastore.store import Store
from thetastore.testing import MemoryRequests, Rounds

PACK_RECORDS = 95
RUN_OBJECTS = 100_000
TENSORS = 32


def crowd(files: dict[str, bytes], objects: int) -> None:
    """Put so many other objects into a bucket, as far as its index and the names of its packs tell."""
    backend = RemoteBackend(MemoryRequests(files), "memory://bucket")
    for start in range(0, objects, RUN_OBJECTS):
        count = min(RUN_OBJECTS, objects - start)
        body = os.urandom(32 * count)
        digests = [Digest(body[at : at + 32]) for at in range(0, len(body), 32)]
        packs = []
        for at in range(0, count, PACK_RECORDS):
            some = digests[at : at + PACK_RECORDS]
            rows = [Row(digest, 32 + 700_000 * n, 700_000) for n, digest in enumerate(some)]
            packs.append(SealedPack(f"{start:016x}{at:016x}", 64 << 20, rows))
            files[sealed_name(packs[-1].id)] = b""
        write_run(backend, packs)


def model(seed: int) -> dict[str, Any]:
    """Return 32 tensors of 256 KiB."""
    random = np.random.default_rng(seed)
    return {f"layers.{n}.w": random.standard_normal((256, 256)).astype(np.float32) for n in range(TENSORS)}


def measured(what: str, objects: int, rounds: Rounds, act: Any) -> dict[str, Any]:
    """Do something, and return what it took."""
    rounds.restart()
    tracemalloc.start()
    started_s = time.process_time()
    act()
    used_s = time.process_time() - started_s
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sent = sum(one.nbytes for one in rounds.asked if one.verb.startswith("put"))
    return {
        "what": what,
        "objects": objects,
        "requests": len(rounds.asked),
        "listings": sum(one.verb == "list" for one in rounds.asked),
        "round_trips": rounds.count,
        "read_bytes": rounds.get_bytes,
        "sent_bytes": sent,
        "cpu_s": used_s,
        "peak_bytes": peak_bytes,
    }


def measure(objects: int) -> list[dict[str, Any]]:
    """Push two versions to a bucket with so many other objects, and fetch them elsewhere, whole and in part."""
    files: dict[str, bytes] = {}
    Store.at(RemoteBackend(MemoryRequests(files), "memory://bucket"), create=True).close()
    crowd(files, objects)
    rounds = Rounds(MemoryRequests(files))
    first = model(1)
    second = {**first, "layers.0.w": first["layers.0.w"] + np.float32(1)}
    digests: list[Digest] = []
    rows = []
    with Store.at(MemoryBackend(), create=True) as here:

        def push() -> None:
            with Store.at(rounds.backend()) as there:
                there.begin_session()
                there.count_only_durable()
                here.send_to(there, [digest for digest, _ in there.missing_objects(digests[-1:])], proves=False)

        for name, arrays in (("push of a model", first), ("push of its next version", second)):
            source = safetensors_source([new_tensor(*item) for item in arrays.items()])
            digests.append(here.put_file(source, digests[-1] if digests else None).manifest_digest)
            here.seal()
            rows.append(measured(name, objects, rounds, push))
    for name, wants in (("fetch of 2 tensors", lambda tensor: tensor in ("layers.3.w", "layers.4.w")), ("fetch", None)):

        def fetch(wants: Any = wants) -> None:
            with (
                Store.at(MemoryBackend(), create=True) as copy,
                Store.at(rounds.backend(), expected=digests[-1:]) as there,
            ):
                assert there.missing_objects(digests[-1:], wants) == []
                there.send_to(copy, digests[-1:], wants=wants)

        rows.append(measured(name, objects, rounds, fetch))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    keys = ("objects", "requests", "listings", "round_trips", "read_bytes", "sent_bytes", "peak_bytes")
    head = ["", *(key.replace("_", " ") for key in keys), "CPU s"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(keys) + 1)]
    lines += (
        f"| {row['what']} | {' | '.join(f'{row[key]:,}' for key in keys)} | {row['cpu_s']:.2f} |"
        for row in sorted(rows, key=lambda row: str(row["what"]))
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.far_store", description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    measure(0)  # imports and the like
    rows = [row for objects in (0, options.objects // 10, options.objects) for row in measure(objects)]
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps({"schema": 1, "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
