"""`git theta repack` makes the local store smaller, and git notices nothing of it."""

from __future__ import annotations

import json
import shutil
import struct

import numpy as np

from thetastore.digest import Digest

NBYTES = 400_000


def weights(seed: int) -> bytes:
    """A model that was trained on from another one, a little."""
    base = np.random.default_rng(0).normal(0, 0.02, NBYTES // 4).astype(np.float32)
    values = base + np.random.default_rng(seed).normal(0, 1e-8, base.size).astype(np.float32)
    header = json.dumps({"w": {"dtype": "F32", "shape": [NBYTES // 4], "data_offsets": [0, NBYTES]}}).encode()
    return struct.pack("<Q", len(header)) + header + values.tobytes()


def commit_strangers(work) -> list[Digest]:
    """Commit three models of a family that did not find each other; return their manifests."""
    digests = []
    for seed in range(1, 4):
        digests.append(work.put(f"m{seed}.st", weights(seed)))
        work.commit(f"{seed}")
        with work.repository() as repository:
            shutil.rmtree(f"{repository.store_path()}/families", ignore_errors=True)
    return digests


def test_the_store_gets_smaller_and_every_file_comes_back(work):
    digests = commit_strangers(work)

    expected = json.loads(work.theta("repack", "--dry-run", "--json").out)
    done = work.theta("repack", "--json")

    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["after"]["pack_bytes"] < 0.8 * report["before"]["pack_bytes"]
    assert report["old_packs_are_gone"]
    assert expected["rewritten_count"] == report["rewritten_count"] == 2
    assert abs(expected["saved_bytes"] - report["saved_bytes"]) < 4000
    assert work.git("status", "--short").out == ""
    with work.repository() as repository, repository.open_store() as store:
        for seed, digest in enumerate(digests, 1):
            assert b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == weights(seed)


def test_where_there_is_nothing_to_gain_it_says_so(work):
    commit_strangers(work)
    assert "saved" in work.theta("repack").out

    assert "nothing to save" in work.theta("repack").out
    assert "would save" not in work.theta("repack", "-n", "--aggressive").out


def test_without_a_store_it_names_the_way_to_one(work):
    done = work.theta("repack")

    assert done.status == 2
    assert "nothing is stored here" in done.err
    assert "git theta fetch" in done.err
