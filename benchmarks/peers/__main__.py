"""Run contenders on scenarios, write results as they come, and make `docs/benchmarks.md` of them.

    python -m benchmarks.peers --minilm FILE [--peers-python PYTHON] [--only NAME,...] [--contenders NAME,...]

Results are written after every run. A run that was cut short goes on where it was with --resume. Contenders take turns
within a round; tables show the fastest round. What takes differences is measured on every scenario; what cannot
be installed is reported as absent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import machine
from benchmarks.peers.document import OURS
from benchmarks.peers.scenarios import Inputs, Scenario

CONTENDERS = (
    "thetastore",
    "repacked",
    "git theta",
    "git-lfs",
    "cp",
    "zstd -3",
    "ZipNN",
    "Xet-like",
    "XOR + zstd -3",
    "BitX",
    "BitX on parent",
    "Git-Theta 2023",
)
_IN_PEERS_PYTHON = ("ZipNN", "BitX", "BitX on parent")
_ONLY = {"Git-Theta 2023": ("single fp32", "lr 2e-5 fp32"), "BitX on parent": ("chain bf16",)}
"""Scenarios of contenders that take minutes, or that differ from others there alone; in one round."""
_SEVERAL_ROUNDS = ("single fp32", "single bf16", "lr 2e-5 bf16", "lr 2e-5 fp32")
"""Scenarios whose speeds are judged. The others are there for their bytes, or have many files as it is: one round."""
_RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
_VERSIONS = """\
import importlib.metadata
for name in ("zipnn", "torch", "git-theta", "numcodecs", "zstandard"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        pass
"""


class Results:
    """What was measured so far, on the disk after every run."""

    def __init__(self, path: Path, resume: bool, about: dict[str, Any]) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            self.whole: dict[str, Any] = json.loads(path.read_text())
        else:
            self.whole = {"schema": 1, "machine": about, "scenarios": {}, "runs": []}

    def has(self, scenario: str, contender: str, round_number: int) -> bool:
        runs = (run for run in self.whole["runs"] if run["scenario"] == scenario and run["contender"] == contender)
        return any(run["round"] == round_number or "absent" in run for run in runs)

    def add(self, scenario: Scenario, run: dict[str, Any]) -> None:
        self.whole["scenarios"][scenario.name] = describe(scenario)
        self.whole["runs"].append(run)
        self.write()

    def write(self) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.whole, indent=1) + "\n")
        os.replace(part, self._path)


def describe(scenario: Scenario) -> dict[str, Any]:
    sizes = [sum(path.stat().st_size for path in version.files.values()) for version in scenario.versions]
    return {"about": scenario.about, "raw_bytes": sizes}


def run_worker(contender: str, scenario: Scenario, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one contender in a process of its own; what it cannot do is part of the result."""
    peers_python = arguments.peers_python
    python = peers_python if contender in _IN_PEERS_PYTHON and peers_python else sys.executable
    programs = os.path.dirname(peers_python) if peers_python else None
    task = {
        "contender": contender,
        "programs": programs if programs and os.path.exists(os.path.join(programs, "git-theta")) else None,
        "directory": str(arguments.directory),
        "versions": [
            version._asdict() | {"files": {name: str(path) for name, path in version.files.items()}}
            for version in scenario.versions
        ],
    }
    done = subprocess.run(
        [python, "-W", "ignore", "-m", "benchmarks.peers.worker"],
        input=json.dumps(task), text=True, capture_output=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if done.returncode:
        return {"failed": done.stderr.strip()[-500:] or f"exit status {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    arguments = _parse()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    torch_python = next(
        (python for python in (arguments.peers_python, sys.executable) if python and _has_torch(python)), None
    )
    makers = Inputs(arguments.directory / "inputs", arguments.minilm, torch_python)
    about = machine(arguments.directory) | {"peers": _peer_versions(arguments), "trained": makers.is_trained}
    results = Results(arguments.json, arguments.resume, about)
    names = arguments.only.split(",") if arguments.only else list(makers.scenarios())
    if unknown := set(names) - set(makers.scenarios()):
        print(
            f"error: no scenario is named {', '.join(sorted(unknown))}; there are {', '.join(makers.scenarios())}",
            file=sys.stderr,
        )
        return 2
    prepared = [makers.scenarios()[name]() for name in names]  # before anything is measured
    if arguments.prepare:
        return 0
    failures = 0
    for scenario in prepared:
        rounds = arguments.rounds if scenario.name in _SEVERAL_ROUNDS else 1
        print(f"{scenario.name}: {scenario.about}, {scenario.raw_bytes / 1e6:.0f} MB, {rounds} rounds", flush=True)
        for round_number in range(rounds):
            for contender in arguments.contenders.split(","):
                failures += _run(contender, scenario, round_number, results, arguments)
    results.whole["machine"]["load_average_at_end"] = os.getloadavg()
    results.write()
    print(f"written to {arguments.json}")
    return int(failures > 0)


def _run(contender: str, scenario: Scenario, number: int, results: Results, arguments: argparse.Namespace) -> bool:
    """Run a contender unless that was done, or is not to be; say whether it is ours and failed."""
    is_wanted = scenario.name in _ONLY.get(contender, (scenario.name,)) and not (number and contender in _ONLY)
    if not is_wanted or results.has(scenario.name, contender, number):
        return False
    started_s = time.time()
    run = {"scenario": scenario.name, "contender": contender, "round": number, "load": os.getloadavg()[0]}
    run |= run_worker(contender, scenario, arguments)
    results.add(scenario, run)
    print(f"  {contender:16} {_said(run, scenario)}   ({time.time() - started_s:.1f} s)", flush=True)
    return contender in OURS and ("failed" in run or not run.get("is_exact", True))


def _said(run: dict[str, Any], scenario: Scenario) -> str:
    if "absent" in run or "failed" in run:
        return str(run.get("absent") or run["failed"])
    ratio = run["stored_bytes"][-1] / scenario.raw_bytes
    speeds = [scenario.raw_bytes / sum(run[key]) / 1e6 for key in ("add_s", "checkout_s")]
    exact = "" if run["is_exact"] else "   WRONG BYTES"
    return f"{ratio:.4f} of the bytes, add {speeds[0]:5.0f} MB/s, checkout {speeds[1]:5.0f} MB/s{exact}"


def _has_torch(python: str) -> bool:
    script = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"
    return subprocess.run([python, "-c", script], check=False).returncode == 0


def _peer_versions(arguments: argparse.Namespace) -> dict[str, str]:
    found: dict[str, str] = {}
    for python in (sys.executable, arguments.peers_python):
        if python:
            said = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=False).stdout
            found |= dict(line.split(" ", 1) for line in said.splitlines())
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minilm", type=Path, required=True, help="the MiniLM weights (see gitbridge/demo/minilm.py)")
    parser.add_argument("--peers-python", help="an interpreter with zipnn, torch, git-theta (`make peers`)")
    parser.add_argument("--only", help="scenarios, with commas between them")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=2, help="of those whose speeds are judged; default: %(default)s")
    parser.add_argument("--resume", action="store_true", help="go on where a run was cut short")
    parser.add_argument("--prepare", action="store_true", help="make the inputs and stop")
    parser.add_argument("--json", type=Path, default=_RESULTS, help="where results go (default: %(default)s)")
    parser.add_argument("--directory", type=Path, default=Path.home() / ".cache" / "thetastore-bench",
                        help="where inputs are kept and scratch files go; 6 GB (default: %(default)s)")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.peers_python and not os.access(arguments.peers_python, os.X_OK):
        arguments.peers_python = None
    return arguments


if __name__ == "__main__":
    sys.exit(main())
