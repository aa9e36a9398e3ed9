"""The blocks of the guides run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes

import thetastore

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"layers.{n}.weight": rng.standard_normal((64, 256), np.float32) for n in range(4)}


def test_the_guide_to_a_repository_without_git_runs(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc"
    for place, changed in ((tmp_path, 0), (tmp_path / "tuned", 1), (snapshot, 2)):
        state = tensors()
        state["layers.1.weight"][0] += changed
        place.mkdir(parents=True, exist_ok=True)
        (place / "model.safetensors").write_bytes(safetensors_bytes(state))
        (place / "config.json").write_text("{}")
    script = "set -e\n"
    for language, block in BLOCK.findall((ROOT / "docs" / "thetastore.md").read_text()):
        script += block if language == "sh" else f"{sys.executable} <<'END'\n{block}\nEND\n"
    environment = {**os.environ, "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}

    done = subprocess.run(
        ["sh"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "prod  v2\n" in done.stdout
    assert "org/tiny@v1\ntiny@v1\n" in done.stdout


def test_the_guide_to_sending_weights_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    thetastore.Models("zoo", create=True)
    model = tensors()

    def train(model: dict[str, np.ndarray]) -> None:
        model["layers.1.weight"][::5, ::7] += 0.01

    names = {"train": train, "model": model, "served": {name: np.zeros_like(value) for name, value in model.items()}}
    for number, (_, block) in enumerate(BLOCK.findall((ROOT / "docs" / "weight-sync.md").read_text())):
        exec(compile(block, f"weight-sync.md, block {number}", "exec"), names)

    assert all(np.array_equal(names["served"][name], value) for name, value in model.items())
    assert "rl/policy@v3 step 2 1.5" in capsys.readouterr().out
