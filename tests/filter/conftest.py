"""A real git, cut off from the configuration of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Worktree:
    """A work tree, and git to run in it."""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path = path
        self.environment = environment

    def run(self, *args: str, check: bool = True, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["git", *args],
            input=text,
            cwd=self.path,
            env={**self.environment, **more},
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"git {' '.join(args)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def git(self, *args: str, **more: str) -> str:
        """Run git, which must succeed; return its standard output without the last line feed."""
        return self.run(*args, **more).stdout.rstrip("\n")

    def blob(self, name: str) -> bytes:
        """The content of an object."""
        command = ["git", "cat-file", "blob", name]
        return subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, check=True).stdout

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def at(self, path: Path) -> Worktree:
        return Worktree(path, self.environment)


@pytest.fixture
def git_environment(tmp_path: Path) -> dict[str, str]:
    """What git may know: nothing of the user, nothing of the machine."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(home / "gitconfig")}
    environment |= {"GIT_EDITOR": "true", "LC_ALL": "C.UTF-8", "XDG_CONFIG_HOME": str(home / "xdg")}
    (home / "gitconfig").write_text(
        "[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n"
        '[advice]\n\tdetachedHead = false\n[protocol "file"]\n\tallow = always\n'
    )
    return environment


@pytest.fixture
def plain(tmp_path: Path, git_environment: dict[str, str]) -> Iterator[Worktree]:
    """An empty repository without our filter."""
    path = tmp_path / "plain"
    path.mkdir()
    worktree = Worktree(path, git_environment)
    worktree.git("init", "-q")
    return worktree
