"""Repositories with a history in plain git or in Git LFS, made by git itself; LFS's part is laid down by hand.

The layout is that of git-lfs: a pointer in git, the object at `.git/lfs/objects/ab/cd/<sha256>`. So the tests need no
git-lfs; `test_real_git_lfs.py` compares with the real one.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
from checkpoints import safetensors_bytes
from work_place import WorkPlace, environment_in

LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"


def weights(*seeds: int) -> bytes:
    """A checkpoint with a tensor of 400 kB for each seed."""
    return safetensors_bytes(
        {
            f"layer.{at}": np.random.default_rng(seed).standard_normal((1000, 100)).astype(np.float32)
            for at, seed in enumerate(seeds)
        }
    )


class Place(WorkPlace):
    """A work tree, and programs to run in it."""

    weights = staticmethod(weights)

    def migrate(self, *args: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        return self.theta("migrate", *args, check=check, **more)

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


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What git may know: nothing of the user; git theta is installed, and the filter `lfs` does nothing."""
    home = tmp_path_factory.mktemp("home")
    return environment_in(home, '[filter "lfs"]\n\tclean = cat\n\tsmudge = cat\n\trequired = true\n')


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
