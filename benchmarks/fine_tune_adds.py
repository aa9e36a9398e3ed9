"""`git add` of a fine-tune whose base the store has, against git-lfs's of the same file, by turns, for several sizes.

    python -m benchmarks.fine_tune_adds [--mb 45 100 400] [--dtype bfloat16] [--rounds 5] [--json FILE]

Start-up is a fixed cost: it weighs on small files, and that is what the sizes are to show. Models are drawn by script,
and moved by the recipe of a fine-tune (`benchmarks.difference`); `--base` and `--tuned` take files of your own instead.
Each round begins from a repository in which the base alone is committed. Times are of the command and its children.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks import difference, harness, inputs
from benchmarks.peers.scenarios import write
from benchmarks.updates import MODEL, Figure, repository, timed

TOOLS = {"git theta": "theta", "git-lfs": "lfs"}


class Pair(NamedTuple):
    """A model, and a fine-tune of it."""

    name: str
    base: Path
    tuned: Path


def drawn(megabytes: int, dtype: str, directory: Path) -> Pair:
    """Draw a model, and move it as a fine-tune does."""
    base = inputs.transformer(directory, megabytes, dtype, seed=1)
    tuned = directory / f"tuned-{megabytes}.safetensors"
    rng = np.random.default_rng(1)
    tensors = difference.tensors_of_file(str(base)).items()
    write(tuned, {name: (one[0], one[1], difference.changed(one, name, "fine-tune", rng)) for name, one in tensors})
    return Pair(f"{megabytes} MB {dtype}", base, tuned)


def run(pair: Pair, rounds: int, root: Path) -> dict[str, list[Figure]]:
    """Add the fine-tune in turns; return the figures of each tool."""
    places = {tool: repository(root, word, pair.base, [word]) for tool, word in TOOLS.items() if _is_there(word)}
    for place in places.values():
        shutil.copytree(place / ".git", place.with_suffix(".git"))
    figures: dict[str, list[Figure]] = {tool: [] for tool in places}
    for _ in range(rounds):
        for tool, place in places.items():
            shutil.rmtree(place / ".git")
            shutil.copytree(place.with_suffix(".git"), place / ".git")
            shutil.copyfile(pair.tuned, place / MODEL)
            figures[tool].append(timed(place, place / ".git" / TOOLS[tool], "add", MODEL))
    for place in places.values():
        shutil.rmtree(place)
        shutil.rmtree(place.with_suffix(".git"))
    return figures


def _is_there(word: str) -> bool:
    return shutil.which(f"git-{word}") is not None


def _pairs(options: argparse.Namespace, directory: Path) -> Iterator[Pair]:
    if options.base:
        yield Pair(options.tuned.name, options.base, options.tuned)
        return
    for megabytes in options.mb:
        yield drawn(megabytes, options.dtype, directory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, nargs="+", default=[45, 100, 400])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if (options.base is None) != (options.tuned is None):
        parser.error("--base and --tuned go together")
    found = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for pair in _pairs(options, directory):
            found[pair.name] = run(pair, options.rounds, directory)
            print(_line(pair, found[pair.name]), flush=True)
        if options.json:
            rows = {name: {tool: [one._asdict() for one in row[tool]] for tool in row} for name, row in found.items()}
            options.json.write_text(json.dumps({"machine": harness.machine(directory), "adds": rows}, indent=1) + "\n")
    return 0


def _line(pair: Pair, figures: dict[str, list[Figure]]) -> str:
    raw_bytes = pair.tuned.stat().st_size
    clocks = {tool: median(one.elapsed_s for one in row) for tool, row in figures.items()}
    texts = [
        f"{tool} {clocks[tool]:.3f} s, {median(one.cpu_s for one in row):.3f} CPU s, "
        f"stored {row[0].stored_bytes / raw_bytes:.3f}"
        for tool, row in figures.items()
    ]
    ratio = f"   ratio {clocks['git theta'] / clocks['git-lfs']:.2f}" if "git-lfs" in clocks else ""
    return f"{pair.name:18} {'   '.join(texts)}{ratio}"


if __name__ == "__main__":
    sys.exit(main())
