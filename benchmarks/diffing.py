"""How long diffs take, of 400 MB with one tensor changed and with all, and history over 1,000 commits x 1,000 tensors.

    python -m benchmarks.diffing [--size-mb 400] [--commits 1000] [--tensors 1000] [--directory DIR] [--repeats 3]

Wall time is what people wait for, CPU time what is left of it on a busy machine. Goals: 0.5 s and 5 s of wall time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import numpy as np

from benchmarks.harness import Run, timed
from benchmarks.inputs import changed, read_places, transformer
from benchmarks.world import THETA, World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=400)
    parser.add_argument("--commits", type=int, default=1000)
    parser.add_argument("--tensors", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with World(options.directory) as world:
        _diffs(world, options.size_mb, options.repeats)
        _history(world, options.commits, options.tensors, options.repeats)


def _diffs(world: World, size_mb: int, repeats: int) -> None:
    base = transformer(world.inputs, size_mb, "float32", 1)
    one = world.scratch / "one.safetensors"
    changed(base, one, 3)
    everything = world.scratch / "all.safetensors"
    _move_all(base, everything)
    repository = world.repository(THETA)
    for name, source in (("base", base), ("one", one), ("all", everything)):
        world.place(source, repository / "model.safetensors")
        world.git(repository, "add", "-A")
        world.git(repository, "commit", "-q", "-m", name)
        world.git(repository, "tag", name)
    for title, arguments in (
        (f"diff {size_mb} MB, one tensor changed", ["base", "one"]),
        (f"diff {size_mb} MB, all changed", ["base", "all"]),
        (f"diff {size_mb} MB, all changed, as a page", ["base", "all", "--html", "page.html"]),
        (f"diff {size_mb} MB, names only", ["base", "all", "--name-status"]),
        (f"diff {size_mb} MB, plain files", ["--no-index", str(base), str(everything)]),
    ):
        _report(title, [timed(["git", "theta", "diff", *arguments], repository, world.env) for _ in range(repeats)])


def _move_all(source: Path, target: Path) -> None:
    """Write a checkpoint with every value moved by a thousandth of its tensor's spread, as a short training does."""
    raw = np.fromfile(source, np.uint8)
    for number, place in enumerate(read_places(source)):
        values = raw[place.offset : place.offset + place.raw_bytes].view(np.float32)
        generator = np.random.Generator(np.random.SFC64([7, number]))
        values += generator.standard_normal(values.size, dtype=np.float32) * np.float32(1e-3 * values.std() + 1e-5)
    raw.tofile(target)


def _history(world: World, commits: int, tensors: int, repeats: int) -> None:
    """Ask for the history of a file in which each commit changes 1 % of the tensors; only pointers are made."""
    repository = world.repository(THETA)
    _import(world, repository, commits, tensors)
    title = f"{commits} commits x {tensors} tensors"
    for arguments in (["log", "model.safetensors"], ["blame", "--names", "model.safetensors"]):
        runs = [timed(["git", "theta", *arguments], repository, world.env) for _ in range(repeats)]
        _report(f"{arguments[0]}, {title}", runs)


def _import(world: World, repository: Path, commits: int, tensors: int) -> None:
    from gitbridge.pointers import Pointer, PointerTensor, pointer_text
    from thetastore.digest import Digest

    random = np.random.default_rng(1)
    versions = np.zeros(tensors, int)
    stream = bytearray()
    for number in range(commits):
        versions[random.integers(0, tensors, max(tensors // 100, 1))] = number
        rows = [
            PointerTensor(
                Digest(hashlib.sha256(b"%d.%d" % (at, version)).digest()), "float32", (64, 64), f"layers.{at:05}.w"
            )
            for at, version in enumerate(versions)
        ]
        digest = Digest(hashlib.sha256(b"%d" % number).digest())
        text = pointer_text(Pointer("safetensors", 1, 16384 * tensors, digest, digest, tuple(rows)))
        stream += b"commit refs/heads/main\ncommitter B <b@example.com> %d +0000\ndata 1\nc\n" % (
            1_700_000_000 + number
        )
        stream += b"M 100644 inline model.safetensors\ndata %d\n%s\n" % (len(text), text)
    source = world.scratch / "history"
    source.write_bytes(stream)
    import subprocess

    with source.open("rb") as file:
        subprocess.run(["git", "fast-import", "--quiet"], cwd=repository, env=world.env, stdin=file, check=True)


def _report(title: str, runs: list[Run]) -> None:
    best = min(runs, key=lambda run: run.elapsed_s)
    cpu_s = min(run.cpu_s for run in runs)
    print(f"{title:50} {best.elapsed_s:6.2f} s  CPU {cpu_s:6.2f} s", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
