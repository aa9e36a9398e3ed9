"""A push finds the base that only the bucket has, whatever its tensors are called, in a bounded number of requests."""

from __future__ import annotations

import io

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.backends.memory import MemoryBackend
from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.store import Store
from thetastore.testing import MemoryRequests, Rounds
from thetastore.transfers.transfer import CopyReport
from thetastore.upkeep.verify import Level, verify

Weights = dict[str, "np.ndarray"]

LAYERS = 40
FIXED_ROUNDS = 24
"""What any push takes: who writes there, what is there, the pack, index and locator, the table of families."""


def model(seed: int = 0, vocabulary: int = 2500) -> Weights:
    random = np.random.default_rng(seed)
    shapes = {"embed": (vocabulary, 256), "head": (128, 256)}
    shapes |= {f"layers.{n}.{part}": (192, 256) for n in range(LAYERS // 2) for part in ("up", "down")}
    return {name: random.normal(0, 0.02, shape).astype(np.float32) for name, shape in shapes.items()}


def tuned(weights: Weights) -> Weights:
    random = np.random.default_rng(1)
    return {name: (array + random.normal(0, 1e-8, array.shape)).astype("f4") for name, array in weights.items()}


def renamed(weights: Weights) -> Weights:
    return {f"text.encoder.{name.replace('layers', 'h')}": array for name, array in weights.items()}


def of_other_forms(weights: Weights) -> Weights:
    """Also rows in the vocabulary and no head: of the tensors' forms, too, one in three is another."""
    more = np.random.default_rng(2).normal(0, 0.02, (8, 256)).astype("f4")
    changed = {name: array for name, array in renamed(weights).items() if "head" not in name}
    return {name: np.concatenate([array, more]) if "embed" in name else array for name, array in changed.items()}


def push(rounds: Rounds, weights: Weights) -> tuple[CopyReport, bytes]:
    """Push a model from a clone of its own, which has nothing else; return what went and the manifest's digest."""
    with Store.at(MemoryBackend(), create=True) as here:
        digest = here.put_file(io.BytesIO(safetensors_bytes(weights))).manifest_digest
        here.seal()
        rounds.restart()
        with Store.at(rounds.backend(), create=True) as there:
            return here.send_to(there, [digest], proves=False), digest


def pack_bytes_read(rounds: Rounds) -> int:
    return sum(one.nbytes for one in rounds.asked if one.verb == "get" and one.name.startswith("packs/"))


@pytest.fixture
def rounds() -> Rounds:
    return Rounds(MemoryRequests())


@pytest.mark.parametrize("change", [lambda weights: weights, renamed, of_other_forms])
def test_a_fine_tune_from_a_clone_without_its_base_arrives_as_a_difference(rounds, change):
    base_bytes = push(rounds, model())[0].stored_bytes
    weights = change(tuned(model()))

    copied, digest = push(rounds, weights)

    assert copied.stored_bytes < 0.35 * base_bytes
    assert rounds.count <= FIXED_ROUNDS + LAYERS / 4
    assert pack_bytes_read(rounds) <= 1.05 * base_bytes + (64 << 10)
    with Store.at(rounds.backend()) as there:
        manifest = there.get_manifest(digest)
        entries = [there.objects.entry(placed.chunk.digest) for placed in iter_chunks(there.objects, manifest)]
        assert sum(bool(entry.bases) for entry in entries) >= LAYERS + 2
        assert b"".join(map(bytes, there.read_file(manifest, digest))) == safetensors_bytes(weights)
        assert list(verify(there.objects, Level.RAW)) == []


@pytest.mark.parametrize("change", [lambda weights: weights, renamed])
def test_a_stranger_of_the_same_form_arrives_as_it_is_at_a_bounded_cost(rounds, change):
    base_bytes = push(rounds, model())[0].stored_bytes

    copied, _ = push(rounds, change(model(7)))

    assert rounds.count <= FIXED_ROUNDS + 24  # so many guesses are free
    assert pack_bytes_read(rounds) <= 0.7 * base_bytes  # 24 of 44 chunks, and the one or two on their way then
    assert copied.stored_bytes <= 1.001 * push(Rounds(MemoryRequests()), change(model(7)))[0].stored_bytes


def test_the_cost_of_filing_and_looking_up_does_not_grow_with_the_models_there(rounds):
    counts = []
    for seed in range(12):
        push(rounds, {f"{seed}.{name}": array for name, array in model(seed).items()})
        counts.append(rounds.count)

    assert max(counts[2:]) <= counts[1] + 16  # four models of the same form are opened, of which chunks are compared


def test_what_was_fetched_is_found_by_the_next_model_that_is_added_here(rounds):
    _, digest = push(rounds, model())
    with Store.at(MemoryBackend(), create=True) as here:
        with Store.at(rounds.backend(), expected=[digest]) as there:
            there.send_to(here, [digest])

        added = here.put_file(io.BytesIO(safetensors_bytes(of_other_forms(tuned(model())))))

        chunks = iter_chunks(here.objects, added.manifest)
        assert sum(bool(here.objects.entry(placed.chunk.digest).bases) for placed in chunks) >= LAYERS + 2
