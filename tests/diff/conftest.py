"""Checkpoints made from arrays, sides of comparisons, and real repositories that hold them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import pytest
from checkpoints import Arrays, safetensors_bytes

from gitbridge.cli.main import main
from gitbridge.pointers import render_pointer
from gitbridge.repository import Repository
from thetastore.comparing.changes import Entry, changes_between
from thetastore.comparing.comparison import Comparison, Measured
from thetastore.comparing.sides import FileSide, StoredSide
from thetastore.store import Store

BF16 = ml_dtypes.bfloat16


def entries(tensors: Any) -> list[Entry]:
    return [Entry(t.name, t.dtype, t.shape, t.digest) for t in tensors]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "store"), create=True) as opened:
        yield opened


Compare = Callable[..., list[Measured]]


@pytest.fixture
def compare(store: Store) -> Compare:
    """Compare two sets of arrays that lie in a store."""

    def run(before: Arrays, after: Arrays, *metrics: str, read_all: bool = False) -> list[Measured]:
        sides, tables = [], []
        for arrays in (before, after):
            digest, manifest = store.put_file(io.BytesIO(safetensors_bytes(arrays)))
            sides.append(StoredSide(store.objects, store.tensors(manifest, digest)))
            tables.append(entries(manifest.tensors))
        with Comparison(*sides, metrics=metrics, read_all=read_all) as comparison:
            return list(comparison.measure(changes_between(*tables)))

    return run


@pytest.fixture
def compare_files(tmp_path: Path) -> Compare:
    """Compare two files that are in no store."""

    def run(before: Path, after: Path, *metrics: str) -> list[Measured]:
        with FileSide(str(before)) as a, FileSide(str(after)) as b, Comparison(a, b, metrics) as comparison:
            found = changes_between(entries(a.named_tensors()), entries(b.named_tensors()))
            return list(comparison.measure(found))

    return run


class Result(NamedTuple):
    status: int
    out: str
    err: str


class Work:
    """A repository with git theta installed, and what one does in it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self._clock = 1_700_000_000

    def git(self, *args: str, check: bool = True) -> str:
        # Commits get dates of their own, so that output is the same each time.
        dates = {"GIT_AUTHOR_DATE": f"{self._clock} +0000", "GIT_COMMITTER_DATE": f"{self._clock} +0000"}
        done = subprocess.run(
            ["git", *args], cwd=self.path, capture_output=True, text=True, env=os.environ | dates, check=False
        )
        assert not check or done.returncode == 0, (args, done.stdout, done.stderr)
        return done.stdout

    def theta(self, *args: str, cwd: str = ".") -> Result:
        """Run a command in this process."""
        self._monkeypatch.chdir(self.path / cwd)
        self._capsys.readouterr()
        status = main(list(args))
        printed = self._capsys.readouterr()
        return Result(status, printed.out, printed.err)

    def repository(self) -> Repository:
        return Repository.discover(str(self.path))

    def install(self) -> None:
        """Have git call the filter for files that `git add` is run on; needed where work-tree files hold weights."""
        self.theta("install", "--local")
        self.theta("track", "*.safetensors")
        self.git("add", ".gitattributes")

    def write(self, arrays: Arrays, name: str = "model.safetensors", metadata: Mapping[str, str] | None = None) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(safetensors_bytes(arrays, metadata))

    def add(self, arrays: Arrays, name: str = "model.safetensors", metadata: Mapping[str, str] | None = None) -> None:
        """Store a file and put its pointer into the index, as the filter would, which takes 0.1 s to start."""
        with self.repository() as repository, repository.open_store() as store:
            digest, manifest = store.put_file(io.BytesIO(safetensors_bytes(arrays, metadata)))
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(render_pointer(manifest, digest))
        self.git("add", "--", name)

    def commit(self, message: str = "change", *options: str) -> str:
        self._clock += 86_400
        self.git("commit", "-q", "--allow-empty", "-m", message, *options)
        return self.git("rev-parse", "HEAD").strip()

    def save(self, message: str, arrays: Arrays, name: str = "model.safetensors") -> str:
        """Add a file and commit; return the commit."""
        self.add(arrays, name)
        return self.commit(message)


@pytest.fixture
def work(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Work:
    for name in list(os.environ):
        if name.startswith("GIT_") or name == "XDG_CONFIG_HOME":
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    script = home / "bin" / "git-theta"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gitbridge.cli.main "$@"\n')
    script.chmod(0o755)
    (home / ".gitconfig").write_text(
        "[user]\n\tname = A U Thor\n\temail = author@example.com\n[init]\n\tdefaultBranch = main\n"
        "[core]\n\tabbrev = 7\n"
        '[commit]\n\tgpgSign = false\n[protocol "file"]\n\tallow = always\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    path = tmp_path / "work"
    subprocess.run(["git", "init", "-q", str(path)], check=True, capture_output=True)
    return Work(path, capsys, monkeypatch)
