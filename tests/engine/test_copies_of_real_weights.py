"""Real weights that were joined, split, flattened or extended: at least 98 % of what a store has is found again."""

from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path

import ml_dtypes
import pytest
from checkpoints import safetensors_bytes

from benchmarks.copies import CASES, Case, Weights, read_safetensors, split
from thetastore.store import Store

DATA = Path(__file__).parents[3] / "shared/data"
MINILM = DATA / "minilm.bf16.safetensors"
TUNED = DATA / "minilm-finetuned.bf16.safetensors"
OF_RANK = re.compile(r" of rank \d+$")
REUSED = 0.98

pytestmark = pytest.mark.skipif(not os.path.exists(MINILM), reason=f"no real weights at {MINILM}")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return read_safetensors(str(MINILM))


@pytest.fixture(scope="module")
def first(weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("first") / "store"
    put(path, weights)
    return path


def put(path: Path, weights: Weights) -> None:
    """Store weights as one file, in a process's life of its own."""
    raw = safetensors_bytes({name: tensor.view(ml_dtypes.bfloat16) for name, tensor in weights.items()})
    with Store.open(str(path), create=True) as store:
        store.put_file(io.BytesIO(raw))


@pytest.fixture(scope="module")
def tuned() -> Weights:
    return read_safetensors(str(TUNED))


@pytest.fixture(scope="module")
def both(first, tuned, tmp_path_factory) -> Path:
    """Return a store with the fine-tune as differences from the first."""
    path = Path(shutil.copytree(first, tmp_path_factory.mktemp("both") / "store"))
    put(path, tuned)
    return path


def files_of(weights: Weights) -> list[Weights]:
    """Part what belongs to different ranks into files, as programs that split models do."""
    files: dict[str, Weights] = {}
    for name, tensor in weights.items():
        rank = OF_RANK.search(name)
        files.setdefault(rank[0] if rank else "", {})[OF_RANK.sub("", name)] = tensor
    return list(files.values())


def bytes_below(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: case.name)
def test_of_real_weights_that_were_moved_joined_or_split_a_fiftieth_at_most_is_stored_anew(
    case: Case, weights, first, tmp_path
) -> None:
    path = Path(shutil.copytree(first, tmp_path / "store"))
    before = bytes_below(path)
    made = case.make(weights)

    for file in files_of(made):
        put(path, file)

    kept_bytes = case.kept_bytes(weights, made)
    new_bytes = sum(tensor.nbytes for tensor in made.values()) - kept_bytes
    alone_bytes = before / sum(tensor.nbytes for tensor in weights.values()) * kept_bytes
    assert bytes_below(path) - before <= (1 - REUSED) * alone_bytes + new_bytes


@pytest.mark.parametrize("ways", [2, 4, 8])
def test_a_fine_tune_that_is_stored_as_differences_is_found_again_when_it_is_split(
    ways, first, both, tuned, tmp_path
) -> None:
    path = Path(shutil.copytree(both, tmp_path / "store"))
    before = bytes_below(path)
    made = split(ways)(tuned)

    for file in files_of(made):
        put(path, file)

    assert before - bytes_below(first) < bytes_below(first) / 4  # else it was not stored as differences
    part = sum(tensor.nbytes for tensor in made.values()) / sum(tensor.nbytes for tensor in tuned.values())
    assert bytes_below(path) - before <= (1 - REUSED) * part * bytes_below(first)


def test_what_is_split_and_then_stored_whole_is_found_again_or_a_small_difference(first, tuned, tmp_path) -> None:
    path = Path(shutil.copytree(first, tmp_path / "store"))
    made = split(8)(tuned)
    for file in files_of(made):
        put(path, file)
    before = bytes_below(path)

    put(path, {name: tensor for name, tensor in tuned.items() if tensor.ndim == 2})

    # No copies are looked for where a difference from the first takes less than an eighth.
    assert bytes_below(path) - before <= bytes_below(first) / 12
