"""Many files, and many tensors in one file."""

from __future__ import annotations

import json
import struct

import pytest


def sharded(work, count: int, changed: int = -1) -> dict[str, bytes]:
    """A model of so many shards and its index; shard `changed` differs."""
    files = {}
    names = {}
    for number in range(count):
        name = f"model-{number + 1:05}-of-{count:05}.safetensors"
        seed = f"shard{number}" + ("!" if number == changed else "")
        files[name] = work.checkpoint(seed, nbytes=4000 if count > 50 else 300_000)
        names[f"layer.{number}"] = name
    files["model.safetensors.index.json"] = json.dumps({"weight_map": names}).encode()
    return files


def many_tensors(count: int, changed: int = -1) -> bytes:
    header, body = {}, b""
    for number in range(count):
        header[f"blocks.{number // 100}.w{number % 100}"] = {
            "dtype": "F32",
            "shape": [8],
            "data_offsets": [len(body), len(body) + 32],
        }
        body += struct.pack("<II", number, number == changed) * 4
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.deep)])
def test_a_model_of_many_shards_goes_there_and_back(work, count: int) -> None:
    for name, content in sharded(work, count).items():
        work.write(name, content)
    work.commit("shards")
    for name, content in sharded(work, count, changed=3).items():
        work.write(name, content)
    assert len(work.status().splitlines()) == 1
    work.commit("one of them changed")
    work.git("push", "-q", "origin", "main")
    clone = work.clone(f"file://{work.path.parent}/host.git", work.path.parent / "clone")

    for place in (work, clone):
        for revision, changed in (("HEAD~1", -1), ("main", 3)):
            place.git("checkout", "-q", revision)
            assert all(place.read(name) == content for name, content in sharded(work, count, changed).items())
            assert place.is_whole()


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.deep)])
def test_a_file_of_many_tensors_is_stored_compared_and_listed(work, count: int) -> None:
    work.commit("many", many_safetensors=many_tensors(count))
    work.commit("one changed", many_safetensors=many_tensors(count, changed=count // 2))

    changed = work.git("diff", "--no-ext-diff", "--numstat", "HEAD~1", "--", "many.safetensors")
    listed = json.loads(work.theta("ls-files", "--json", "--tensors", "many.safetensors").stdout)

    assert len(listed["files"][0]["tensors"]) == count
    assert int(changed.split()[0]) < 10
    work.git("checkout", "-q", "HEAD~1")
    assert work.read("many.safetensors") == many_tensors(count)
    assert work.is_whole()
