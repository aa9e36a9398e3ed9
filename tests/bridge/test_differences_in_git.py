"""Versions and fine-tunes under plain git cost what changed, wherever they travel."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from thetastore.store import Store
from thetastore.upkeep.verify import Level, verify

NAME = "model.safetensors"


def checkpoint(version: int) -> bytes:
    """A model of 1.2 MB; each version differs from the first by a little in every weight."""
    values = np.random.default_rng(0).normal(0, 0.02, (300, 1000)).astype(np.float32)
    if version:
        values += np.random.default_rng(version).normal(0, 1e-8, values.shape).astype(np.float32)
    header = {"w": {"dtype": "F32", "shape": [300, 1000], "data_offsets": [0, values.nbytes]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values.tobytes()


def stored_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "packs").iterdir())


def check_whole(store: Path) -> None:
    with Store.open(str(store)) as opened:
        assert list(verify(opened.objects, Level.RAW)) == []


@pytest.fixture
def line(make_work, tmp_path):
    """A work tree where all is installed and one version is pushed."""
    work, bare = make_work(), make_work("bare.git", "--bare")
    assert work.theta("install").status == 0
    assert work.theta("track", "*.safetensors").status == 0
    work.git("config", "-f", ".thetaconfig", "theta.url", str(tmp_path / "store"))
    work.git("remote", "add", "origin", str(bare.path))
    (work.path / NAME).write_bytes(checkpoint(0))
    work.git("add", ".")
    work.commit("v0")
    work.git("push", "-q", "-u", "origin", "main")
    return work


def commit_version(line, version: int) -> None:
    (line.path / NAME).write_bytes(checkpoint(version))
    line.git("commit", "-qam", f"v{version}")


def test_the_next_version_costs_a_fraction_here_and_in_the_remote_store(line, tmp_path):
    here, there = line.path / ".git" / "theta", tmp_path / "store"
    for name in list((here / "families").rglob("*-*")):
        name.unlink()  # so that the index alone tells what came before
    before = stored_bytes(here), stored_bytes(there)

    commit_version(line, 1)
    line.git("push", "-q")

    for store, bytes_before in zip((here, there), before, strict=True):
        assert stored_bytes(store) - bytes_before < 0.4 * bytes_before
        check_whole(store)


def test_versions_and_their_order_come_back_byte_for_byte(line, make_work, tmp_path):
    for version in range(1, 5):
        commit_version(line, version)
    line.git("push", "-q")

    clone = make_work("clone", clone=tmp_path / "bare.git")

    assert (clone.path / NAME).read_bytes() == checkpoint(4)
    check_whole(clone.path / ".git" / "theta")
    for version in (0, 3, 1, 2):
        clone.git("checkout", "-q", f"HEAD~{4 - version}" if version != 4 else "main")
        assert (clone.path / NAME).read_bytes() == checkpoint(version)
        clone.git("checkout", "-q", "main")
    check_whole(clone.path / ".git" / "theta")


def test_a_clone_goes_on_from_a_version_whose_base_it_never_had(line, make_work, tmp_path):
    commit_version(line, 1)
    line.git("push", "-q")
    clone = make_work("clone", clone=tmp_path / "bare.git")
    clone.git("config", "theta.url", str(tmp_path / "store"))
    before = stored_bytes(tmp_path / "store")

    (clone.path / NAME).write_bytes(checkpoint(2))
    clone.git("commit", "-qam", "v2")
    clone.git("push", "-q")
    line.git("pull", "-q")

    assert (line.path / NAME).read_bytes() == checkpoint(2)
    assert stored_bytes(tmp_path / "store") - before < 0.6 * before
    check_whole(tmp_path / "store")


def test_a_fine_tune_under_another_name_finds_its_base(line):
    here = line.path / ".git" / "theta"
    before = stored_bytes(here)

    (line.path / "fine-tuned.safetensors").write_bytes(checkpoint(1))
    line.git("add", ".")
    line.git("commit", "-qm", "fine-tuned")

    assert stored_bytes(here) - before < 0.4 * before
