"""What errors of reading say: what was asked for by the name that the user gave, what there is, and what to do."""

from __future__ import annotations

import pickle

import fsspec
import numpy as np
import pytest

import gitbridge
import thetastore
from gitbridge.errors import PathMissingError
from thetastore.errors import NoSuchTensorError, ObjectCorruptError


@pytest.fixture
def repo(make_work):
    work = make_work()
    work.theta("install")
    work.commit("start")
    rows = np.random.default_rng(5).standard_normal((100, 100))
    gitbridge.commit({"a": rows}, "models/m.safetensors", "model", "side", repository=work.path)
    return work


def damage(store):
    for pack in (store / "packs").glob("*.pack"):
        pack.chmod(0o644)
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 1
        pack.write_bytes(raw)


def test_a_path_that_is_not_there_is_missed_in_the_revision_as_it_was_named(repo):
    with pytest.raises(PathMissingError, match="no file 'm.gguf' in 'side'.*git theta ls-files side") as caught:
        gitbridge.open(repo.path, "side", path="m.gguf")

    assert isinstance(caught.value, FileNotFoundError)


def test_a_directory_without_models_is_called_one(repo):
    repo.theta("track", "opaque/*")
    (repo.path / "opaque").mkdir()
    for name in ("d", "manifest.ocdbt"):
        (repo.path / "opaque" / name).write_bytes(b"compressed " * 100)
    repo.git("add", ".")

    done = repo.theta("ls", "opaque")

    assert done.status == 2
    assert "'opaque' in the index is a directory" in done.err
    refused = repo.theta("checkout", "--tensors", "*", "--to", "part", "opaque/d")
    assert "has no tensors that git theta sees" in refused.err
    assert not (repo.path / "part").exists()


def test_a_name_that_nothing_is_like_is_told_what_there_is(repo):
    model = gitbridge.open(repo.path, "side")

    with pytest.raises(NoSuchTensorError, match="no tensor 'lm_head'; the only one is 'a'") as caught:
        model["lm_head"]
    with pytest.raises(KeyError, match="no tensor matches 'lm\\*'; the only one is 'a'"):
        model.select("lm*")

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_damaged_chunk_is_told_with_the_command_that_mends_the_store(repo, tmp_path):
    models = thetastore.Models(tmp_path / "zoo", create=True)
    models.put("org/a", {"a": np.random.default_rng(5).standard_normal((100, 100))})
    damage(tmp_path / "zoo")
    damage(repo.path / ".git/theta")

    with pytest.raises(
        ObjectCorruptError, match=rf"of tensor 'a' is corrupt.*; git -C {repo.path} theta fsck --repair"
    ):
        gitbridge.open(repo.path, "side")["a"].numpy()
    with pytest.raises(ObjectCorruptError, match=rf"is corrupt.*; thetastore mend {tmp_path}/zoo") as caught:
        thetastore.open(f"{tmp_path}/zoo/org/a")["a"][3]

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_file_that_a_url_names_and_that_is_not_there_is_told_with_those_that_are_like_it(repo):
    with pytest.raises(FileNotFoundError, match="no file 'models/n.safetensors' in .*; did you mean 'models/m"):
        fsspec.open(f"theta://{repo.path}@side/models/n.safetensors").open()
