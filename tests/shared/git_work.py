"""A work tree of real git with the real command, each in a process of its own, and models to put into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.merging.checkpoints import FileCheckpoint


class Result(NamedTuple):
    status: int
    out: str
    err: str


def home_in(directory: Path) -> dict[str, str]:
    """Return an environment without anybody's configuration, with our command on its path."""
    (directory / "bin").mkdir(parents=True)
    script = directory / "bin" / "git-theta"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gitbridge.cli.main "$@"\n')
    script.chmod(0o755)
    (directory / ".gitconfig").write_text(
        "[user]\n\tname = A U Thor\n\temail = author@example.com\n[init]\n\tdefaultBranch = main\n"
        '[protocol "file"]\n\tallow = always\n'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
    root = str(Path(__file__).parents[2])
    return kept | {
        "HOME": str(directory),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(directory / ".gitconfig"),
        "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
    }


class GitWork:
    """A work tree."""

    def __init__(self, path: Path, environment: dict[str, str], clone: Path | None = None) -> None:
        self.path = path
        self.environment = environment
        words = ["init", "-q"] if clone is None else ["clone", "-q", str(clone)]
        subprocess.run(["git", *words, str(path)], check=True, capture_output=True, env=environment)

    def run(self, *words: str, **more: str) -> Result:
        done = subprocess.run(
            words, cwd=self.path, capture_output=True, text=True, env=self.environment | more, check=False
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def git(self, *words: str, **more: str) -> str:
        done = self.run("git", *words, **more)
        assert done.status == 0, (words, done)
        return done.out

    def theta(self, *words: str, **more: str) -> Result:
        return self.run("git-theta", *words, **more)

    def ready(self, *patterns: str) -> GitWork:
        self.git("theta", "install", "--local")
        self.git("theta", "track", *patterns)
        return self

    def stored_bytes(self) -> int:
        return sum(file.stat().st_size for file in (self.path / ".git" / "theta").rglob("*.pack"))


def write_model(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as stream:
        safetensors_source([new_tensor(name, array) for name, array in arrays.items()]).write_to(stream.fileno())


def read_model(path: Path) -> dict[str, np.ndarray]:
    checkpoint = FileCheckpoint(str(path))
    try:
        return {
            name: np.frombuffer(
                bytes(checkpoint.read(name, 0, tensor.raw_bytes)), f"f{tensor.raw_bytes // _count(tensor.shape)}"
            ).reshape(tensor.shape)
            for name, tensor in checkpoint.tensors.items()
        }
    finally:
        checkpoint.close()


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def weights(seed: int, *shape: int, scale: float = 0.05) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("f4")
