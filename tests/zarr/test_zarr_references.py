"""Models written as kerchunk references are read by zarr and fsspec alone, bit for bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

import thetastore
from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.errors import ObjectMissingError
from thetastore.store import Store
from thetastore.zarr_grid import node_name
from thetastore.zarr_references import COPIES_SUFFIX, write_references

VIEWS = Path(__file__).parents[1] / "fixtures" / "torch" / "views.pt"


def arrays():
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, 4 << 20, np.uint8)
    return {
        "layers.0.w": random.standard_normal((1000, 700)).astype(np.float32),
        "layers/1": random.standard_normal((3, 300, 1000)).astype(np.float32),
        "bf16": random.standard_normal((1024, 1024)).astype(ml_dtypes.bfloat16),
        "noise": noise,
        "ids": np.arange(100_000) % 7,
        "zeros": np.zeros((700, 1000), np.float32),
        "minus zeros": np.full(5, -0.0),
        "flags": np.array([True, False, True]),
        "complex": (random.standard_normal(5) + 1j).astype(np.complex64),
        "scalar": np.array(2.5),
        "none": np.empty((0, 4), np.float32),
        "__x": np.arange(3),
    }


def put(path, tensors, base=None):
    source = safetensors_source([new_tensor(*item) for item in tensors.items()])
    with Store.open(str(path), create=True) as store:
        digest = store.put_file(source, base).manifest_digest
    return thetastore.open(str(path), str(digest))


@pytest.fixture
def model(tmp_path):
    return put(tmp_path / "store", arrays())


def read(path, **options):
    group = zarr.open_group("reference://", storage_options={"fo": str(path), **options}, mode="r")
    return {name: array[...] for name, array in group.arrays()}


def assert_equal(model, found):
    assert {node_name(name) for name in model} == set(found)
    for name in model:
        array = np.asarray(found[node_name(name)])
        assert (array.tobytes(), array.shape) == (model[name].numpy().tobytes(), model[name].shape), name


@pytest.mark.parametrize("plain", [False, True])
def test_all_arrays_have_their_bytes(model, tmp_path, plain):
    written = write_references(model, tmp_path / "model.json", plain=plain)

    assert_equal(model, read(tmp_path / "model.json"))
    assert written.needs_codec is not plain
    assert written.referenced_bytes > 4 << 20


def test_most_is_referenced_and_only_ends_of_axes_are_copied(tmp_path):
    weights = np.random.default_rng(1).standard_normal((4 * 512 + 100, 512)).astype(np.float32)
    written = write_references(put(tmp_path / "store", {"w": weights}), tmp_path / "model.json")

    assert written.copied == {"ends of axes": 1}
    assert written.copied_bytes == os.path.getsize(written.copies_path) < written.referenced_bytes / 10


def test_plain_references_are_read_where_this_package_is_not(model, tmp_path):
    write_references(model, tmp_path / "model.json", plain=True)
    script = (
        "import sys, zarr\n"
        "from numcodecs.registry import entries\n"
        "entries.clear()\n"
        "group = zarr.open_group('reference://', storage_options={'fo': 'model.json'}, mode='r')\n"
        "total = sum(array[...].size for _, array in group.arrays())\n"
        "print(total, any(name.startswith(('thetastore', 'gitbridge')) for name in sys.modules))\n"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert said.stdout.split() == [str(sum(array.size for array in arrays().values())), "False"]


def test_differences_are_copied_and_said_to_be(tmp_path):
    before = {"w": np.random.default_rng(1).standard_normal((2048, 512)).astype(np.float32)}
    after = {"w": before["w"] * np.float32(1.0001)}
    base = put(tmp_path / "store", before).origin.manifest_digests[0]
    model = put(tmp_path / "store", after, base)

    written = write_references(model, tmp_path / "model.json")

    assert written.copied == {"differences": 4}
    assert_equal(model, read(tmp_path / "model.json"))


def test_a_store_may_lie_elsewhere_for_its_readers(model, tmp_path):
    write_references(model, tmp_path / "model.json")
    os.rename(tmp_path / "store", tmp_path / "moved")
    os.rename(tmp_path / f"model.json{COPIES_SUFFIX}", tmp_path / "copies")

    elsewhere = {"store": f"file://{tmp_path}/moved", "copies": f"file://{tmp_path}/copies"}
    found = read(tmp_path / "model.json", template_overrides=elsewhere)

    assert_equal(put(tmp_path / "moved", arrays()), found)


def test_strided_tensors_are_copied(tmp_path):
    with Store.open(str(tmp_path / "store"), create=True) as store, open(VIEWS, "rb") as stream:
        digest = store.put_file(stream).manifest_digest
    model = thetastore.open(str(tmp_path / "store"), str(digest))

    written = write_references(model, tmp_path / "model.json")

    assert written.copied["strided"]
    assert_equal(model, read(tmp_path / "model.json"))


def test_what_is_not_sealed_yet_is_copied(tmp_path):
    tensors = {"w": np.random.default_rng(1).standard_normal((1024, 256)).astype(np.float32)}
    with Store.open(str(tmp_path / "store"), create=True) as store:
        digest = store.put_file(safetensors_source([new_tensor(*item) for item in tensors.items()])).manifest_digest
        model = thetastore.open(str(tmp_path / "store"), str(digest))
        early = write_references(model, tmp_path / "early.json")
    late = write_references(model, tmp_path / "late.json")

    assert (early.referenced_bytes, late.copied_bytes) == (0, 0)
    assert_equal(model, read(tmp_path / "early.json"))
    assert_equal(model, read(tmp_path / "late.json"))


def test_a_selection_writes_its_tensors_and_old_copies_go(model, tmp_path):
    write_references(model, tmp_path / "model.json")
    written = write_references(model.select("bf16"), tmp_path / "model.json")

    assert written.tensor_count == 1
    assert written.copies_path is None
    assert sorted(os.listdir(tmp_path)) == ["model.json", "store"]
    assert len(read(tmp_path / "model.json")) == 1


def test_what_the_store_lacks_is_an_error_that_leaves_nothing_behind(tmp_path):
    model = put(tmp_path / "store", {"w": np.ones((700, 1000), np.float32), "v": np.arange(9.0)})
    shutil.rmtree(tmp_path / "store" / "packs")

    with pytest.raises(ObjectMissingError):
        write_references(model, tmp_path / "model.json")

    assert os.listdir(tmp_path) == ["store"]
