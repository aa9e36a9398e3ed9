"""Scratch repositories for benchmarks: a directory that goes away, a HOME of its own, tools set up as users do."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.harness import run

THETA, LFS, COPY = "theta", "git-lfs", "cp"

_SET_UP = {
    THETA: (("git", "theta", "install", "--local"), ("git", "theta", "track", "*.safetensors")),
    LFS: (("git", "lfs", "install", "--local"), ("git", "lfs", "track", "*.safetensors")),
}

_GIT_CONFIG = """\
[user]
  name = Benchmark
  email = benchmark@example.com
[init]
  defaultBranch = main
[advice]
  detachedHead = false
[gc]
  auto = 0
[protocol "file"]
  allow = always
"""


class World:
    """A scratch directory with the environment that git gets in it. A context manager: leaving it removes all.

    It lies on the file system of the inputs, so that they can be linked into work trees instead of copied.
    """

    def __init__(self, directory: Path) -> None:
        directory = directory.resolve()  # HOME must not depend on where a command runs
        self.inputs = directory / "inputs"
        """Where inputs are kept from one run to the next."""
        self.inputs.mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=directory))
        """Goes away with this world."""
        home = self.scratch / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(_GIT_CONFIG)
        self.env = _environment(home)
        self.has_lfs = shutil.which("git-lfs", path=self.env["PATH"]) is not None
        self.has_theta = shutil.which("git-theta", path=self.env["PATH"]) is not None
        self._made = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    @property
    def git_tools(self) -> list[str]:
        """The tools under git that are installed here, ours first."""
        return [THETA] * self.has_theta + [LFS] * self.has_lfs

    def directory(self) -> Path:
        """Return a new empty directory."""
        self._made += 1
        path = self.scratch / f"d{self._made}"
        path.mkdir()
        return path

    def repository(self, tool: str) -> Path:
        """Return a new repository in which a tool is installed and tracks safetensors files."""
        path = self.directory()
        run(["git", "init", "-q"], path, self.env)
        for command in _SET_UP[tool]:
            run(command, path, self.env)
        return path

    def git(self, repository: Path, *args: str) -> bytes:
        """Run a git command that is not measured."""
        return run(["git", *args], repository, self.env)

    def place(self, source: Path, target: Path) -> None:
        """Put a file (or all files of a directory) into a work tree in place of what is there, without copying."""
        if source.is_dir():
            for file in source.iterdir():
                self.place(file, target / file.name)
            return
        target.unlink(missing_ok=True)
        os.link(source, target)

    def discard(self, path: Path) -> None:
        """Remove a directory of this world's."""
        shutil.rmtree(path)


def _environment(home: Path) -> Mapping[str, str]:
    # PYTHONDONTWRITEBYTECODE, where set, would have every start of ours compile our own source.
    dropped = ("GIT_", "LC_", "XDG_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    programs = os.path.dirname(sys.executable)
    return kept | {
        "HOME": str(home),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
