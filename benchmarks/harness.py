"""Times whole commands against their peers, and finds out how much memory their process trees take.

Machines are shared and their speed drifts, so contenders take turns (in an order that turns too), medians are
quoted, and a ratio is judged with the spread of its pairs: the n-th runs of both sides lie side by side in time.
Memory is sampled in runs of its own, because watching costs time.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

SAMPLE_INTERVAL_S = 0.004


class Run(NamedTuple):
    """One timed command."""

    elapsed_s: float
    cpu_s: float
    """User and system time of the command and of all that it started and waited for."""


class Peak(NamedTuple):
    """The most memory that a command's processes held at one moment: anonymous and shared, not mapped files."""

    tool_bytes: int
    """All processes but git, added up."""
    git_bytes: int
    """All processes of git, added up."""


class CommandFailedError(Exception):
    """A measured command did not do what it was asked to: nothing that was measured counts."""


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> bytes:
    """Run a command that is not measured; return its standard output.

    Raises:
        CommandFailedError: it exited with another status than 0; the message ends with what it said.
    """
    done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        raise CommandFailedError(f"{' '.join(command)} exited with {done.returncode}: {said}")
    return done.stdout


def timed(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Run:
    """Run a command and return what it took, after everything written before has reached the disk.

    Raises:
        CommandFailedError: see `run`.
    """
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    run(command, cwd, env)
    elapsed_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(elapsed_s, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def take_turns(contenders: Mapping[str, Callable[[int], Run]], repeats: int) -> dict[str, list[Run]]:
    """Let each contender run `repeats` times, one after the other; a first round that does not count comes before.

    A contender gets the number of the round (0 is the one that does not count), prepares, and returns what
    its `timed` command took.
    """
    names = list(contenders)
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for round_number in range(repeats + 1):
        turn = round_number % len(names)
        for name in names[turn:] + names[:turn]:
            _say_progress(f"  round {round_number}/{repeats}: {name}")
            taken = contenders[name](round_number)
            if round_number:
                runs[name].append(taken)
    _say_progress("")
    return runs


def _say_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)


def peak_of(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Peak:
    """Run a command and return the most memory that its process tree held.

    Raises:
        CommandFailedError: see `run`; its output goes to this program's own.
    """
    process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    tool_bytes = git_bytes = 0
    while process.poll() is None:
        now = _held_by_tree(process.pid)
        tool_bytes, git_bytes = max(tool_bytes, now.tool_bytes), max(git_bytes, now.git_bytes)
        time.sleep(SAMPLE_INTERVAL_S)
    if process.returncode:
        raise CommandFailedError(f"{' '.join(command)} exited with {process.returncode}")
    return Peak(tool_bytes, git_bytes)


def _held_by_tree(root: int) -> Peak:
    tool_bytes = git_bytes = 0
    pids = [root]
    while pids:
        pid = pids.pop()
        try:
            pids += _children(pid)
            is_git = os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "git"
            held = _held_by(pid)
        except OSError:  # it ended while we looked
            continue
        if is_git:
            git_bytes += held
        else:
            tool_bytes += held
    return Peak(tool_bytes, git_bytes)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except FileNotFoundError:  # the thread ended
            continue
    return children


def _held_by(pid: int) -> int:
    held = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("RssAnon:", "RssShmem:")):
            held += 1024 * int(line.split()[1])
    return held


def bytes_below(directory: Path) -> int:
    """Return the lengths of all files below a directory, added up."""
    return sum(size for size in files_below(directory).values())


def files_below(directory: Path) -> dict[str, int]:
    """Return the length of each file below a directory, by its path."""
    return {str(path): path.stat().st_size for path in directory.rglob("*") if path.is_file()}


def bytes_written(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """Return how many bytes new files have and old ones have grown by; files that went count nothing."""
    return sum(max(0, size - before.get(path, 0)) for path, size in after.items())


def machine(directory: Path) -> dict[str, object]:
    """Describe what is measured on: processor, memory, file system, versions."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    file_system = subprocess.run(
        ["stat", "--file-system", "--format=%T", directory], capture_output=True, text=True, check=False
    )
    return {
        "processor": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "file_system": file_system.stdout.strip(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("thetastore", "blake3", "numpy", "xxhash", "zstandard")},
        "git": _first_line(["git", "version"]),
        "git_lfs": _first_line(["git", "lfs", "version"]),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _first_line(command: list[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


class Report:
    """Collects results, prints each as it comes, and writes all of them as JSON at the end."""

    def __init__(self, directory: Path) -> None:
        self.machine = machine(directory)
        self.results: list[dict[str, object]] = []
        self.missed: list[str] = []

    def heading(self, text: str) -> None:
        """Start a group of results."""
        print(f"\n{text}   (load {os.getloadavg()[0]:.1f})")

    def race(self, benchmark: str, runs: Mapping[str, Sequence[Run]], targets: Mapping[str, float]) -> None:
        """Take the runs of several contenders; the first is judged against the others' medians.

        Args:
            benchmark: what was measured.
            runs: from `take_turns`.
            targets: by the name of another contender: the largest ratio of medians that is aimed for.
        """
        first, *others = runs
        for name, taken in runs.items():
            times = [one.elapsed_s for one in taken]
            cpu_s = statistics.median(one.cpu_s for one in taken)
            print(f"  {name:<12} median {_seconds(statistics.median(times))}   min {_seconds(min(times))}"
                  f"   max {_seconds(max(times))}   cpu {_seconds(cpu_s)}   n {len(times)}")  # fmt: skip
            self._keep(benchmark, name, {"elapsed_s": times, "cpu_s": [one.cpu_s for one in taken]})
        for other in others:
            mine, theirs = ([one.elapsed_s for one in runs[name]] for name in (first, other))
            pairs = [left / right for left, right in zip(mine, theirs, strict=True)]
            ratio = statistics.median(mine) / statistics.median(theirs)
            cpu_ratio = statistics.median(r.cpu_s for r in runs[first]) / statistics.median(
                r.cpu_s for r in runs[other]
            )
            note = f"pairs {min(pairs):.2f} {statistics.median(pairs):.2f} {max(pairs):.2f}; cpu {cpu_ratio:.2f}"
            self.check(benchmark, f"{first} / {other}", ratio, "x", targets.get(other), note)

    def check(
        self, benchmark: str, subject: str, value: float, unit: str, at_most: float | None = None, note: str = ""
    ) -> None:
        """Take one value, with the most that it should be (None: there is no target)."""
        passed = None if at_most is None else value <= at_most
        verdict = "" if at_most is None else f"   {'ok  ' if passed else 'MISS'} (<= {_quantity(at_most, unit)})"
        print(f"  {subject:<28} {_quantity(value, unit):>12}{verdict}{'   ' + note if note else ''}")
        self._keep(benchmark, subject, {"value": value, "unit": unit, "at_most": at_most, "passed": passed})
        if passed is False:
            self.missed.append(
                f"{benchmark}: {subject} is {_quantity(value, unit)}, not {_quantity(at_most or 0, unit)}"
            )

    def _keep(self, benchmark: str, subject: str, values: dict[str, object]) -> None:
        self.results.append({"benchmark": benchmark, "subject": subject, **values})

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"schema": 1, "machine": self.machine, "results": self.results, "missed": self.missed}
        path.write_text(json.dumps(whole, indent=1) + "\n")


def _seconds(value: float) -> str:
    return f"{value * 1000:6.1f} ms" if value < 1 else f"{value:6.2f} s "


def _quantity(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e6:,.2f} MB" if value >= 100_000 else f"{value:,.0f} B"
    if unit == "s":
        return _seconds(value).strip()
    return f"{value:.3f}" if unit == "x" else f"{value:,.0f} {unit}"
