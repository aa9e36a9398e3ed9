"""A real git, cut off from the configuration of whoever runs the tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = os.path.join(os.path.dirname(sys.executable), "git-theta")


def random_bytes(seed: str, nbytes: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return hashlib.shake_256(seed.encode()).digest(nbytes)


class Worktree:
    """A work tree, and git to run in it."""

    weights_1 = random_bytes("one", 300_000)
    """Long enough to be filled, not sent through git."""
    weights_2 = random_bytes("two", 400_000)
    small = random_bytes("small", 5_000)

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

    def theta(self, *args: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        return self.run("theta", *args, check=check, **more)

    def commit(self, tag: str) -> None:
        """Commit everything, and tag it."""
        self.git("add", ".")
        self.git("commit", "-q", "-m", tag)
        self.git("tag", tag)

    def status(self) -> str:
        return self.git("status", "--porcelain")

    def status_reads_no_weights(self) -> bool:
        """Whether git finds the work tree clean without reading a large file.

        It may read `small.bin`, which it wrote itself in the second of the index.
        """
        done = self.run("status", "--porcelain", GIT_TRACE_PACKET="1", GIT_OPTIONAL_LOCKS="0")
        asked = [line for line in done.stderr.splitlines() if "pathname=" in line and "small.bin" not in line]
        return not done.stdout and not asked

    def at(self, path: Path) -> Worktree:
        return Worktree(path, self.environment)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory with git theta installed, and nothing of the user's."""
    path = tmp_path_factory.mktemp("home")
    (path / "gitconfig").write_text(
        "[user]\n\tname = T\n\temail = t@example.org\n[init]\n\tdefaultBranch = main\n"
        '[advice]\n\tdetachedHead = false\n[protocol "file"]\n\tallow = always\n'
    )
    return path


@pytest.fixture(scope="session")
def git_environment(home: Path) -> dict[str, str]:
    """What git may know: nothing of the user, nothing of the machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(home / "gitconfig")}
    environment |= {"GIT_EDITOR": "true", "LC_ALL": "C.UTF-8", "XDG_CONFIG_HOME": str(home / "xdg")}
    environment["PATH"] = os.path.dirname(PROGRAM) + os.pathsep + environment["PATH"]
    subprocess.run(["git", "theta", "install"], cwd=home, env=environment, check=True, capture_output=True)
    return environment


@pytest.fixture
def plain(tmp_path: Path, git_environment: dict[str, str]) -> Worktree:
    """An empty repository where nothing is tracked."""
    worktree = Worktree(tmp_path / "work", git_environment)
    worktree.path.mkdir()
    worktree.git("init", "-q")
    return worktree


@pytest.fixture
def tracked(plain: Worktree) -> Worktree:
    """A repository with one commit, in which `*.bin` is tracked."""
    plain.write(".gitattributes", b"*.bin filter=theta diff=theta merge=theta -text\n")
    plain.commit("track")
    return plain


@pytest.fixture(scope="session")
def versions_made_once(tmp_path_factory: pytest.TempPathFactory, git_environment: dict[str, str]) -> Path:
    """What `versions` is a copy of."""
    made = Worktree(tmp_path_factory.mktemp("versions") / "work", git_environment)
    made.path.mkdir()
    made.git("init", "-q")
    made.write(".gitattributes", b"*.bin filter=theta diff=theta merge=theta -text\n")
    made.write("m.bin", made.weights_1)
    made.write("d/n.bin", made.weights_1 + b"n")
    made.write("small.bin", made.small)
    made.write("a.txt", b"text 1\n")
    made.commit("v1")
    made.write("m.bin", made.weights_2)
    made.write("a.txt", b"text 2\n")
    made.commit("v2")
    made.git("checkout", "-q", "-b", "side", "v1")
    made.write("d/n.bin", made.weights_2 + b"side")
    made.commit("side1")
    made.write("b.txt", b"side\n")
    made.commit("side2")
    made.git("checkout", "-q", "main")
    return made.path


@pytest.fixture
def versions(tmp_path: Path, versions_made_once: Path, git_environment: dict[str, str]) -> Worktree:
    """Commits `v1` and `v2` (checked out, on `main`) of `m.bin`, `d/n.bin`, `small.bin` and `a.txt`.

    From `v1` there also goes the branch `side`: `side1` changes `d/n.bin`, `side2` a text.
    """
    worktree = Worktree(tmp_path / "work", git_environment)
    shutil.copytree(versions_made_once, worktree.path, symlinks=True)
    worktree.git("update-index", "-q", "--refresh")
    return worktree
