"""A project as people have it: a work tree, a bare host, a store beside it, real git in between."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path

import pytest
from blake3 import blake3
from work_place import WorkPlace, environment_in


def checkpoint(*seeds: str, nbytes: int = 300_000) -> bytes:
    """A safetensors file with a tensor for each seed; long enough to be filled, not sent through git."""
    header, body = {}, b""
    for position, seed in enumerate(seeds):
        span = [len(body), len(body) + nbytes]
        header[f"layer.{position}"] = {"dtype": "F32", "shape": [nbytes // 400, 100], "data_offsets": span}
        body += hashlib.shake_256(seed.encode()).digest(nbytes)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


class Place(WorkPlace):
    """A directory, and programs to run in it."""

    v1, v2, side = checkpoint("a", "b"), checkpoint("a", "c"), checkpoint("a", "b", "side")
    """Weights of the commits of `work`."""
    checkpoint = staticmethod(checkpoint)

    def commit(self, message: str, **files: bytes) -> str:
        """Write `name_ext` files, commit everything; return the commit."""
        for name, content in files.items():
            self.write(name.replace("__", "/").replace("_", "."), content)
        self.git("add", "-A", ".")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")

    def is_whole(self) -> bool:
        """Whether the tree is clean, and each tracked file holds the bytes that its pointer in HEAD names."""
        names = self.git("ls-tree", "-r", "--name-only", "-z", "HEAD").split("\0")
        ours = [name for name in names if name.endswith(".safetensors")]
        assert ours, "a check of nothing"
        for name in ours:
            pointer = self.git("cat-file", "blob", f"HEAD:{name}")
            digest = pointer.partition("\ndigest ")[2][:64]
            assert len(digest) == 64, f"{name} is no pointer in git: {pointer[:200]}"
            assert blake3(self.read(name)).hexdigest() == digest, f"{name} has other bytes than its pointer says"
        assert self.status() == ""
        return True

    def at(self, path: Path) -> Place:
        return Place(path, self.environment)

    def with_own_settings(self) -> Place:
        """Return the same directory, for a user whose settings no other test sees: `git config --global` may change."""
        config = self.path / "config"
        config.write_text(Path(self.environment["GIT_CONFIG_GLOBAL"]).read_text())
        return Place(self.path, self.environment | {"GIT_CONFIG_GLOBAL": str(config)})

    def clone(self, source: str | Path, path: Path, *options: str, **more: str) -> Place:
        self.git("clone", "-q", *options, str(source), str(path), **more)
        return self.at(path)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What git may know: nothing of the user, nothing of the machine; git theta is installed."""
    home = tmp_path_factory.mktemp("home")
    return environment_in(home)


@pytest.fixture
def place(tmp_path: Path, environment: dict[str, str]) -> Place:
    """An empty directory."""
    return Place(tmp_path, environment)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    top = Place(tmp_path_factory.mktemp("project"), environment)
    top.git("init", "-q", "--bare", "host.git")
    top.git("init", "-q", "work")
    work = top.at(top.path / "work")
    work.theta("track", "*.safetensors")
    work.git("config", "-f", ".thetaconfig", "theta.url", "../weights")
    work.git("remote", "add", "origin", "../host.git")
    work.commit("v1", m_safetensors=Place.v1, a_txt=b"1\n")
    work.git("tag", "v1")
    work.commit("v2", m_safetensors=Place.v2, d__n_safetensors=Place.v1, a_txt=b"2\n")
    work.git("tag", "-a", "-m", "second", "v2")
    work.git("checkout", "-q", "-b", "side", "v1")
    work.commit("side", side_safetensors=Place.side, b_txt=b"side\n")
    work.git("checkout", "-q", "main")
    work.git("push", "-q", "-u", "origin", "main", "side", "--tags")
    return top.path


@pytest.fixture
def work(tmp_path: Path, made_once: Path, environment: dict[str, str]) -> Place:
    """A project with one host and one store: `main` at `v2`, from `v1` the branch `side`; all of it is pushed."""
    for name in ("work", "host.git", "weights"):
        shutil.copytree(made_once / name, tmp_path / name, symlinks=True)
    place = Place(tmp_path / "work", environment)
    place.git("update-index", "-q", "--refresh")
    return place
