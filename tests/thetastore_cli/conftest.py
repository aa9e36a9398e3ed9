"""A place with a store and some checkpoints, and the command line of thetastore, as a function and as a program."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.cli.main import main


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def values(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        assert found.pop("schema") == 1
        return found


def tensors(changed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {f"layers.{n}.weight": rng.standard_normal((64, 256), np.float32) for n in range(8)}
    for n in range(changed):
        found[f"layers.{n}.weight"][0, 0] += 1
    return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def said(*arguments: object) -> Said:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # what the parser ends with
            status = int(str(stop.code))
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return Said(status, found.out, found.err)

    return said


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Said]) -> Path:
    """The current directory: a store `zoo`, and the checkpoints `a` and `b`, nearly the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THETASTORE_AUTHOR", "ada")
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(tensors()))
    (tmp_path / "b.safetensors").write_bytes(safetensors_bytes(tensors(changed=1)))
    assert run("init", "zoo").status == 0
    return tmp_path
