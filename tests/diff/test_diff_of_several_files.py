"""A model of several files is one in diffs: changed tensors by name, whatever file holds their bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from thetastore.formats.torch_dcp import TorchDcp
from thetastore.testing.formats import BytesFile

FIXTURES = Path(__file__).parents[1] / "fixtures"


def flip(path, at):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


@pytest.fixture(params=["git keeps the tables", "the tables are tracked, too"])
def models(work, request):
    """A repository with a TensorFlow checkpoint of two data files, one in slices, and a distributed one of torch."""
    work.theta("install")
    tables = ["*.index", "**/.metadata"] if request.param == "the tables are tracked, too" else []
    work.theta("track", "*.data-*", "*.distcp", *tables)
    for path in (FIXTURES / "tensorflow").glob("s*ed.*"):
        shutil.copy(path, work.path / path.name)
    shutil.copytree(FIXTURES / "dcp", work.path / "run", ignore=shutil.ignore_patterns("*.json"))
    work.git("add", ".")
    work.commit("one")
    flip(work.path / "sharded.data-00000-of-00002", 5)
    flip(work.path / "sliced.data-00000-of-00001", 3)
    shard = work.path / "run" / "__2_0.distcp"
    layout = TorchDcp().scan(BytesFile(shard.read_bytes()))
    flip(shard, next(one.offset for one in layout.tensors if one.shape == (4, 4)))
    return work


CHANGED = {"run/.metadata": ["model.both"], "sharded.index": ["w0"], "sliced.index": ["table"]}


def changed(done):
    assert (done.status, done.err) == (0, "")
    found = json.loads(done.out)["files"]
    assert all(one["change"] == "changed" for file in found for one in file["tensors"])
    return {file["path"]: [one["name"] for one in file["tensors"]] for file in found}


def test_what_changed_is_told_by_the_names_of_tensors(models):
    assert changed(models.theta("diff", "--json")) == CHANGED

    models.git("add", ".")
    assert changed(models.theta("diff", "--json", "--cached")) == CHANGED
    models.commit("two")
    assert changed(models.theta("diff", "--json", "HEAD~1", "HEAD")) == CHANGED
    assert changed(models.theta("diff", "--json", "HEAD~1:run", "HEAD:run")) == {"run/.metadata": ["model.both"]}
    assert models.theta("diff", "HEAD").out == ""


def test_figures_are_of_the_elements_that_changed(models):
    (one,) = [
        file["tensors"][0] for file in json.loads(models.theta("diff", "--json").out)["files"] if "run" in file["path"]
    ]

    assert (one["compared"], one["changed"]) == (63, 1)
    assert [len(one[side]["digest"]) for side in ("before", "after")] == [64, 64]


def test_names_of_what_changed_need_no_tensors_that_did_not(models):
    models.git("add", ".")
    models.commit("two")

    names = models.theta("diff", "--name-status", "HEAD~1", "HEAD").out.split("\n")
    assert [line.split() for line in names if "w0" in line or "table" in line or "model.both" in line]
    assert not any("w1" in line or "plain" in line for line in names)


def test_files_that_do_not_belong_together_are_compared_each_by_itself(models):
    (models.path / "sharded.data-00001-of-00002").write_bytes(b"short")

    found = {file["path"] for file in json.loads(models.theta("diff", "--json").out)["files"]}
    assert "sharded.index" not in found
    assert "sharded.data-00001-of-00002" in found


def test_log_says_which_commit_changed_which_tensor(models):
    models.git("add", ".")
    models.commit("two")
    for path, names in CHANGED.items():
        commits = json.loads(models.theta("log", "--json", path).out)["commits"]
        assert [one["subject"] for one in commits] == ["two", "one"]
        assert [one["name"] for one in commits[0]["tensors"]] == names
        assert {one["change"] for one in commits[1]["tensors"]} == {"added"}
    assert models.theta("log", "run").out == models.theta("log", "run/.metadata").out


def test_blame_says_which_commit_a_tensor_comes_from(models):
    models.git("add", ".")
    models.commit("two")
    oids = dict(zip(("two", "one"), models.git("log", "--format=%H").split(), strict=True))
    done = models.theta("blame", "--json", "run")

    assert (done.status, done.err) == (0, "")
    found = {one["name"]: one for one in json.loads(done.out)["tensors"]}
    assert found["model.both"]["commit"]["oid"] == oids["two"]
    assert found["model.both"]["changed"] == 1
    assert {one["commit"]["oid"] for name, one in found.items() if name != "model.both"} == {oids["one"]}


def test_ls_files_lists_the_tensors_that_files_name_in_others(models):
    listed = models.theta("ls-files", "--tensors", "--json", "sharded.data-00000-of-00002")
    (model,) = json.loads(listed.out)["models"]

    assert model["path"] == "sharded.index"
    assert [one["name"] for one in model["tensors"]] == ["steps0", "steps1", "w0", "w1"]
    assert "run/.metadata names, in " in models.theta("ls-files", "--tensors", "HEAD").out
