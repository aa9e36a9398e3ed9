"""Clones that keep some tensors of models of several files: the names are in one file, the bytes in others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import gitbridge
from gitbridge.errors import RemoteError
from thetastore.errors import ObjectMissingError

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROWS = 2048


def onnx(names, offset=0):
    """Return a model whose tensors of 2 MiB lie one after another in `big.bin`, from an offset on."""

    def field(number, raw):
        head, length = bytes([number << 3 | 2]), len(raw)
        while length > 0x7F:
            head, length = head + bytes([length & 0x7F | 0x80]), length >> 7
        return head + bytes([length]) + raw

    def whole(number, value):
        return bytes([number << 3, value & 0x7F | 0x80, value >> 7])

    tensors = b""
    for name in names:
        place = {b"location": b"big.bin", b"offset": b"%d" % offset, b"length": b"%d" % (ROWS * 1024)}
        pairs = b"".join(field(13, field(1, key) + field(2, value)) for key, value in place.items())
        shape = whole(1, ROWS) + whole(1, 256)
        tensors += field(5, shape + whole(2, 1) + field(8, name.encode()) + pairs + whole(14, 1))
        offset += ROWS * 1024
    return b"\x08\x08" + field(7, tensors)


NAMES = ["lm_head", "layers.0.w", "layers.1.w"]


def array(name, version=0):
    return np.random.default_rng([NAMES.index(name), version]).standard_normal((ROWS, 256)).astype("f4")


def stored_bytes(work):
    store = work.path / ".git" / "theta"
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


@pytest.fixture(params=["git keeps the table", "the table is tracked, too"])
def shared(make_work, tmp_path, request):
    """A bare repository with two versions of a model with external data, and their store."""
    work = make_work("origin")
    work.theta("install")
    work.theta("track", "*.bin", *["*.onnx"] * (request.param == "the table is tracked, too"))
    for version, order in ((1, NAMES), (2, NAMES[::-1])):
        (work.path / "big.onnx").write_bytes(onnx(order))
        (work.path / "big.bin").write_bytes(b"".join(array(name, version).tobytes() for name in order))
        work.git("add", ".")
        work.commit(f"version {version}")
        work.git("tag", f"v{version}")
    work.git("init", "-q", "--bare", str(tmp_path / "shared.git"))
    work.git("config", "theta.url", str(tmp_path / "store"))
    work.git("remote", "add", "origin", str(tmp_path / "shared.git"))
    work.git("push", "-q", "origin", "main", "v1", "v2")
    return tmp_path / "shared.git"


@pytest.fixture
def clone(make_work, shared):
    """A clone without weights."""
    there = make_work("clone")
    there.git("remote", "add", "origin", str(shared))
    there.git("fetch", "-q", "--tags", "origin")
    return there


def cut_off(tmp_path):
    """Take away where weights would come from."""
    (tmp_path / "store").rename(tmp_path / "gone")


def test_fetch_takes_the_names_that_another_file_has_for_tensors(clone, tmp_path):
    looked = clone.theta("fetch", "--dry-run", "--tensors", "lm_*", "origin", "v1")
    before = stored_bytes(clone)
    done = clone.theta("fetch", "--tensors", "lm_*", "origin", "v1")
    again = clone.theta("fetch", "--tensors", "lm_*", "origin", "v1")

    assert (looked.status, looked.err) == (0, "")
    assert "would fetch what" in looked.out
    assert before < 100_000
    assert (done.status, done.err) == (0, "")
    assert "already" in again.out
    assert 1_500_000 < stored_bytes(clone) < 2_600_000, "one tensor of 2 MiB, and what is in its first and last chunk"
    cut_off(tmp_path)
    model = gitbridge.open(clone.path, "v1", path="big.onnx")
    assert np.array_equal(model["lm_head"].numpy(), array("lm_head", 1))
    with pytest.raises((RemoteError, ObjectMissingError)):
        model["layers.1.w"].numpy()


def test_a_glob_that_matches_no_name_is_refused_with_those_that_are_near(clone):
    done = clone.theta("fetch", "--tensors", "lmhead", "origin", "v1")

    assert done.status == 2
    assert "did you mean 'lm_head'" in done.err


def test_a_clone_keeps_the_tensors_that_its_profile_names(clone):
    clone.git("config", "theta.fetchTensors", "lm_head")

    clone.git("checkout", "-q", "-b", "main", "--track", "origin/main")

    assert clone.git("status", "--porcelain").out == ""
    assert (clone.path / "big.bin").stat().st_size < 2000, "a pointer"
    assert 1_500_000 < stored_bytes(clone) < 2_600_000
    assert np.array_equal(gitbridge.open(clone.path, path="big.onnx")["lm_head"].numpy(), array("lm_head", 2))
    assert stored_bytes(clone) < 2_600_000, "it was here already"
    clone.git("checkout", "-q", "v1")
    pulled = clone.theta("pull")
    assert pulled.status == 0
    assert "this clone keeps only a part" in pulled.out
    assert stored_bytes(clone) < 5_200_000
    clone.git("config", "theta.fetchTensors", "")
    clone.theta("pull")
    assert (clone.path / "big.bin").read_bytes() == b"".join(array(name, 1).tobytes() for name in NAMES)


def test_a_distributed_checkpoint_is_kept_by_the_names_of_its_table(make_work, tmp_path):
    work = make_work("origin")
    work.theta("install")
    work.theta("track", "*.distcp")
    shutil.copytree(FIXTURES / "dcp", work.path / "run", ignore=shutil.ignore_patterns("*.json"))
    work.git("add", ".")
    work.commit("a distributed checkpoint")
    work.git("init", "-q", "--bare", str(tmp_path / "shared.git"))
    work.git("config", "theta.url", str(tmp_path / "store"))
    work.git("remote", "add", "origin", str(tmp_path / "shared.git"))
    work.git("push", "-q", "origin", "main")
    there = make_work("clone")
    there.git("remote", "add", "origin", str(tmp_path / "shared.git"))
    there.git("fetch", "-q", "origin")

    done = there.theta("fetch", "--tensors", "model.plain", "origin", "origin/main")

    assert (done.status, done.err) == (0, "")
    cut_off(tmp_path)
    model = gitbridge.open(there.path, "origin/main")
    assert model["model.plain"].numpy().max() == 6
    with pytest.raises((RemoteError, ObjectMissingError)):
        model.state_dict()
