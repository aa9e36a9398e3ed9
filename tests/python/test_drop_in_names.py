"""Arguments have the names that people know, and do what these do, or say why not."""

from __future__ import annotations

import inspect
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import gitbridge
from gitbridge.errors import PathMissingError, RemoteError, RepositoryMissingError, UsageError
from thetastore.errors import MalformedError, NoSuchTensorError

OF_THE_HUB = {
    "repo_id", "repo_type", "revision", "cache_dir", "local_dir", "library_name", "library_version", "user_agent",
    "etag_timeout", "force_download", "token", "local_files_only", "allow_patterns", "ignore_patterns", "max_workers",
    "tqdm_class", "headers", "endpoint", "dry_run",
}  # fmt: skip
"""Parameters of `huggingface_hub.snapshot_download` 2.4."""


@pytest.fixture
def repo(make_work):
    work = make_work()
    work.commit("start")
    gitbridge.commit({"layers.w": np.arange(6.0), "b": np.ones(2)}, "m.safetensors", "x", "side", repository=work.path)
    return work


def test_the_names_of_safetensors_and_the_hub_are_known():
    theirs = inspect.signature(safetensors.numpy.load_file).parameters

    assert set(theirs) <= set(inspect.signature(gitbridge.load_file).parameters)
    assert set(inspect.signature(gitbridge.snapshot_download).parameters) == OF_THE_HUB
    names = {name for name in dir(safetensors.safe_open) if not name.startswith("_")}
    assert names | {"get_tensors"} == {name for name in dir(gitbridge.safe_open) if not name.startswith("_")}


def test_all_tensors_of_an_open_model_come_at_once(repo):
    with gitbridge.safe_open(repo.path, "np", revision="side", backend="mmap") as file:
        tensors = file.get_tensors()

    assert {name: array.tolist() for name, array in tensors.items()} == {"layers.w": list(range(6)), "b": [1, 1]}


def test_a_snapshot_is_written_anew_where_that_is_asked_for(repo, tmp_path):
    where = tmp_path / "copy"
    gitbridge.snapshot_download(repo.path, revision="side", local_dir=where)
    before = {path.name: path.stat().st_ino for path in where.iterdir()}

    gitbridge.snapshot_download(repo.path, revision="side", local_dir=where, repo_type="model", token=True)
    assert {path.name: path.stat().st_ino for path in where.iterdir()} == before
    gitbridge.snapshot_download(repo.path, revision="side", local_dir=where, force_download=True)
    assert all(path.stat().st_ino != before[path.name] for path in where.iterdir())


def test_a_snapshot_of_what_is_here_asks_nobody(repo, tmp_path):
    url, cache, moved = f"file://{repo.path}", tmp_path / "cache", tmp_path / "moved"

    with pytest.raises(RemoteError, match="no copy of 'side'"):
        gitbridge.snapshot_download(url, revision="side", cache_dir=cache, local_files_only=True)
    place = gitbridge.snapshot_download(url, revision="side", cache_dir=cache)
    repo.path.rename(moved)
    assert gitbridge.snapshot_download(url, revision="side", cache_dir=cache, local_files_only=True) == place
    moved.rename(repo.path)


def test_a_snapshot_without_its_weights_is_refused_before_anything_is_fetched(repo, tmp_path):
    shutil.move(repo.path / ".git/theta", tmp_path / "elsewhere")

    with pytest.raises(RemoteError, match="local_files_only"):
        gitbridge.snapshot_download(repo.path, revision="side", local_dir=tmp_path / "c", local_files_only=True)

    assert not (tmp_path / "c" / "m.safetensors").exists()


@pytest.mark.parametrize("words", [{"dry_run": True}, {"repo_type": "dataset"}])
def test_what_a_snapshot_cannot_do_is_refused(repo, words):
    with pytest.raises(UsageError, match=next(iter(words))):
        gitbridge.snapshot_download(repo.path, **words)


def test_a_pattern_with_letters_swapped_has_near_names(repo):
    with pytest.raises(NoSuchTensorError, match=r"near names: 'layers\.w'"):
        gitbridge.open(repo.path, "side").select("laeyr*")


@pytest.mark.parametrize("metadata", [{"step": 1}, {1: "step"}, {"a": None}])
def test_metadata_that_no_reader_would_take_is_refused(repo, metadata):
    with pytest.raises(MalformedError, match="make it str"):
        gitbridge.commit({"w": np.ones(1)}, "n.safetensors", "x", "side", metadata=metadata, repository=repo.path)

    with pytest.raises(PathMissingError):
        gitbridge.open(repo.path, "side", "n.safetensors")


def test_a_commit_to_no_repository_says_so(tmp_path):
    with pytest.raises(RepositoryMissingError, match="there is no directory"):
        gitbridge.commit({"w": np.ones(1)}, "n.safetensors", "x", "side", repository=tmp_path / "nowhere")
