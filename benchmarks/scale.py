"""Whether adding one model costs the same in a store of ten models and in one of ten thousand.

    python -m benchmarks.scale [--models 10000] [--rounds 7] [--json FILE]

Stores are filled by the store's own code with models that were never there: manifests of 100 tensors, records of 100
chunks each under random digests, families of ten models, anchors as many as 100 MB of weights have. Then real files go
in, in processes of their own, by turns: a fine-tune of a model that is really there, and a model that has nothing in
common with any. What is compared is processor time (user and system) of the whole process and peak memory of its
own; the target is a difference under 20 %. Beside them stand the time of the adding alone, and what is mapped of the
store's files, which is the system's to take back. Stores are kept; what is added goes into copies made of links.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import inputs
from benchmarks.harness import machine
from thetastore.bases.families import family_keys, register
from thetastore.digest import Digest, Kind
from thetastore.manifest import Chunk, Manifest, PageRef, Tensor, encode_manifest, encode_page, paginate
from thetastore.packs.records import Entry
from thetastore.representations.anchor_table import MAX_RUN_ANCHORS, MOST_RUNS, AnchorTable, write_run
from thetastore.store import Store

RECIPE = 2
CHUNKS = TENSORS = 100
CHUNK_BYTES = 1 << 20
ANCHORS = 2500
"""Of one model: one in 40 KiB."""
FAMILY_MODELS = 10
MODELS_A_SEAL = 500
SIZE_MB = 40
LIMIT = 1.20


def build(path: Path, models: int, base: Path) -> None:
    """Fill a store with so many models, one of which is real."""
    part = path.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    with Store.open(str(part), create=True) as store, base.open("rb", buffering=0) as source:
        store.put_file(source)
    for first in range(1, models, MODELS_A_SEAL):
        with Store.open(str(part)) as store:
            numbers = range(first, min(models, first + MODELS_A_SEAL))
            chunks = [digest for number in numbers for digest in _put_model(store, number)]
            _remember(store, chunks)
    os.replace(part, path)


def _put_model(store: Store, number: int) -> Iterator[Digest]:
    """Put a model that nobody can read, as far as its names, places and family tell; yield its chunks' digests."""
    chunks = tuple(Chunk(CHUNK_BYTES, Digest(os.urandom(32))) for _ in range(CHUNKS))
    for chunk in chunks:
        entry = Entry(Kind.CHUNK, chunk.digest, "constant", b"", CHUNK_BYTES, 8, (), 0, os.urandom(16))
        store.objects.add_representation(entry, b"12345678")
        yield chunk.digest
    names = (f"family.{number // FAMILY_MODELS}.layer.{tensor}.weight" for tensor in range(TENSORS))
    tensors = tuple(
        Tensor(name, "bfloat16", (CHUNK_BYTES // 2048, 1024), place * CHUNK_BYTES, None, chunk.digest)
        for place, (name, chunk) in enumerate(zip(names, chunks, strict=True))
    )
    manifest = Manifest("safetensors", 1, CHUNKS * CHUNK_BYTES, Digest(os.urandom(32)), tensors, chunks)
    pages = [
        PageRef(CHUNK_BYTES * len(page), len(page), store.objects.put(Kind.PAGE, encode_page(page)))
        for page in paginate(chunks)
    ]
    if pages:
        manifest = manifest._replace(chunks=(), pages=tuple(pages))
    digest = store.objects.put(Kind.MANIFEST, encode_manifest(manifest))
    register(store.backend, family_keys(tensors), digest)


def _remember(store: Store, chunks: list[Digest]) -> None:
    """Write as many anchors as these chunks would have, in one run."""
    rng = np.random.default_rng(len(chunks))
    count = min(MAX_RUN_ANCHORS, len(chunks) * ANCHORS // CHUNKS)
    identities = np.sort(np.frombuffer(os.urandom(8 * count), "<u8"))
    places = np.stack([rng.integers(0, len(chunks), count), rng.integers(0, CHUNK_BYTES - 256, count)], axis=1)
    write_run(store.backend, identities, places.astype("<u4"), b"".join(chunks))
    if sum(1 for _ in store.backend.list("anchors")) > MOST_RUNS:  # as when they are written by the store itself
        AnchorTable(store.backend).merge()


def fine_tune(base: Path, target: Path, seed: int) -> Path:
    """Write a model of which every weight has moved a little."""
    shutil.copyfile(base, target)
    rng = np.random.default_rng(seed)
    with target.open("r+b") as file:
        for place in inputs.read_places(base):
            file.seek(place.offset)
            moved = inputs.as_fp32(file.read(place.raw_bytes), place.code)
            moved += rng.standard_normal(moved.size, dtype=np.float32) * np.float32(1e-4)
            file.seek(place.offset)
            file.write(inputs.round_to_bf16(moved).tobytes())
    return target


def add(store: Path, model: Path, watches: bool) -> dict[str, float]:
    """Add a model in a process of its own; return the time that it took, or the memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--add", str(model), "--store", str(store), *["--watch"] * watches],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    taken: dict[str, float] = json.loads(done.stdout)
    return taken if watches else taken | {"process_cpu_s": round(cpu_s, 4)}


def _add_here(store: str, model: str, watches: bool) -> None:
    """The process that `add` starts: only the adding itself is counted, from opening the store to closing it."""
    from thetastore.codecs import encode

    encode(bytes(range(256)) * 64, "bfloat16")  # numpy is imported here, not there
    watch = _Watch() if watches else None
    before = resource.getrusage(resource.RUSAGE_SELF)
    with Store.open(store) as opened, open(model, "rb", buffering=0) as source:
        opened.put_file(source)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    taken: dict[str, float] = {"cpu_s": round(cpu_s, 4)}
    if watch is not None:
        taken = {"peak_bytes": watch.peak_bytes, "mapped_bytes": _status_bytes("RssFile")}
    json.dump(taken, sys.stdout)


class _Watch(threading.Thread):
    """Notes the most memory of its own that this process holds; what it maps of files the system takes back."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self.start()

    def run(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, _status_bytes("RssAnon"))
            time.sleep(0.002)


def _status_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def measure(directory: Path, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    base = inputs.transformer(directory / "inputs", SIZE_MB, "bfloat16", seed=1)
    kept = {models: directory / "inputs" / f"scale-{models}-r{RECIPE}" for models in sizes}
    for models, path in kept.items():
        if not path.exists():
            print(f"making a store of {models} models ...", file=sys.stderr)
            build(path, models, base)
    scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=directory))
    rows: list[dict[str, Any]] = []
    try:
        stores = {models: scratch / str(models) for models in sizes}
        for models, path in stores.items():
            shutil.copytree(kept[models], path, copy_function=os.link)
        for number in range(rounds + 3):
            watches = number > rounds  # which costs time
            model = fine_tune(base, scratch / "model.safetensors", seed=number)
            other = inputs.transformer(scratch, SIZE_MB, "bfloat16", seed=100 + number)
            for models in sizes if number % 2 else reversed(sizes):
                for what, path in (("fine-tune", model), ("unrelated", other)):
                    rows.append({"models": models, "what": what, "round": number} | add(stores[models], path, watches))
            other.unlink()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [row for row in rows if row["round"]]


def compare(rows: list[dict[str, Any]], sizes: list[int]) -> list[dict[str, Any]]:
    """Return medians side by side, and whether they differ by less than the limit where that is aimed for."""
    few, many = sizes
    compared = []
    for what in ("fine-tune", "unrelated"):
        for key in ("process_cpu_s", "cpu_s", "peak_bytes", "mapped_bytes"):
            values = {
                models: statistics.median(
                    row[key] for row in rows if (row["models"], row["what"]) == (models, what) and key in row
                )
                for models in sizes
            }
            ratio = values[many] / values[few]
            is_reached = ratio < LIMIT if key in ("process_cpu_s", "peak_bytes") else None
            one = {"what": what, "key": key, "few": values[few], "many": values[many], "ratio": round(ratio, 3)}
            compared.append(one | {"is_reached": is_reached})
    return compared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--directory", type=Path, default=Path.home() / ".cache" / "thetastore-bench")
    parser.add_argument("--add", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.add:
        _add_here(arguments.store, arguments.add, arguments.watch)
        return 0
    sizes = [10, arguments.models]
    rows = measure(arguments.directory, sizes, arguments.rounds)
    print(
        f"adding a model of {SIZE_MB} MB to {sizes[0]} and to {sizes[1]} models (ms, MB; medians of {arguments.rounds})"
    )
    compared = compare(rows, sizes)
    for row in compared:
        unit = 1e-3 if row["key"].endswith("_s") else 1e6
        verdict = {None: "", True: "ok", False: "MISS"}[row["is_reached"]]
        name = f"{row['what']}: {row['key']}"
        print(f"  {name:26} {row['few'] / unit:8.1f}  {row['many'] / unit:8.1f}   x{row['ratio']:.3f}  {verdict}")
    if arguments.json:
        about = {"models": sizes, "size_mb": SIZE_MB, "rounds": arguments.rounds}
        whole = {"schema": 1, "machine": machine(arguments.directory), **about, "compared": compared, "rows": rows}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n")
    return int(any(row["is_reached"] is False for row in compared))


if __name__ == "__main__":
    sys.exit(main())
