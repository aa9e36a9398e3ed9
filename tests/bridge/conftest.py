"""Real git in temporary directories, without the configuration of whoever runs the tests."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gitbridge.cli.main import main
from gitbridge.pointers import render_pointer
from gitbridge.repository import Repository
from thetastore.digest import Digest


class Result(NamedTuple):
    status: int
    out: str
    err: str


class Work:
    """A work tree, and what one does in it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def git(self, *args: str, check: bool = True, **environment: str) -> Result:
        done = subprocess.run(
            ["git", *args],
            cwd=self.path,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            check=False,
        )
        assert not check or done.returncode == 0, (args, done.stdout, done.stderr)
        return Result(done.returncode, done.stdout, done.stderr)

    def theta(self, *args: str, cwd: str = ".") -> Result:
        """Run a command in this process."""
        self._monkeypatch.chdir(self.path / cwd)
        self._capsys.readouterr()
        status = main(list(args))
        printed = self._capsys.readouterr()
        return Result(status, printed.out, printed.err)

    def repository(self) -> Repository:
        return Repository.discover(str(self.path))

    def put(self, name: str, content: bytes) -> Digest:
        """Store a file and leave its pointer in the work tree and in the index, as the filter would."""
        with self.repository() as repository, repository.open_store() as store:
            digest, manifest = store.put_file(io.BytesIO(content))
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(render_pointer(manifest, digest))
        self.git("add", "--", name)
        return digest

    def commit(self, message: str = "change") -> str:
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").out.strip()


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a home of its own; return it."""
    for name in list(os.environ):
        if name.startswith("GIT_") or name == "XDG_CONFIG_HOME":
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    script = home / "bin" / "git-theta"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gitbridge.cli.main "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    (home / ".gitconfig").write_text(
        "[user]\n\tname = A U Thor\n\temail = author@example.com\n[init]\n\tdefaultBranch = main\n"
        '[commit]\n\tgpgSign = false\n[protocol "file"]\n\tallow = always\n'
    )
    return home


@pytest.fixture
def make_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Work]:
    def make(name: str = "work", *init: str, clone: str | Path | None = None) -> Work:
        place = tmp_path / name
        if clone is not None:
            subprocess.run(["git", "clone", "-q", *init, str(clone), str(place)], check=True, capture_output=True)
        else:
            subprocess.run(["git", "init", "-q", *init, str(place)], check=True, capture_output=True)
        return Work(place, capsys, monkeypatch)

    return make


@pytest.fixture
def work(make_work: Callable[..., Work]) -> Work:
    return make_work()


def weights(seed: int, nbytes: int = 20_000) -> bytes:
    """Bytes that do not compress, another stream for each seed."""
    import random

    return random.Random(seed).randbytes(nbytes)
