"""A chunk that is damaged in the local store is an error, and then fetched like one that is not there."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import gitbridge
from thetastore.errors import ObjectCorruptError


def test_a_damaged_chunk_is_named_once_and_then_fetched(make_work, tmp_path):
    work = make_work()
    work.git("config", "theta.url", tmp_path / "store")
    work.commit("start")
    tensors = {"a": np.random.default_rng(5).standard_normal((100, 100))}
    gitbridge.commit(tensors, "m.safetensors", "model", "side", repository=work.path)
    shutil.copytree(work.path / ".git/theta", tmp_path / "store")
    for pack in (work.path / ".git/theta/packs").glob("*.pack"):
        pack.chmod(0o644)
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 1
        pack.write_bytes(raw)
    model = gitbridge.open(work.path, "side")

    with pytest.raises(ObjectCorruptError, match="of tensor 'a' is corrupt"):
        model["a"].numpy()

    assert np.array_equal(model.state_dict()["a"], tensors["a"])
    assert np.array_equal(gitbridge.open(work.path, "side")["a"].numpy(), tensors["a"])
