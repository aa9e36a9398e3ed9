"""A model of a repository is written as kerchunk references, too."""

from __future__ import annotations

import numpy as np
import pytest

import gitbridge

zarr = pytest.importorskip("zarr")


def test_zarr_and_fsspec_read_a_revision_without_git(make_work, tmp_path):
    from thetastore.zarr_references import write_references

    work = make_work("repository")
    work.commit("start")
    weights = np.random.default_rng(1).standard_normal((600, 500)).astype(np.float32)
    gitbridge.commit({"w": weights}, "model.safetensors", "first", "release", repository=work.path)

    write_references(gitbridge.open(work.path, "release"), tmp_path / "model.json")

    group = zarr.open_group("reference://", storage_options={"fo": str(tmp_path / "model.json")}, mode="r")
    assert np.array_equal(group["w"][...], weights)
