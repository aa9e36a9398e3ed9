"""`theta://` is a file system like any, read-only; what fsspec expects of reading holds."""

from __future__ import annotations

import io
import os
import pickle
import subprocess

import fsspec
import numpy as np
import pytest
from checkpoints import safetensors_bytes
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from gitbridge.filesystem import ThetaFileSystem
from thetastore.store import Store

WEIGHTS = {"embed": np.random.default_rng(1).standard_normal((900, 500)).astype(np.float32), "b": np.arange(7)}


class TestGet(AbstractFixtures, AbstractGetTests):
    """The read part of fsspec's own tests, over a commit with the files that each of them wants."""

    @pytest.fixture
    def commit(self, tmp_path, alone):
        root = tmp_path / "repository"

        def commit(build, *arguments):
            subprocess.run(["git", "init", "-q", str(root)], check=True)
            local = fsspec.filesystem("file", auto_mkdir=True)
            (root / "source").mkdir()
            build(local, os.path.join, str(root))
            subprocess.run(["git", "-C", str(root), "add", "."], check=True)
            subprocess.run(["git", "-C", str(root), "commit", "-q", "-m", "x"], check=True)
            return "source"

        return commit

    @pytest.fixture
    def fs(self, tmp_path, request):
        """Show what the scenario has committed; it is asked for before this is used."""
        for name in request.fixturenames:
            if name.startswith("fs_") and name not in ("fs_join", "fs_path", "fs_target", "fs_sanitize_path"):
                request.getfixturevalue(name)
        return ThetaFileSystem(str(tmp_path / "repository"))

    def test_get_directory_recursive(self, commit, tmp_path, local_fs, local_join, local_path):
        """The original makes its files in the file system; what it expects is the same."""
        commit(lambda fs, join, path: fs.pipe(join(path, "source", "src", "file"), b"content"))
        fs = ThetaFileSystem(str(tmp_path / "repository"))
        target = local_join(local_path, "target")

        fs.get("source/src", target, recursive=True)
        assert local_fs.find(target) == [local_join(target, "file")]
        fs.get("source/src", target, recursive=True)
        assert local_fs.isfile(local_join(target, "src", "file"))

    @pytest.fixture
    def fs_path(self):
        return ""

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, commit):
        return commit(self._bulk_operations_scenario_0)

    @pytest.fixture
    def fs_glob_edge_cases_files(self, commit):
        return commit(self._glob_edge_cases_files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, commit):
        return commit(self._dir_and_file_with_same_name_prefix)

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, commit):
        return commit(self._10_files_with_hashed_names)


@pytest.fixture
def repo(work):
    work.theta("install")
    work.theta("track", "*.safetensors")
    (work.path / "models").mkdir()
    (work.path / "models/m.safetensors").write_bytes(safetensors_bytes(WEIGHTS))
    (work.path / "data.csv").write_text("a,b\n1,2\n")
    work.git("add", ".")
    work.commit("one")
    work.git("tag", "v1")
    work.git("branch", "feature/x")
    (work.path / "data.csv").write_text("a,b\n3,4\n")
    work.git("commit", "-qam", "two")
    return work


def test_files_are_opened_by_url_at_any_revision(repo):
    with fsspec.open(f"theta://{repo.path}@v1/models/m.safetensors") as stream:
        assert stream.read() == safetensors_bytes(WEIGHTS)
        stream.seek(-100, 2)
        assert stream.read() == safetensors_bytes(WEIGHTS)[-100:]
    with fsspec.open(f"theta://{repo.path}@v1/data.csv", "rt") as stream:
        assert stream.read() == "a,b\n1,2\n"
    with fsspec.open(f"theta://{repo.path}/data.csv", "rt") as stream:
        assert stream.read() == "a,b\n3,4\n"
    with fsspec.open(f"theta://{repo.path}@feature%2Fx/data.csv", "rt") as stream:
        assert stream.read() == "a,b\n1,2\n"


def test_a_tensor_is_a_file_too(repo):
    url = f"theta://{repo.path}@v1/models/m.safetensors//embed"

    with fsspec.open(url) as stream:
        assert stream.read() == WEIGHTS["embed"].tobytes()
    fs, path = fsspec.url_to_fs(url)
    assert fs.cat_file(path, 8, 20) == WEIGHTS["embed"].tobytes()[8:20]
    assert fs.info(path)["dtype"] == "float32"
    for read in (fs.info, fs.open, fs.cat_file):
        with pytest.raises(FileNotFoundError, match="no tensor 'embedd'; did you mean 'embed'"):
            read("models/m.safetensors//embedd")
    assert not fs.exists("models/m.safetensors//embedd")
    assert not fs.exists("data.csv//embed")


def test_directories_are_listed(repo):
    fs = ThetaFileSystem(str(repo.path), "v1")

    assert fs.ls("", detail=False) == [".gitattributes", "data.csv", "models"]
    assert [(one["name"], one["type"]) for one in fs.ls("models")] == [("models/m.safetensors", "file")]
    assert fs.find("") == [".gitattributes", "data.csv", "models/m.safetensors"]
    assert fs.glob("**/*.safetensors") == ["models/m.safetensors"]
    assert fs.size("models/m.safetensors") == len(safetensors_bytes(WEIGHTS))
    assert fs.isdir("models")
    assert not fs.exists("nothing")
    assert fs.unstrip_protocol("data.csv") == f"theta://{repo.path}@v1/data.csv"
    for name in ("nothing", "models/nothing", "data.csv//t"):
        with pytest.raises(FileNotFoundError):
            fs.info(name)


def test_nothing_can_be_written(repo):
    fs = ThetaFileSystem(str(repo.path))

    with pytest.raises(OSError, match="read-only"):
        fs.open("new", "wb")
    for act in (lambda: fs.rm("data.csv"), lambda: fs.touch("x"), lambda: fs.pipe("x", b"")):
        with pytest.raises((NotImplementedError, OSError)):
            act()


def test_only_what_is_read_is_fetched(repo, make_work, tmp_path):
    bare = make_work("bare.git", "--bare")
    repo.git("remote", "add", "origin", str(bare.path))
    repo.git("config", "theta.url", str(tmp_path / "weights"))
    repo.git("push", "-q", "--tags", "origin", "main")
    clone = make_work("clone", "--no-checkout", clone=bare.path)
    packs = clone.path / ".git" / "theta" / "packs"

    with fsspec.open(f"theta://{clone.path}@v1/models/m.safetensors//b") as stream:
        assert stream.read() == WEIGHTS["b"].tobytes()

    assert sum(path.stat().st_size for path in packs.iterdir()) < 20_000
    with fsspec.open(f"theta://{clone.path}@v1/models/m.safetensors") as stream:
        assert stream.read() == safetensors_bytes(WEIGHTS)


def test_a_store_without_git_shows_its_files_by_digest(tmp_path):
    content = safetensors_bytes(WEIGHTS)
    with Store.open(str(tmp_path / "store"), create=True) as store:
        digest = store.put_file(io.BytesIO(content)).manifest_digest

    with fsspec.open(f"theta://{tmp_path}/store/{digest}") as stream:
        assert stream.read() == content
    assert fsspec.open(f"theta://{tmp_path}/store/{digest}//b").open().read() == WEIGHTS["b"].tobytes()
    with pytest.raises(FileNotFoundError):
        fsspec.open(f"theta://{tmp_path}/store/nothing").open()
    with pytest.raises(FileNotFoundError, match="in no Git repository and in no store"):
        fsspec.open(f"theta://{tmp_path}/nowhere/x").open()


def test_a_file_system_is_pickled_with_its_commit(repo):
    fs = pickle.loads(pickle.dumps(ThetaFileSystem(str(repo.path), "main")))
    (repo.path / "data.csv").write_text("later")
    repo.git("commit", "-qam", "three")

    assert fs.cat_file("data.csv") == b"a,b\n3,4\n"
    assert pickle.loads(pickle.dumps(fs)).cat_file("data.csv") == b"a,b\n3,4\n"
    assert fs.cat_file("models/m.safetensors") == safetensors_bytes(WEIGHTS)
