"""What peers that are re-implemented here store comes back, and results become a page."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import bitx, contenders, document, xet
from benchmarks.peers.scenarios import write

CONTENDERS: dict[str, Callable[[Path], Any]] = {
    "cp": contenders.Copy,
    "zstd": contenders.Zstd,
    "ours": contenders.Ours,
    "ours repacked": contenders.OursRepacked,
    "xet": xet.Xet,
    "xor": bitx.XorZstd,
    "bitx": type("BitXWithoutZipNN", (bitx.BitX,), {"_solo": lambda self: None}),
}


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    """Two versions, of which the second has moved a little, with a tensor more; in bf16 and fp32."""
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal((300, 500), dtype=np.float32) * np.float32(0.02)).view("<u4")
    halves = (weights >> 16).astype("<u2")
    moved = [
        (halves + (rng.random(halves.shape) < 0.3)).astype("<u2"),
        weights + rng.integers(0, 99, weights.shape, "<u4"),
    ]
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    for path, (bf16, fp32) in zip(paths, [(halves, weights), moved], strict=True):
        tensors = {"a": ("bfloat16", bf16.shape, bf16.tobytes()), "b": ("float32", fp32.shape, fp32.tobytes())}
        write(path, tensors | ({"c": ("bfloat16", (7,), os.urandom(14))} if path is paths[1] else {}))
    return paths


@pytest.mark.parametrize("name", CONTENDERS)
def test_what_a_contender_stores_comes_back(name: str, versions: list[Path], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    contender = CONTENDERS[name](tmp_path / "store")
    for number, path in enumerate(versions):
        before = None if not number else number - 1
        contender.add({"model.safetensors": path}, before, before)
    if name == "ours repacked":
        contender.finish()

    for number, path in enumerate(versions):
        target = tmp_path / f"out {number}"
        target.mkdir()
        contender.checkout(number, target)
        assert (target / "model.safetensors").read_bytes() == path.read_bytes()
    raw_bytes = sum(path.stat().st_size for path in versions)
    assert (contender.stored_bytes() == raw_bytes) if name == "cp" else (contender.stored_bytes() < raw_bytes)


def test_chunks_of_xet_are_within_their_bounds_and_found_again_after_an_insertion() -> None:
    raw = np.random.default_rng(2).bytes(2_000_000)
    starts = {}
    for name, content in (("raw", raw), ("shifted", raw[:1_000_000] + b"some bytes more" + raw[1_000_000:])):
        bounds = list(xet._bounds(xet._zeros(content, 0, len(content)), len(content)))
        lengths = np.diff([0, *bounds])
        assert lengths.max() <= xet.MAX_BYTES
        assert lengths[:-1].min() >= xet.MIN_BYTES
        starts[name] = {content[start:stop] for start, stop in zip([0, *bounds], bounds, strict=False)}

    assert len(starts["shifted"] - starts["raw"]) <= 3


def test_pieces_of_a_file_have_the_hashes_that_it_has_as_a_whole() -> None:
    raw = np.random.default_rng(3).bytes(300_000)
    pieces = [xet._zeros(raw, start, min(len(raw), start + 70_000)) for start in range(0, len(raw), 70_000)]

    assert np.concatenate(pieces).tolist() == xet._zeros(raw, 0, len(raw)).tolist()


def test_results_become_a_page_that_says_what_is_absent_and_what_was_missed() -> None:
    run = {"scenario": "sparse bf16", "round": 0, "add_s": [1, 1], "checkout_s": [1, 2], "is_exact": True}
    run |= {"add_cpu_s": [1, 1], "checkout_cpu_s": [1, 1]}
    machine = {"processor": "p", "cores": 2, "memory_bytes": 1 << 30, "file_system": "f", "kernel": "k", "python": "3"}
    machine |= {"load_average": [0.5], "git": "git 2", "git_lfs": None, "versions": {"numpy": "2"}, "trained": True}
    whole = {
        "machine": machine,
        "scenarios": {"sparse bf16": {"about": "1 % changed", "raw_bytes": [1000, 1000]}},
        "runs": [
            run | {"contender": "thetastore", "about": "ours", "stored_bytes": [600, 700]},
            run | {"contender": "cp", "about": "whole", "stored_bytes": [1000, 2000], "is_exact": False},
            {"scenario": "sparse bf16", "contender": "ZipNN", "round": 0, "absent": "zipnn cannot be imported"},
        ],
    }

    page = document.page(document.Results(whole))

    assert "| sparse bf16 | **0.3500** | 1.0000 |" in page
    assert "| 1 % sparse, bf16: stored / raw | 0.1000 | ≤ 0.014 | **no** |" in page
    assert "**cp**: whole. What it checked out was **not what was added**." in page
    assert "**ZipNN**: absent: zipnn cannot be imported" in page
