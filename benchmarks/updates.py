"""`git theta add --update-type low-rank` against git-lfs's plain add of the merged file, in pairs, one after the other.

    python -m benchmarks.updates [--mb 400] [--rank 8] [--share 0.33] [--pairs 3] [--json]

A float32 model of square matrices, of which a share is adapted. Ours reads the base from the store, applies the update,
stores the factors, and writes the merged file to the work tree; git-lfs finds the merged file there and copies it.
Without git-lfs there are only our figures. Times are of the whole command and its children: seconds, and CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source

MODEL = "model.safetensors"
SIDE = 2048


class Figure(NamedTuple):
    elapsed_s: float
    cpu_s: float
    stored_bytes: int


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as stream:
        safetensors_source([new_tensor(name, array) for name, array in arrays.items()]).write_to(stream.fileno())


def git(place: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=place, check=True, capture_output=True)


def size_of(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def timed(place: Path, store: Path, *words: str) -> Figure:
    os.sync()
    before, stored = resource.getrusage(resource.RUSAGE_CHILDREN), size_of(store)
    start = time.perf_counter()
    git(place, *words)
    elapsed = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Figure(elapsed, cpu, size_of(store) - stored)


def repository(root: Path, name: str, base: Path, tool: list[str]) -> Path:
    place = root / name
    git(root, "init", "-q", str(place))
    git(place, "config", "user.email", "bench@example.com")
    git(place, "config", "user.name", "bench")
    git(place, *tool, "install", "--local")
    git(place, *tool, "track", "*.safetensors")
    shutil.copy(base, place / MODEL)
    git(place, "add", "-A")
    git(place, "commit", "-qm", "base")
    return place


def run(megabytes: int, rank: int, share: float, pairs: int) -> dict[str, list[Figure]]:
    rng = np.random.default_rng(1)
    count = max(1, megabytes * 1_000_000 // (4 * SIDE * SIDE))
    base = {f"layer.{n}.weight": (rng.standard_normal((SIDE, SIDE)) * 0.02).astype("f4") for n in range(count)}
    figures: dict[str, list[Figure]] = {"git theta": [], "git-lfs": []}
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write(root / "base", base)
        ours = repository(root, "ours", root / "base", ["theta"])
        theirs = repository(root, "theirs", root / "base", ["lfs"]) if shutil.which("git-lfs") else None
        for pair in range(pairs):
            side, merged = {}, dict(base)
            for name in list(base)[: max(1, round(share * count))]:
                left, right = (rng.standard_normal((SIDE, rank)) * 0.02).astype("f4"), rng.standard_normal((rank, SIDE))
                side[f"{name}/R"], side[f"{name}/C"] = left, (right * 0.02).astype("f4")
                merged[name] = base[name] + left @ side[f"{name}/C"]
            write(root / f"side-{pair}", side)
            words = ("theta", "add", MODEL, "--update-type", "low-rank", "--update-path", str(root / f"side-{pair}"))
            git(ours, "checkout", "-qf", "HEAD", "--", MODEL)
            figures["git theta"].append(timed(ours, ours / ".git" / "theta", *words))
            if theirs is not None:
                write(theirs / MODEL, merged)
                figures["git-lfs"].append(timed(theirs, theirs / ".git" / "lfs", "add", MODEL))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=400)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.33)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = run(options.mb, options.rank, options.share, options.pairs)
    if options.json:
        print(json.dumps({name: [figure._asdict() for figure in figures] for name, figures in found.items()}))
        return 0
    for name, figures in found.items():
        for one in figures:
            print(f"{name:10} {one.elapsed_s:6.2f} s  {one.cpu_s:6.2f} CPU s  {one.stored_bytes / 1e6:8.1f} MB stored")
    return 0


if __name__ == "__main__":
    sys.exit(main())
