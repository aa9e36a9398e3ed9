"""Contenders that work under Git, as they are installed: git theta, Git LFS, and Git-Theta of 2023."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmarks.harness import CommandFailedError, run
from benchmarks.peers.contenders import AbsentError, Files, Steps
from benchmarks.world import World


class ThroughGit(Steps):
    """A repository in which files are added and committed; what is kept beside Git is what counts."""

    program: ClassVar[str]
    commands: ClassVar[tuple[tuple[str, ...], ...]]
    kept: ClassVar[tuple[str, ...]] = (".git",)
    extra: ClassVar[Mapping[str, str]] = {}

    def __init__(self, directory: Path) -> None:
        world = World(directory)
        self._env = dict(world.env) | self.extra | {"PATH": self._path(world.env["PATH"])}
        if shutil.which(self.program, path=self._env["PATH"]) is None:
            raise AbsentError(f"{self.program} is not installed")
        self._repository = directory / "repository"
        self._repository.mkdir()
        self._git("init", "-q")
        try:
            for command in self.commands:
                run(command, self._repository, self._env)
        except CommandFailedError as error:
            raise AbsentError(str(error)[-300:]) from error
        self._versions: list[list[str]] = []

    def _path(self, path: str) -> str:
        return path

    def _git(self, *args: str) -> None:
        run(["git", *args], self._repository, self._env)

    def prepare(self, files: Files) -> None:
        for name, path in files.items():
            (self._repository / name).unlink(missing_ok=True)
            os.link(path, self._repository / name)

    def add(self, files: Files, base: int | None, parent: int | None) -> None:
        del base, parent
        self._git("add", *files)
        self._versions.append(list(files))

    def settle(self) -> None:
        self._git("commit", "-q", "-m", "version")
        self._git("tag", f"v{len(self._versions) - 1}")

    def clear(self, number: int) -> None:
        for name in self._versions[number]:
            (self._repository / name).unlink(missing_ok=True)

    def checkout(self, number: int, target: Path) -> None:
        self._git("checkout", "-q", f"v{number}", "--", *self._versions[number])

    def place_of(self, target: Path) -> Path:
        return self._repository

    def stored_bytes(self) -> int:
        kept = (path for part in self.kept for path in (self._repository / part).rglob("*"))
        return sum(path.stat().st_size for path in kept if path.is_file())


class OursThroughGit(ThroughGit):
    about = "git theta: git add and git checkout"
    program = "git-theta"
    commands = (("git", "theta", "install", "--local"), ("git", "theta", "track", "*.safetensors"))
    kept = (".git/theta",)


class GitLfs(ThroughGit):
    about = "Git LFS: git add and git checkout; whole files"
    program = "git-lfs"
    commands = (("git", "lfs", "install", "--local"), ("git", "lfs", "track", "*.safetensors"))
    kept = (".git/lfs",)


class GitTheta2023(ThroughGit):
    about = "Git-Theta (PyPI git-theta, r-three): git add and git checkout"
    program = "git-theta"
    commands = (("git", "theta", "install"), ("git", "theta", "track", "*.safetensors"))
    kept = (".git/lfs", ".git/objects")
    extra: ClassVar[Mapping[str, str]] = {"GIT_THETA_CHECKPOINT_TYPE": "safetensors"}
    programs: ClassVar[str | None] = None
    """The directory of its programs, which have the names of ours."""

    def _path(self, path: str) -> str:
        if self.programs is None:
            raise AbsentError("git-theta of PyPI is not installed; `make peers` tries to install it")
        ours = os.path.dirname(shutil.which("git-theta", path=path) or "/nowhere")
        others = [part for part in path.split(os.pathsep) if part != ours]
        return os.pathsep.join([self.programs, *others])
