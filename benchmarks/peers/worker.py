"""Run one contender on one scenario, in this process; the task comes as JSON on stdin, the result goes to stdout.

A process each: what one contender loads or leaves in memory is not the other's burden, and one that dies takes nobody
along. Every file that comes out is compared with what went in, outside of what is timed.
"""

from __future__ import annotations

import filecmp
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.contenders import AbsentError


def contender_class(name: str, programs: str | None) -> Any:
    """Return the class of a contender by its name in results."""
    from benchmarks.peers import contenders

    classes = {
        "thetastore": contenders.Ours,
        "repacked": contenders.OursRepacked,
        "cp": contenders.Copy,
        "zstd -3": contenders.Zstd,
        "ZipNN": contenders.ZipNN,
    }
    if name in classes:
        return classes[name]
    if name in ("XOR + zstd -3", "BitX", "BitX on parent"):
        from benchmarks.peers import bitx

        return {"BitX": bitx.BitX, "BitX on parent": bitx.BitXOnParent}.get(name, bitx.XorZstd)
    if name == "Xet-like":
        from benchmarks.peers import xet

        return xet.Xet
    from benchmarks.peers import through_git

    through_git.GitTheta2023.programs = programs
    classes_of_git = {"git theta": through_git.OursThroughGit, "git-lfs": through_git.GitLfs}
    return classes_of_git.get(name, through_git.GitTheta2023)


def measured(act: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that something took by the clock, and those of all processors, children's included."""
    os.sync()
    cpu_s, started_s = _cpu_s(), time.perf_counter()
    act()
    return time.perf_counter() - started_s, _cpu_s() - cpu_s


def _cpu_s() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def run(task: dict[str, Any], directory: Path) -> dict[str, Any]:
    versions = task["versions"]
    (directory / "store").mkdir()
    contender = contender_class(task["contender"], task.get("programs"))(directory / "store")
    result: dict[str, Any] = {"about": contender.about, "stored_bytes": [], "add_s": [], "add_cpu_s": []}
    result |= {"checkout_s": [], "checkout_cpu_s": []}
    for version in versions:
        files = {name: Path(path) for name, path in version["files"].items()}
        contender.prepare(files)
        for path in files.values():
            _read_through(path)
        taken_s, cpu_s = measured(lambda: contender.add(files, version["base"], version["parent"]))  # noqa: B023
        contender.settle()
        result["add_s"].append(round(taken_s, 4))
        result["add_cpu_s"].append(round(cpu_s, 4))
        result["stored_bytes"].append(contender.stored_bytes())
    result["finish_s"], result["finish_cpu_s"] = (round(taken, 4) for taken in measured(contender.finish))
    result["stored_bytes"][-1] = contender.stored_bytes()
    for number, version in enumerate(versions):
        target = directory / "out"
        target.mkdir()
        contender.clear(number)
        taken_s, cpu_s = measured(lambda: contender.checkout(number, target))  # noqa: B023
        result["checkout_s"].append(round(taken_s, 4))
        result["checkout_cpu_s"].append(round(cpu_s, 4))
        place = contender.place_of(target)
        result["is_exact"] = result.get("is_exact", True) and all(
            filecmp.cmp(path, place / name, shallow=False) for name, path in version["files"].items()
        )
        filecmp.clear_cache()
        shutil.rmtree(target)
    return result


def _read_through(path: Path) -> None:
    """Have the system keep a file in memory, as it does for one that was just written."""
    with path.open("rb") as file:
        while file.read(4 << 20):
            pass


def main() -> None:
    task = json.load(sys.stdin)
    directory = Path(tempfile.mkdtemp(prefix="scratch-", dir=task["directory"]))
    try:
        result = run(task, directory)
    except AbsentError as error:
        result = {"absent": str(error)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
