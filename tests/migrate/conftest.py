"""Repositories with a history in plain git or in Git LFS, made by git itself; LFS's part is laid down by hand.

The layout is that of git-lfs: a pointer in git, the object at `.git/lfs/objects/ab/cd/<sha256>`. So the tests need no
git-lfs; `test_real_git_lfs.py` compares with the real one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes

LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"


def weights(*seeds: int) -> bytes:
    """A checkpoint with a tensor of 400 kB for each seed."""
    return safetensors_bytes(
        {
            f"layer.{at}": np.random.default_rng(seed).standard_normal((1000, 100)).astype(np.float32)
            for at, seed in enumerate(seeds)
        }
    )


class Place:
    """A work tree, and programs to run in it."""

    weights = staticmethod(weights)

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self.path = path
        self.environment = environment

    def run(self, *command: str, check: bool = True, text: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            input=text,
            cwd=self.path,
            env={**self.environment, **more},
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def git(self, *args: str, **more: str) -> str:
        return self.run("git", *args, **more).stdout.rstrip("\n")

    def theta(self, *args: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run("git", "theta", *args, check=check, **more)

    def migrate(self, *args: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        return self.theta("migrate", *args, check=check, **more)

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def commit(self, message: str, files: dict[str, bytes] | None = None) -> str:
        for name, content in (files or {}).items():
            self.write(name, content)
        self.git("add", "-A", ".")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def lfs_pointer(self, content: bytes, is_here: bool = True) -> bytes:
        """Put an object where git-lfs keeps it; return its pointer."""
        oid = hashlib.sha256(content).hexdigest()
        if is_here:
            self.write(f".git/lfs/objects/{oid[:2]}/{oid[2:4]}/{oid}", content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()

    def bytes_at(self, revision: str, path: str) -> bytes:
        """What a checkout of a revision gives at a path: of a pointer, the file that it stands for."""
        return self._output("git", "theta", "cat", f"{revision}:{path}")

    def blob(self, revision: str, path: str) -> bytes:
        """What git itself holds at a path."""
        return self._output("git", "cat-file", "blob", f"{revision}:{path}")

    def _output(self, *command: str) -> bytes:
        return subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, check=True).stdout

    def status(self) -> str:
        return self.git("status", "--porcelain")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What git may know: nothing of the user; git theta is installed, and the filter `lfs` does nothing."""
    home = tmp_path_factory.mktemp("home")
    (home / "gitconfig").write_text(
        "[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n"
        "[advice]\n\tdetachedHead = false\n"
        '[filter "lfs"]\n\tclean = cat\n\tsmudge = cat\n\trequired = true\n[protocol "file"]\n\tallow = always\n'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
    kept |= {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(home / "gitconfig")}
    kept |= {"GIT_EDITOR": "true", "LC_ALL": "C.UTF-8"}
    kept |= {"PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
    subprocess.run(["git", "theta", "install"], cwd=home, env=kept, check=True, capture_output=True)
    return kept


@pytest.fixture
def empty(tmp_path: Path, environment: dict[str, str]) -> Place:
    """A repository without a commit."""
    place = Place(tmp_path / "work", environment)
    place.path.mkdir()
    place.git("init", "-q")
    return place


@pytest.fixture
def plain(empty: Place) -> Place:
    """A history in plain git: three versions on `main`, a branch from the second, tags, a merge, notes."""
    empty.commit("v1", {"m.safetensors": weights(1, 2), "a.txt": b"1\n", "deep/er/n.safetensors": weights(7)})
    empty.git("tag", "first")
    empty.commit("v2", {"m.safetensors": weights(1, 3), "a.txt": b"2\n"})
    empty.git("tag", "-a", "-m", "second", "second")
    empty.git("notes", "add", "-m", "good", "HEAD")
    empty.git("switch", "-q", "-c", "side")
    empty.commit("side", {"s.safetensors": weights(4)})
    empty.git("switch", "-q", "main")
    empty.commit("v3", {"m.safetensors": weights(1, 5)})
    empty.git("merge", "-q", "-m", "merge", "side")
    return empty


@pytest.fixture
def lfs(empty: Place) -> Place:
    """The same in Git LFS, with its pointers in the work tree, as after a clone without smudging."""
    empty.commit("track", {".gitattributes": f"*.safetensors {LFS_ATTRIBUTES}\n*.txt text\n".encode()})
    for at, version in enumerate((weights(1, 2), weights(1, 3), weights(1, 5)), start=1):
        empty.commit(f"v{at}", {"m.safetensors": empty.lfs_pointer(version), "a.txt": b"%d\n" % at})
        empty.git("tag", f"v{at}")
    return empty
