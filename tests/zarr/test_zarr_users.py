"""What reads Zarr opens models: xarray and dask, where they are installed."""

from __future__ import annotations

import numpy as np
import pytest

import thetastore
from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.store import Store
from thetastore.zarr_references import write_references
from thetastore.zarr_view import ZarrStore

SQUARE = np.random.default_rng(1).standard_normal((600, 600)).astype(np.float32)
WIDE = np.random.default_rng(2).standard_normal((300, 600, 3)).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    path = str(tmp_path / "store")
    with Store.open(path, create=True) as store:
        source = safetensors_source([new_tensor("square", SQUARE), new_tensor("wide", WIDE)])
        digest = store.put_file(source).manifest_digest
    return thetastore.open(path, str(digest))


def test_axes_of_one_name_have_one_length_in_all_arrays(model):
    import zarr

    lengths = {}
    group = zarr.open_group(ZarrStore(model.origin.url, model=model), mode="r")
    for _, array in group.arrays():
        names = array.metadata.dimension_names
        assert len(set(names)) == array.ndim
        for name, length in zip(names, array.shape, strict=True):
            assert lengths.setdefault(name, length) == length


def test_dask_reads_blocks_of_the_group_and_of_tensors(model):
    dask = pytest.importorskip("dask.array")
    group = ZarrStore(model.origin.url, model=model, read_only=True)

    with dask.core.config.set(scheduler="synchronous"):
        assert np.array_equal(dask.from_zarr(group, component="wide")[3:9].compute(), WIDE[3:9])
        assert np.array_equal(dask.from_array(model["square"], chunks=(200, 600))[100:300].compute(), SQUARE[100:300])


@pytest.mark.deep
def test_xarray_opens_the_group_and_references(model, tmp_path):
    xarray = pytest.importorskip("xarray")
    write_references(model, tmp_path / "model.json")

    group = xarray.open_zarr(ZarrStore(model.origin.url, model=model, read_only=True), chunks=None)
    references = xarray.open_zarr("reference://", storage_options={"fo": str(tmp_path / "model.json")}, chunks=None)

    for found in (group, references):
        assert np.array_equal(found["square"][:7].to_numpy(), SQUARE[:7])
        assert np.array_equal(found["wide"].to_numpy(), WIDE)
