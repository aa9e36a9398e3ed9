"""Real git, small checkpoints, and the commands run as git runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from checkpoints import Arrays, read_safetensors, safetensors_bytes

PROGRAM = Path(sys.executable).parent / "git-theta"


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Work:
    """A work tree with a tracked model.safetensors."""

    name = "model.safetensors"

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_"))}
        self.environment = kept | {
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
            "GIT_EDITOR": "true",
            "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",
        }

    def git(self, *args: str, check: bool = True, text: str | None = None, **environment: str) -> Done:
        done = subprocess.run(
            ["git", *args], cwd=self.path, env=self.environment | environment, input=text,
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (args, done.stdout, done.stderr)
        return Done(done.returncode, done.stdout, done.stderr)

    def theta(self, *args: str, check: bool = True, text: str | None = None, **environment: str) -> Done:
        return self.git("theta", *args, check=check, text=text, **environment)

    def write(self, arrays: Arrays, name: str | None = None, metadata: Mapping[str, str] | None = None) -> None:
        (self.path / (name or self.name)).write_bytes(safetensors_bytes(arrays, metadata or {"format": "pt"}))

    def commit(self, arrays: Arrays | None = None, tag: str = "", message: str = "change") -> None:
        if arrays is not None:
            self.write(arrays)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        if tag:
            self.git("tag", tag)

    def branch(self, name: str, arrays: Arrays, start: str = "base") -> None:
        """Commit other weights on a new branch."""
        self.git("checkout", "-q", "-b", name, start)
        self.commit(arrays, message=name)

    def append(self, name: str, text: str) -> None:
        place = self.path / name
        place.write_text((place.read_text() if place.exists() else "") + text)

    def read(self, name: str | None = None) -> bytes:
        return (self.path / (name or self.name)).read_bytes()

    def tensors(self, name: str | None = None) -> dict[str, Any]:
        return read_safetensors(self.read(name))

    def status(self) -> str:
        return self.git("status", "--porcelain", "-uno").out


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text(
        "[user]\n\tname = A U Thor\n\temail = author@example.com\n[init]\n\tdefaultBranch = main\n[advice]\n"
        "\tdetachedHead = false\n"
    )
    return home


class Repositories(NamedTuple):
    """Repositories that are made once; each test has a copy of its own, which costs no process of git's."""

    place: Path
    home: Path

    def make(self, name: str, start: Work | None) -> Work:
        """Return a new one, or one like another."""
        work = Work(self.place / name, self.home)
        if start is None:
            work.path.mkdir()
        else:
            self.copy(start, work.path)
        return work

    def copy(self, made: Work, place: Path) -> Work:
        """Return a copy at a place."""
        shutil.copytree(made.path, place, symlinks=True)
        (place / ".git/theta/hooks").unlink(missing_ok=True)  # names the hooks of the one that was copied
        return Work(place, self.home)


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Repositories:
    return Repositories(tmp_path_factory.mktemp("made"), home)


@pytest.fixture(scope="session")
def empty_work(repositories: Repositories) -> Work:
    work = repositories.make("empty", None)
    work.git("init", "-q")
    work.theta("install", "--local")
    work.theta("track", "*.safetensors")
    return work


@pytest.fixture(scope="session")
def base_work(repositories: Repositories, empty_work: Work) -> Work:
    work = repositories.make("base", empty_work)
    work.commit(make_model(), tag="base")
    return work


@pytest.fixture(scope="session")
def sides_work(repositories: Repositories, base_work: Work) -> Work:
    work, base = repositories.make("sides", base_work), make_model()
    work.branch("theirs", make_changed(base, 4, 0, 1))
    work.branch("ours", make_changed(base, 8, 1, 2))
    return work


@pytest.fixture(scope="session")
def conflict_work(repositories: Repositories, base_work: Work) -> Work:
    work, base = repositories.make("conflict", base_work), make_model()
    work.branch("theirs", make_changed(base, 4, 0, 1, 2))
    work.branch("ours", make_changed(base, 8, 1, 2, 3))
    assert work.git("merge", "theirs", check=False).status == 1
    return work


@pytest.fixture
def work(request: pytest.FixtureRequest, tmp_path: Path, repositories: Repositories) -> Work:
    """A repository that tracks `*.safetensors`: with a conflict, two branches, a commit `base`, or nothing in it."""
    wanted = next((name for name in ("conflict", "sides", "base") if name in request.fixturenames), "empty")
    made: Work = request.getfixturevalue(f"{wanted}_work")
    return repositories.copy(made, tmp_path / "work")


@pytest.fixture
def base(work: Work) -> dict[str, Any]:
    """A model of four layers, committed and tagged `base`."""
    return make_model()


@pytest.fixture
def sides(work: Work) -> dict[str, Any]:
    """Branches `theirs` (layers 0 and 1 moved by 4) and `ours` (1 and 2 by 8), now checked out. Returns the base."""
    return make_model()


@pytest.fixture
def conflict(work: Work) -> dict[str, Any]:
    """A merge that stopped: layers 1 and 2 changed on both sides, 0 by theirs, 3 by ours. Returns the base."""
    return make_model()


def make_model(
    seed: int = 0, layers: int = 4, shape: tuple[int, ...] = (8, 6), dtype: str = "float32"
) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    kind = getattr(ml_dtypes, dtype, None) or dtype
    return {f"layers.{n}.weight": draw.standard_normal(shape).astype("f4").astype(kind) for n in range(layers)}


def make_changed(arrays: Arrays, by: float, *layers: int) -> dict[str, Any]:
    """Return a model with something added to some of its layers."""
    wanted = {f"layers.{layer}.weight" for layer in layers}
    return {n: (a.astype("f4") + by).astype(a.dtype) if n in wanted else a for n, a in arrays.items()}


@pytest.fixture
def model() -> Callable[..., dict[str, Any]]:
    return make_model


@pytest.fixture
def changed() -> Callable[..., dict[str, Any]]:
    return make_changed
