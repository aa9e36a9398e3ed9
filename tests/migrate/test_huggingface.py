"""A model of Hugging Face's cache comes in with one command, each snapshot a commit."""

from __future__ import annotations

import os

import pytest

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.bin filter=lfs diff=lfs merge=lfs -text\n"


@pytest.fixture
def cache(empty, tmp_path):
    """A cache as `huggingface_hub` lays it out: two snapshots that share a file."""
    model = tmp_path / "hub" / "models--acme--tiny-bert"
    blobs = {
        "w1": empty.weights(1, 2),
        "w2": empty.weights(1, 3),
        "attributes": ATTRIBUTES,
        "config": b'{"hidden": 100}\n',
        "vocab": b"a\r\nb\n" * 400_000,
    }
    (model / "blobs").mkdir(parents=True)
    for name, content in blobs.items():
        (model / "blobs" / name).write_bytes(content)
    for at, (commit, weights) in enumerate((("aaaa", "w1"), ("0000", "w2"))):
        snapshot = model / "snapshots" / commit
        (snapshot / "onnx").mkdir(parents=True)
        links = {"model.safetensors": weights, ".gitattributes": "attributes", "config.json": "config"}
        for name, blob in links.items():
            (snapshot / name).symlink_to(f"../../blobs/{blob}")
        (snapshot / "onnx" / "model.onnx").symlink_to("../../../blobs/vocab")
        os.utime(snapshot, (1_000_000 + at, 1_000_000 + at))
    return model


def run(place, source, *more, check=True):
    return place.migrate("import", "--from", "huggingface", str(source), *more, check=check)


def test_each_snapshot_is_a_commit_and_every_byte_is_there(empty, cache):
    empty.commit("first", {"a.txt": b"1\n"})

    run(empty, cache)

    assert empty.git("log", "--format=%s").split("\n") == [
        "Import tiny-bert at 0000",
        "Import tiny-bert at aaaa",
        "first",
    ]
    assert empty.read("tiny-bert/model.safetensors") == empty.weights(1, 3)
    assert empty.bytes_at("HEAD^", "tiny-bert/model.safetensors") == empty.weights(1, 2)
    assert empty.read("tiny-bert/onnx/model.onnx") == (cache / "blobs" / "vocab").read_bytes()
    assert empty.blob("HEAD", "tiny-bert/onnx/model.onnx").startswith(b"version ")
    assert empty.blob("HEAD", "tiny-bert/config.json") == b'{"hidden": 100}\n'
    assert not (empty.path / "tiny-bert" / "model.safetensors").is_symlink()
    assert empty.status() == ""


def test_it_works_in_an_empty_repository_and_a_second_time_changes_nothing(empty, cache):
    run(empty, cache)
    before = empty.git("rev-parse", "HEAD")

    done = run(empty, cache / "snapshots" / "0000", "--into", "tiny-bert")

    assert "all of it is committed already" in done.stdout
    assert empty.git("rev-parse", "HEAD") == before
    assert empty.status() == ""


def test_any_directory_is_taken_and_undone(empty, tmp_path):
    before = empty.commit("first", {"a.txt": b"1\n"})
    (tmp_path / "mine" / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / "mine" / ".cache" / "huggingface" / "x").write_bytes(b"x")
    (tmp_path / "mine" / "pytorch_model.bin").write_bytes(b"0" * 2_000_000)

    run(empty, tmp_path / "mine", "--into", "models/mine")

    assert empty.git("ls-tree", "-r", "--name-only", "HEAD", "models") == (
        "models/mine/.gitattributes\nmodels/mine/pytorch_model.bin"
    )
    assert empty.read("models/mine/pytorch_model.bin") == b"0" * 2_000_000
    empty.migrate("undo")
    assert empty.git("rev-parse", "HEAD") == before
    assert not (empty.path / "models/mine/pytorch_model.bin").exists()
    assert empty.status() == ""


def test_a_link_that_leads_elsewhere_is_refused(empty, cache, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    (cache / "snapshots" / "aaaa" / "stolen.txt").symlink_to("../../../../secret")

    done = run(empty, cache, check=False)

    assert done.returncode == 2
    assert "which is no file of this model" in done.stderr


@pytest.mark.parametrize("into", ["..", "/tmp/x", "a/../b", ".git", ""])
def test_it_stays_in_the_work_tree(empty, cache, into):
    assert run(empty, cache, "--into", into, check=False).returncode == 2


def test_what_is_in_the_way_is_named(empty, cache):
    empty.commit("first", {"a.txt": b"1\n"})
    empty.write("tiny-bert/mine.txt", b"mine")

    done = run(empty, cache, check=False)

    assert "'tiny-bert/mine.txt' is in the way" in done.stderr


def test_a_cache_of_several_models_and_a_place_that_is_none_are_told(empty, cache):
    assert "name one: " in run(empty, cache.parent, check=False).stderr
    assert "is not a directory" in run(empty, cache / "nowhere", check=False).stderr
