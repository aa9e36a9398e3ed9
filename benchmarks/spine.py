"""The main line against its peers: git-lfs with its normal process filter, and cp as the physical limit.

    python -m benchmarks.spine                                      everything: about an hour
    python -m benchmarks.spine --only add,checkout --size-mb 400
    python -m benchmarks.spine --list

Targets are printed beside the results. A missed one is said again at the end and does not fail the run, since a
noisy machine misses some; bytes that differ, or a git command that fails, do.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import inputs
from benchmarks.harness import (
    CommandFailedError,
    Report,
    Run,
    bytes_below,
    bytes_written,
    files_below,
    peak_of,
    take_turns,
    timed,
)
from benchmarks.world import COPY, LFS, THETA, World

FILE = "model.safetensors"
SLACK_BYTES = 64 << 10


class Options(NamedTuple):
    """What the command line says."""

    repeats: int
    size_mb: int
    large_mb: int
    growth_mb: tuple[int, ...]
    minilm: Path | None


class Bench(NamedTuple):
    """What each benchmark gets."""

    world: World
    options: Options
    report: Report

    def checkpoints(self) -> dict[str, Path]:
        """The new weights of `add`: synthetic ones in both dtypes, and MiniLM where it was given."""
        size_mb, kept = self.options.size_mb, self.world.inputs
        found = {f"{size_mb} MB {dtype}": inputs.transformer(kept, size_mb, dtype, seed=1)
                 for dtype in ("float32", "bfloat16")}  # fmt: skip
        if self.options.minilm is not None:
            found["MiniLM float32"] = linkable(self.options.minilm, kept)
        return found


def linkable(source: Path, directory: Path) -> Path:
    """Return a copy of a file on the file system of the scratch directory."""
    target = directory / f"minilm-{source.name}"
    if not target.exists():
        target.write_bytes(source.read_bytes())
    return target


def add(bench: Bench) -> None:
    """`git add` of new weights"""
    for name, path in bench.checkpoints().items():
        bench.report.heading(f"add: {name}, new weights")
        _race_add(bench, f"add {name}", path)


def _race_add(bench: Bench, benchmark: str, path: Path) -> None:
    """Add `path`, a file or a directory of files, to fresh repositories in turn."""
    world = bench.world

    def add_to_new(tool: str, _: int) -> Run:
        repository = world.repository(tool)
        world.place(path, repository / FILE if path.is_file() else repository)
        taken = timed(["git", "add", "."], repository, world.env)
        world.discard(repository)
        return taken

    def copy(_: int) -> Run:
        target = world.directory()
        taken = timed(["cp", "-r", "--reflink=never", str(path), str(target / "copy")], target, world.env)
        world.discard(target)
        return taken

    contenders: dict[str, Callable[[int], Run]] = {tool: partial(add_to_new, tool) for tool in world.git_tools}
    contenders[COPY] = copy
    limit = 1.5 if path.is_dir() else 1.0
    bench.report.race(benchmark, take_turns(contenders, bench.options.repeats), {LFS: limit})


def checkout(bench: Bench) -> None:
    """`git checkout` between two versions in the local store, and the `git status` after it"""
    size_mb, kept = bench.options.size_mb, bench.world.inputs
    for dtype in ("float32", "bfloat16"):
        versions = [inputs.transformer(kept, size_mb, dtype, seed) for seed in (1, 2)]
        bench.report.heading(f"checkout: {size_mb} MB {dtype}, every tensor differs")
        _race_checkout(bench, f"checkout {size_mb} MB {dtype}", versions)
    if bench.options.minilm is not None:
        first = linkable(bench.options.minilm, kept)
        second = kept / "minilm-changed.safetensors"
        if not second.exists():
            inputs.changed(first, second, seed=2)
        bench.report.heading("checkout: MiniLM float32, one tensor differs")
        _race_checkout(bench, "checkout MiniLM float32", [first, second])


def _race_checkout(bench: Bench, benchmark: str, versions: list[Path]) -> None:
    """Switch between two versions (files, or directories of files) in turn, alone and with the status after it.

    What git writes itself is racy in its index until the next status, or the next checkout, has read it again. So
    checkouts in a row cost a peer more than those between which somebody asked for the status, and the status less.
    """
    world, report = bench.world, bench.report
    repositories = {tool: _two_commits(world, tool, versions) for tool in world.git_tools}
    copies = world.directory()
    alone: dict[str, list[Run]] = {tool: [] for tool in repositories}
    status: dict[str, list[Run]] = {tool: [] for tool in repositories}

    def switch(tool: str, number: int) -> Run:
        repository = repositories[tool]
        taken = timed(["git", "checkout", "-q", f"v{number % 2}"], repository, world.env)
        _must_be(versions[number % 2], repository)
        return taken

    def switch_and_ask(tool: str, number: int) -> Run:
        taken = switch(tool, number)
        after = _status(world, repositories[tool], reads_nothing=tool == THETA and versions[0].is_file())
        if number:
            alone[tool].append(taken)
            status[tool].append(after)
        return Run(*(one + other for one, other in zip(taken, after, strict=True)))

    def copy(number: int) -> Run:
        target = copies / "copy"
        run_rm = f"rm -rf {target}; cp -r --reflink=never {versions[number % 2]} {target}"
        return timed(["sh", "-c", run_rm], copies, world.env)

    contenders: dict[str, Callable[[int], Run]] = {tool: partial(switch, tool) for tool in repositories}
    contenders[COPY] = copy
    limit = 1.5 if versions[0].is_dir() else 0.6
    report.race(benchmark, take_turns(contenders, bench.options.repeats), {LFS: limit})
    contenders = {tool: partial(switch_and_ask, tool) for tool in repositories}
    print("  with the git status after it:")
    report.race(f"{benchmark} and status", take_turns(contenders, bench.options.repeats), {LFS: limit})
    print("  of that, the checkout:")
    report.race(f"{benchmark} after a status", alone, {})
    print("  of that, the status:")
    report.race(f"{benchmark}, then status", status, {})
    for path in (*repositories.values(), copies):
        world.discard(path)


def _two_commits(world: World, tool: str, versions: list[Path]) -> Path:
    """Return a repository with the tags v0 and v1, the second one checked out."""
    repository = world.repository(tool)
    for number, version in enumerate(versions):
        world.place(version, repository / FILE if version.is_file() else repository)
        world.git(repository, "add", ".")
        world.git(repository, "commit", "-q", "-m", f"v{number}")
        world.git(repository, "tag", f"v{number}")
    return repository


def _status(world: World, repository: Path, reads_nothing: bool) -> Run:
    """Time `git status`; fail where it is not clean.

    Files under 256 KiB are written by git itself. Those of the second in which it wrote the index are racy, so
    that it reads them once more, as it does with every filter.

    Raises:
        CommandFailedError: the status is not clean; or git started a filter where it should not have.
    """
    trace = world.scratch / "trace"
    trace.unlink(missing_ok=True)
    taken = timed(["git", "status", "--porcelain"], repository, {**world.env, "GIT_TRACE": str(trace)})
    if reads_nothing and "filter-process" in trace.read_text():
        raise CommandFailedError("git status ran the filter: it read weights")
    said = world.git(repository, "status", "--porcelain")
    if said:
        raise CommandFailedError(f"the status after a checkout is not clean: {said.decode()}")
    return taken


def _must_be(version: Path, repository: Path) -> None:
    pairs = [(version, repository / FILE)] if version.is_file() else \
        [(file, repository / file.name) for file in version.iterdir()]  # fmt: skip
    for want, have in pairs:
        if not filecmp.cmp(want, have, shallow=False):
            raise CommandFailedError(f"'{have}' is not what was committed")
    filecmp.clear_cache()


def change(bench: Bench) -> None:
    """`git add` where one tensor of 101 changed; new bytes in the store; bytes sent by the push after it"""
    for dtype in ("float32", "bfloat16"):
        path = inputs.transformer(bench.world.inputs, bench.options.size_mb, dtype, seed=1)
        bench.report.heading(f"change: {bench.options.size_mb} MB {dtype}, one tensor changed")
        _race_change(bench, f"change {bench.options.size_mb} MB {dtype}", path)
    large = inputs.transformer(bench.world.inputs, bench.options.large_mb, "bfloat16", seed=1)
    bench.report.heading(f"change: {bench.options.large_mb} MB bfloat16, one tensor changed (counted)")
    _count_change(bench, f"change {bench.options.large_mb} MB bfloat16", large)


def _race_change(bench: Bench, benchmark: str, path: Path) -> None:
    world = bench.world
    repositories = {tool: _two_commits(world, tool, [path]) for tool in world.git_tools}
    versions = world.directory()

    def make_version(number: int) -> Path:
        version = versions / f"{number}.safetensors"
        if not version.exists():
            (versions / f"{number - 1}.safetensors").unlink(missing_ok=True)
            inputs.changed(path, version, seed=1000 + number)
        return version

    def add_changed(tool: str, number: int) -> Run:
        world.place(make_version(number), repositories[tool] / FILE)
        return timed(["git", "add", FILE], repositories[tool], world.env)

    contenders = {tool: partial(add_changed, tool) for tool in repositories}
    bench.report.race(benchmark, take_turns(contenders, bench.options.repeats), {LFS: 0.6})
    for directory in (*repositories.values(), versions):
        world.discard(directory)
    _count_change(bench, benchmark, path)


def _count_change(bench: Bench, benchmark: str, path: Path) -> None:
    """Count what one changed tensor adds to the local store, and what the push after it sends."""
    world, report = bench.world, bench.report
    if not world.has_theta:
        return
    repository, remote = _two_commits(world, THETA, [path]), world.directory()
    world.git(remote, "init", "-q", "--bare", "origin.git")
    world.git(repository, "remote", "add", "origin", str(remote / "origin.git"))
    world.git(repository, "config", "theta.url", str(remote / "weights"))
    world.git(repository, "push", "-q", "origin", "main")

    version = remote / "changed.safetensors"
    place = inputs.changed(path, version, seed=7)
    local, sent = repository / ".git" / "theta", remote / "weights"
    before_local, before_sent = files_below(local), files_below(sent)
    world.place(version, repository / FILE)
    world.git(repository, "commit", "-qam", "changed")
    world.git(repository, "push", "-q", "origin", "main")

    coded_bytes = _coded_bytes(version, place)
    limit = 1.02 * coded_bytes + SLACK_BYTES
    report.check(benchmark, "the tensor, raw", place.raw_bytes, "bytes")
    report.check(benchmark, "the tensor, coded", coded_bytes, "bytes")
    report.check(benchmark, "new in the local store", bytes_written(before_local, files_below(local)), "bytes", limit)
    report.check(benchmark, "sent by the push", bytes_written(before_sent, files_below(sent)), "bytes", limit)
    world.discard(repository)
    world.discard(remote)


def _coded_bytes(path: Path, place: inputs.Place) -> int:
    """Return the bytes of a tensor's chunks as the codecs leave them: what has to be stored, without any framing."""
    from thetastore.chunking import grid_lengths
    from thetastore.codecs import encode

    dtype = {"F32": "float32", "BF16": "bfloat16"}[place.code]
    coded_bytes = 0
    with path.open("rb") as file:
        file.seek(place.offset)
        for length in grid_lengths(dtype, place.shape):
            coded_bytes += len(encode(file.read(length), dtype).stored)
    return coded_bytes


def sizes(bench: Bench) -> None:
    """How large a first version is in the store"""
    bench.report.heading("sizes: bytes in the store / bytes of the file")
    found = bench.checkpoints()
    limits = {"MiniLM float32": 0.83, "MiniLM bfloat16": 0.67}
    if "MiniLM float32" in found:
        found["MiniLM bfloat16"] = inputs.bf16_copy(
            found["MiniLM float32"], bench.world.inputs / "minilm-bf16.safetensors"
        )
    for name, path in found.items() if bench.world.has_theta else ():
        repository = bench.world.repository(THETA)
        bench.world.place(path, repository / FILE)
        bench.world.git(repository, "add", FILE)
        ratio = bytes_below(repository / ".git" / "theta") / path.stat().st_size
        bench.report.check("sizes", name, ratio, "x", limits.get(name))
        bench.world.discard(repository)


def memory(bench: Bench) -> None:
    """Peak memory of add and checkout of a large file"""
    world, options = bench.world, bench.options
    path = inputs.transformer(world.inputs, options.large_mb, "bfloat16", seed=1)
    for tool in world.git_tools:
        bench.report.heading(f"memory: {options.large_mb} MB bfloat16, {tool}")
        ours, gits = (400e6, 30e6) if tool == THETA else (None, None)
        repository = world.repository(tool)
        world.place(path, repository / FILE)
        for benchmark in ("add", "checkout"):
            command = ["git", "add", FILE] if benchmark == "add" else ["git", "checkout", "-q", "--", FILE]
            peak = peak_of(command, repository, world.env)
            bench.report.check(f"memory {benchmark}", f"{benchmark}: {tool}", peak.tool_bytes, "bytes", ours)
            bench.report.check(f"memory {benchmark}", f"{benchmark}: git beside it", peak.git_bytes, "bytes", gits)
            if benchmark == "add":
                (repository / FILE).unlink()
        _must_be(path, repository)
        world.discard(repository)


def start(bench: Bench) -> None:
    """Start-up of the filter with nothing to do"""
    bench.report.heading("start: filter-process with empty input")
    world = bench.world
    where = world.directory()
    world.git(where, "init", "-q")
    commands = {THETA: ["git-theta", "filter-process"]} if world.has_theta else {}
    commands["python"] = [sys.executable, "-c", "pass"]

    def start_once(command: list[str], _: int) -> Run:
        return timed(command, where, world.env)

    contenders = {name: partial(start_once, command) for name, command in commands.items()}
    runs = take_turns(contenders, 3 * bench.options.repeats)
    bench.report.race("start", runs, {})
    if THETA in runs:
        median = statistics.median(run.elapsed_s for run in runs[THETA])
        bench.report.check("start", "git-theta filter-process", median, "s", 0.060)


def small(bench: Bench) -> None:
    """1,000 files of 10 kB: add and checkout"""
    versions = [inputs.small_files(bench.world.inputs, 1000, 10_000, seed) for seed in (1, 2)]
    bench.report.heading("small: add of 1,000 files of 10 kB")
    _race_add(bench, "small add", versions[0])
    bench.report.heading("small: checkout of 1,000 files of 10 kB")
    _race_checkout(bench, "small checkout", versions)


def growth(bench: Bench) -> None:
    """How add and checkout grow with the file"""
    for size_mb in bench.options.growth_mb:
        versions = [inputs.transformer(bench.world.inputs, size_mb, "bfloat16", seed) for seed in (1, 2)]
        bench.report.heading(f"growth: add, {size_mb} MB bfloat16")
        _race_add(bench, f"growth add {size_mb} MB", versions[0])
        bench.report.heading(f"growth: checkout, {size_mb} MB bfloat16")
        _race_checkout(bench, f"growth checkout {size_mb} MB", versions)


BENCHMARKS: Mapping[str, Callable[[Bench], None]] = {
    one.__name__: one for one in (start, sizes, add, checkout, change, small, memory, growth)
}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="names of benchmarks, with commas between them")
    parser.add_argument("--list", action="store_true", help="say which benchmarks there are")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each contender that count (default: 7)")
    parser.add_argument("--size-mb", type=int, default=400, help="size of the synthetic checkpoints (default: 400)")
    parser.add_argument("--large-mb", type=int, default=4000, help="size for memory and counts (default: 4000)")
    parser.add_argument("--growth-mb", default="100,400,1600,4000", help="sizes of growth (default: 100,400,1600,4000)")
    parser.add_argument("--minilm", type=Path, help="the MiniLM weights (see gitbridge/demo/minilm.py)")
    parser.add_argument("--directory", type=Path, default=Path.home() / ".cache" / "thetastore-bench",
                        help="where inputs are kept and scratch files go; 30 GB (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, help="where results go (default: benchmarks/results/spine-TIME.json)")
    parser.add_argument("--without-theta", action="store_true", help="measure the peers alone")
    return parser.parse_args()


def main() -> int:
    """Run the benchmarks that the command line names."""
    arguments = _parse()
    if arguments.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"  {name:<10} {benchmark.__doc__}")
        return 0
    names = arguments.only.split(",")
    if unknown := set(names) - set(BENCHMARKS):
        print(f"error: no benchmark is named {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    growth_mb = tuple(int(size) for size in arguments.growth_mb.split(","))
    options = Options(arguments.repeats, arguments.size_mb, arguments.large_mb, growth_mb, arguments.minilm)
    with World(arguments.directory) as world:
        world.has_theta = world.has_theta and not arguments.without_theta
        report = Report(world.scratch)
        _introduce(report, world)
        try:
            for name in names:
                BENCHMARKS[name](Bench(world, options, report))
        except CommandFailedError as error:
            print(f"\nerror: {error}", file=sys.stderr)
            return 1
    _conclude(report, arguments.json)
    return 0


def _introduce(report: Report, world: World) -> None:
    about = report.machine
    print(f"{about['processor']}, {about['cores']} cores, {about['file_system']}; {about['git']}; {about['git_lfs']}")
    if not world.has_lfs:
        print("git-lfs is not installed, so it is left out; to measure against it: apt-get install git-lfs")


def _conclude(report: Report, path: Path | None) -> None:
    path = path or Path(__file__).parent / "results" / f"spine-{time.strftime('%Y%m%d-%H%M%S')}.json"
    report.machine["load_average_at_end"] = os.getloadavg()
    report.write(path)
    print(f"\n{len(report.missed)} targets missed" + "".join(f"\n  {missed}" for missed in report.missed))
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
