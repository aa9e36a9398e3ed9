"""Versions of a model through a store: what finding and using a base costs an add and a read, and what threads do.

    python -m benchmarks.adding [--base BASE.safetensors] [--version VERSION.safetensors ...] [--rounds 7] [--json]

Without --base, weights are drawn, and changed by the recipes of `benchmarks.difference`. Each version is stored in a
new store that holds

    nothing          the version takes what it takes by itself
    the base         which is found without being told
    a stranger       a model of the same names and shapes that has nothing in common
    four strangers

by the caller's thread alone, and read again by it; then beside the base by two threads as well, and by copies of the
process where those are allowed. All take turns within a round; figures are minima of rounds: the clock, and the
processor time of this process and its copies. Every file that is read is compared with what was added.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.difference import RECIPES, Tensor, changed, drawn_tensors, tensors_of_file
from benchmarks.harness import bytes_below
from thetastore.checkpoints import ingest
from thetastore.checkpoints.compose import NewTensor, safetensors_source
from thetastore.digest import Digest
from thetastore.pool import Pool
from thetastore.store import Store


class Way(NamedTuple):
    """How a version is added."""

    name: str
    others: int
    """Strangers that the store has; -1 for the base."""
    codes_in_threads: bool = False
    may_fork: bool = False


WAYS = [
    Way("nothing", 0),
    Way("the base", -1),
    Way("a stranger", 1),
    Way("four strangers", 4),
    Way("the base, two threads", -1, codes_in_threads=True),
    Way("the base, copies of the process", -1, may_fork=True),
]


def file_of(tensors: dict[str, Tensor]) -> bytes:
    """Return a safetensors file."""
    new = [
        NewTensor(name, dtype, shape, lambda raw=raw: iter([raw]))  # type: ignore[misc]
        for name, (dtype, shape, raw) in tensors.items()
    ]
    source = safetensors_source(new)
    raw = bytearray(source.file_bytes)
    view = memoryview(raw)
    while view:
        view = view[source.readinto(view) :]
    return bytes(raw)


def stranger(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return a model with the same tensors, each with its elements in another order."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, (dtype, shape, raw) in tensors.items():
        words = np.frombuffer(raw, f"V{len(raw) // max(1, int(np.prod(shape)))}")
        made[name] = (dtype, shape, rng.permutation(words).tobytes())
    return made


def put(path: Path, raw: bytes, way: Way) -> Digest:
    """Store a file; return its manifest's digest."""
    with Store.open(str(path), create=True) as store:
        store.pool = Pool(2 if way.codes_in_threads or way.may_fork else 1)
        if way.may_fork:
            store.pool.allow_forks()
        ingest._WORKERS_THAT_PAY = 2 if way.codes_in_threads else 3
        return store.put_file(io.BytesIO(raw)).manifest_digest


def read(path: Path, digest: Digest, target: Path) -> None:
    with Store.open(str(path)) as store, target.open("wb", buffering=0) as sink:
        store.pool = Pool(1)
        store.write_file(store.get_manifest(digest), digest, sink.fileno())


def timed(act: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what an act returns, and what it took: the clock, and processor time with that of copies that ended."""
    start_s, cpu_s = time.perf_counter(), _cpu_s()
    done = act()
    return done, time.perf_counter() - start_s, _cpu_s() - cpu_s


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(version: str, raw: bytes, base: dict[str, Tensor], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each way."""
    others = {-1: [base], 0: [], 1: [stranger(base, 1)], 4: [stranger(base, seed) for seed in range(1, 5)]}
    taken: dict[str, list[tuple[float, ...]]] = {way.name: [] for way in WAYS}
    stored_bytes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="adding-") as scratch:
        before = {count: Path(scratch) / f"with {count}" for count in others}
        for count, models in others.items():
            Store.open(str(before[count]), create=True).close()
            for model in models:
                put(before[count], file_of(model), WAYS[0])
        for _ in range(rounds):
            for way in WAYS:
                store, target = Path(scratch) / "store", Path(scratch) / "read"
                shutil.copytree(before[way.others], store)
                held_bytes = bytes_below(store)
                digest, add_s, add_cpu_s = timed(partial(put, store, raw, way))
                _, read_s, read_cpu_s = timed(partial(read, store, digest, target))
                assert target.read_bytes() == raw, "other bytes came back"
                stored_bytes[way.name] = bytes_below(store) - held_bytes
                taken[way.name].append((add_s, add_cpu_s, read_s, read_cpu_s))
                shutil.rmtree(store)
    return [_row(version, name, stored_bytes[name] / len(raw), figures) for name, figures in taken.items()]


def _row(version: str, name: str, ratio: float, figures: list[tuple[float, ...]]) -> dict[str, Any]:
    least = [round(1000 * min(column)) for column in zip(*figures, strict=True)]
    names = ("add_ms", "add_cpu_ms", "read_ms", "read_cpu_ms")
    return {"version": version, "beside": name, "ratio": round(ratio, 4), **dict(zip(names, least, strict=True))}


def table(rows: list[dict[str, Any]]) -> str:
    head = f"{'version':32} {'beside':32} {'ratio':>6} {'add':>6} {'cpu':>6} {'read':>6} {'cpu':>6}"
    return "\n".join([
        head,
        *(
            f"{row['version'][-32:]:32} {row['beside']:32} {row['ratio']:6.4f} {row['add_ms']:6} {row['add_cpu_ms']:6} "
            f"{row['read_ms']:6} {row['read_cpu_ms']:6}"
            for row in rows
        ),
        "ratio: bytes that the store grew by, by the file's; add and read in ms, by the clock and of processor time",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", metavar="FILE.safetensors")
    parser.add_argument("--version", metavar="FILE.safetensors", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, the table on stderr")
    arguments = parser.parse_args()
    if arguments.version and not arguments.base:
        parser.error("--version needs --base")
    base = tensors_of_file(arguments.base) if arguments.base else drawn_tensors()
    versions = {path: file_of(tensors_of_file(path)) for path in arguments.version}
    if not versions:
        rng = np.random.default_rng(11)
        for recipe in RECIPES:
            made = {name: (*one[:2], changed(one, name, recipe, rng)) for name, one in base.items()}
            versions[recipe] = file_of(made)
    rows = [row for name, raw in versions.items() for row in measure(name, raw, base, arguments.rounds)]
    if arguments.json:
        print(json.dumps({"schema": 1, "base": arguments.base or "drawn", "rows": rows}, indent=1))
    print(table(rows), file=sys.stderr if arguments.json else sys.stdout)


if __name__ == "__main__":
    main()
