"""Models are Zarr groups, and hierarchies are written into a store; zarr's own tests of stores hold."""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.testing.store import StoreTests

import thetastore
from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.digest import Kind
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.store import Store
from thetastore.zarr_view import ZarrStore


def arrays():
    random = np.random.default_rng(1)
    return {
        "layers.0.w": random.standard_normal((1000, 700)).astype(np.float32),
        "layers/1": random.standard_normal((3, 300, 1000)).astype(np.float32),
        "bf16": random.standard_normal((50, 7)).astype(ml_dtypes.bfloat16),
        "flags": np.array([True, False, True]),
        "complex": (random.standard_normal(5) + 1j).astype(np.complex64),
        "scalar": np.array(2.5),
        "none": np.empty((0, 4), np.float32),
        "__x": np.arange(3),
        "...": np.arange(4),
    }


def put(path) -> tuple[str, str]:
    source = safetensors_source([new_tensor(*item) for item in arrays().items()])
    with Store.open(str(path), create=True) as store:
        return str(path), str(store.put_file(source).manifest_digest)


class Suite(StoreTests[ZarrStore, cpu.Buffer]):
    store_cls = ZarrStore
    buffer_cls = cpu.Buffer

    async def set(self, store, key, value):
        store.put(key, value.to_bytes())

    async def get(self, store, key):
        raw = store._read(key, None)
        return self.buffer_cls.from_bytes(raw)

    @pytest.fixture
    def store(self, open_kwargs):
        opened = sync(self.store_cls.open(**open_kwargs))
        yield opened
        opened.close()

    @pytest.fixture
    def store_not_open(self, store_kwargs):
        return self.store_cls(**store_kwargs)

    def test_store_repr(self, store):
        assert repr(store) == f"ZarrStore('{store.url}')"

    def test_store_supports_writes(self, store):
        assert store.supports_writes

    def test_store_supports_listing(self, store):
        assert store.supports_listing


class TestAnEmptyStore(Suite):
    @pytest.fixture
    def store_kwargs(self, tmp_path):
        return {"url": str(tmp_path / "store")}


class TestAStoreWithCheckpoints(Suite):
    @pytest.fixture
    def store_kwargs(self, tmp_path):
        return {"url": put(tmp_path / "store")[0]}


def test_a_model_is_a_group_of_arrays(tmp_path):
    model = thetastore.open(*put(tmp_path / "store"))

    group = zarr.open_group(ZarrStore(str(tmp_path / "store"), model=model), mode="r")

    assert sorted(group.array_keys()) == sorted(
        ["%2E..", "%5F_x", "layers%2F1", *set(arrays()) - {"...", "__x", "layers/1"}]
    )
    for name, key in {"layers/1": "layers%2F1", "__x": "%5F_x", "...": "%2E.."}.items():
        assert np.array_equal(group[key][...], arrays()[name])
    for name in ("layers.0.w", "flags", "complex", "scalar", "none"):
        assert np.array_equal(group[name][...], arrays()[name])
        assert group[name].dtype == arrays()[name].dtype
    assert np.array_equal(group["layers%2F1"][1, 250:299, ::3], arrays()["layers/1"][1, 250:299, ::3])
    assert np.array_equal(group["bf16"][...].view(ml_dtypes.bfloat16), arrays()["bf16"])
    assert group["bf16"].attrs["theta.dtype"] == "bfloat16"
    assert group["layers.0.w"].chunks == (256, 700)


def test_without_consolidated_metadata_a_model_opens_as_well(tmp_path):
    model = thetastore.open(*put(tmp_path / "store"))

    group = zarr.open_group(ZarrStore(str(tmp_path / "store"), model=model), mode="r", use_consolidated=False)

    assert len(list(group.array_keys())) == len(arrays())


def test_what_is_written_hides_the_model_and_a_snapshot_keeps_it(tmp_path):
    url, digest = put(tmp_path / "store")
    over = ZarrStore(url, model=thetastore.open(url, digest))
    group = zarr.open_group(over, mode="r+", use_consolidated=False)
    group["layers.0.w"][3] = 1
    group.create_array("mine", data=np.arange(10), chunks=(4,))
    snapshot = over.snapshot()
    over.close()

    again = ZarrStore(url, model=thetastore.open(url, digest), snapshot=snapshot, read_only=True)

    group = zarr.open_group(again, mode="r", use_consolidated=False)
    assert (group["layers.0.w"][3] == 1).all()
    assert np.array_equal(group["layers.0.w"][4:], arrays()["layers.0.w"][4:])
    assert np.array_equal(group["mine"][:], np.arange(10))
    with pytest.raises(MalformedError, match="not a snapshot"):
        ZarrStore(url, snapshot=digest)


def test_a_snapshot_of_the_draft_is_read_and_one_of_a_newer_version_is_not_called_damaged(tmp_path):
    url, _ = put(tmp_path / "store")

    def snapshot(version: str) -> str:
        with Store.open(url) as store:
            line = f'{{"format": "theta-zarr", "version": {version}}}\n'
            return str(store.put_file(io.BytesIO(line.encode())).manifest_digest)

    ZarrStore(url, snapshot=snapshot("0")).close()
    ZarrStore(url, snapshot=snapshot("1")).close()
    with pytest.raises(UnsupportedError, match="has version 2, .* a newer one is needed"):
        ZarrStore(url, snapshot=snapshot("2"))


def test_an_array_that_a_checkpoint_holds_takes_no_room(tmp_path):
    url, digest = put(tmp_path / "store")
    target = ZarrStore(url)
    content = arrays()["layers.0.w"]

    group = zarr.open_group(target, mode="w")
    group.create_array("w", data=content, chunks=(256, 700), compressors=None, filters=None)

    with Store.open(url) as store:
        manifest = store.get_manifest(thetastore.digest.Digest.parse(digest))
        held = {chunk.digest for chunk in manifest.chunks}
        whole = [target._values[f"w/c/{row}/0"].digest for row in range(3)]
        assert set(whole) <= held
        assert store.objects.contains(store.objects.put(Kind.CHUNK, content[:256].tobytes()))
    target.close()


def test_values_too_long_for_an_object_are_files(tmp_path):
    target = ZarrStore(str(tmp_path / "store"))
    raw = np.random.default_rng(1).bytes(3 << 20)

    target.put("c/0", raw)

    assert target._values["c/0"].is_file
    assert target._read("c/0", None) == raw
    assert io.BytesIO(target._read("c/0", None)).read(5) == raw[:5]
    target.close()
