"""Copies are found in what people do to weights, and nothing is claimed that is not so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.backends.memory import MemoryBackend
from thetastore.chunking import grid_lengths
from thetastore.codecs import copies
from thetastore.digest import Digest, digest_of
from thetastore.representations.anchor_table import AnchorTable
from thetastore.representations.anchors import anchors_of, to_remember
from thetastore.representations.matching import MAX_READS, CopyPlan, Hit, equal_ranges, find_copies

WIDTH = 200
MIB = 1 << 20


def drawn(*shape: int, seed: int = 1) -> np.ndarray:
    bits = (np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(0.02)).view(np.uint32)
    return (bits >> 16).astype(np.uint16)


def bytes_of(array: np.ndarray) -> bytes:
    return array.tobytes()


def rebuilt(raw: bytes, plan: CopyPlan, bases: dict[Digest, bytes]) -> bytes:
    out = bytearray(b"\xa5" * len(raw))
    stored = copies.encode(memoryview(raw), plan.recipe, "bfloat16")
    copies.decode(memoryview(stored), memoryview(out), [bases[base] for base in plan.bases])
    return bytes(out)


def test_equal_ranges_are_found_to_the_byte() -> None:
    one = np.frombuffer(np.random.default_rng(1).bytes(100_000), np.uint8).copy()
    other = one.copy()
    other[[0, 10_000, 10_001, 55_555, 99_999]] ^= 1

    assert equal_ranges(one, other) == [(1, 10_000), (10_002, 55_555), (55_556, 99_999)]
    assert equal_ranges(one, one) == [(0, 100_000)]
    assert equal_ranges(one, ~one) == []
    assert equal_ranges(one[:0], one[:0]) == []
    assert equal_ranges(one[:700], one[:700]) == []


def whole(seed: int = 1) -> tuple[bytes, Digest]:
    raw = bytes_of(drawn(MIB // 2, seed=seed))
    return raw, digest_of(raw)


def test_one_hit_is_enough_for_all_that_two_chunks_have_in_common() -> None:
    raw, base = whole()
    changed = bytearray(raw[2000:])
    for row in range(20_000, 1_000_000, 50_000):
        changed[row : row + 400] = bytes(400)

    plan = find_copies(changed, 2, [Hit(5000, base, 7000)], {base: raw}.get)

    assert plan is not None
    assert plan.bases == (base,)
    assert [(at.start, at.base_start) for at in plan.recipe.ranges] == [(0, 2000)]
    assert plan.reused_bytes >= len(changed) - 20 * 408
    assert rebuilt(bytes(changed), plan, {base: raw}) == changed


def test_a_false_hit_gives_no_plan() -> None:
    raw, base = whole()
    other, _ = whole(2)

    assert find_copies(other, 2, [Hit(5000, base, 7000)], {base: raw}.get) is None
    assert find_copies(other, 2, [Hit(0, base, 2 * MIB), Hit(MIB, base, 0)], {base: raw}.get) is None
    assert find_copies(other, 2, [], {base: raw}.get) is None


def test_a_base_that_cannot_be_had_is_done_without() -> None:
    raw, base = whole()
    gone = digest_of(b"gone")

    plan = find_copies(raw, 2, [Hit(0, gone, 0), Hit(9, gone, 9), Hit(80, base, 80)], {base: raw}.get)

    assert plan is not None
    assert plan.bases == (base,)


def test_a_crowd_of_false_hits_costs_a_bounded_number_of_reads() -> None:
    raw, _ = whole()
    reads = []

    def read_base(digest: Digest) -> bytes:
        reads.append(digest)
        return bytes_of(drawn(MIB // 2, seed=len(reads) + 5))

    hits = [Hit(1000 * n, digest_of(bytes([n % 250, n // 250])), 512 * k) for n in range(1000) for k in range(3)]

    assert find_copies(raw, 2, hits, read_base) is None
    assert len(reads) <= MAX_READS


def test_a_chunk_of_many_objects_takes_sixteen_ranges_and_the_largest() -> None:
    parts = [bytes_of(drawn(n * 1000, seed=n)) for n in range(5, 25)]
    bases = {digest_of(part): part for part in parts}
    raw = b"".join(parts)
    starts = np.cumsum([0, *map(len, parts)])
    hits = [Hit(int(start), digest_of(part), 0) for start, part in zip(starts, parts, strict=False)]

    plan = find_copies(raw, 2, hits, bases.get)

    assert plan is not None
    assert len(plan.recipe.ranges) == 16
    assert plan.reused_bytes == sum(sorted(map(len, parts))[-16:])
    assert rebuilt(raw, plan, bases) == raw


def test_a_chunk_with_changes_everywhere_keeps_to_the_limit_of_patches() -> None:
    raw, base = whole()
    changed = bytearray(raw)
    for row in range(0, MIB, 2048):
        changed[row : row + 4] = b"\0\1\2\3"

    plan = find_copies(changed, 2, [Hit(2100, base, 2100)], {base: raw}.get)

    assert plan is not None
    assert len(plan.recipe.patches) <= copies.MAX_PATCHES
    assert rebuilt(bytes(changed), plan, {base: raw}) == changed


def test_patches_are_whole_elements() -> None:
    raw = np.frombuffer(np.random.default_rng(1).bytes(MIB), "<u4").copy()
    base = digest_of(raw.tobytes())
    changed = raw.copy()
    changed[50_000] ^= 0x00FF0000

    plan = find_copies(changed.tobytes(), 4, [Hit(0, base, 0)], {base: raw.tobytes()}.get)

    assert plan is not None
    assert plan.recipe.patches == ((200_000, 4),)
    assert plan.has(0, 200_000)
    assert not plan.has(199_000, 1001)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_whatever_the_hits_a_plan_gives_the_chunk(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    bases = {}
    for number in range(data.draw(st.integers(1, 4))):
        raw = bytes_of(drawn(int(rng.integers(1, 60_000)), seed=number))
        bases[digest_of(raw)] = raw
    pieces = []
    for base in data.draw(st.lists(st.sampled_from(list(bases)), min_size=1, max_size=6)):
        start = data.draw(st.integers(0, len(bases[base])))
        pieces += [
            bases[base][start : start + data.draw(st.integers(0, 50_000))],
            rng.bytes(int(rng.integers(0, 3000))),
        ]
    raw = b"".join(pieces)
    offsets = st.integers(0, 120_000)
    hits = data.draw(
        st.lists(st.builds(Hit, offsets, st.sampled_from(list(bases)), offsets), max_size=30) | st.just([])
    )
    starts = np.cumsum([0, *map(len, pieces)]).tolist()
    true = [
        Hit(start, base, other.index(piece[:64]))
        for start, piece in zip(starts, pieces, strict=False)
        for base, other in bases.items()
        if len(piece) > 64 and piece[:64] in other
    ]

    plan = find_copies(raw, 2, hits + true, bases.get)

    if plan is None:
        assert hits or max(map(len, pieces)) < max(7000, len(raw) // 16 + 2000)
    else:
        assert rebuilt(raw, plan, bases) == raw
        assert plan.reused_bytes == len(raw) - sum(patch.nbytes for patch in plan.recipe.patches)


Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model() -> Weights:
    """A transformer in bfloat16 with sizes that fit no grid."""
    width, inner = 712, 1900
    made = {"embed": drawn(3001, width, seed=2)}
    for layer in range(2):
        for seed, name in enumerate("qkvo"):
            made[f"{layer}.{name}"] = drawn(width, width, seed=10 * layer + seed + 10)
        made |= {
            f"{layer}.gate": drawn(inner, width, seed=layer + 50),
            f"{layer}.up": drawn(inner, width, seed=layer + 60),
        }
        made |= {f"{layer}.down": drawn(width, inner, seed=layer + 70), f"{layer}.norm": drawn(width, seed=layer + 80)}
    return made


def chunks_of(weights: Weights) -> Iterator[bytes]:
    for tensor in weights.values():
        raw = tensor.tobytes()
        for length in grid_lengths("bfloat16", tensor.shape):
            yield raw[:length]
            raw = raw[length:]


def reused_share(base: Weights, made: Weights, backend: MemoryBackend | None = None) -> float:
    """Return which share of the second weights a store that has the first finds again; decodes all of it."""
    known = {digest_of(raw): raw for raw in chunks_of(base)}
    table = AnchorTable(backend or MemoryBackend())
    for digest, raw in known.items():
        table.add(digest, to_remember(anchors_of(raw, 2), len(raw)))
    table.flush()
    reused = total = 0
    for raw in chunks_of(made):
        total += len(raw)
        if digest_of(raw) in known:
            reused += len(raw)
            continue
        plan = find_copies(raw, 2, table.find(anchors_of(raw, 2)), known.get)
        if plan is not None:
            assert rebuilt(raw, plan, known) == raw
            assert len(plan.recipe.ranges) <= 16
            reused += plan.reused_bytes
    return reused / total


def with_rows(model: Weights, row: int, rows: int) -> Weights:
    embed = model["embed"]
    return model | {"embed": np.concatenate([embed[:row], drawn(rows, embed.shape[1], seed=99), embed[row:]])}


def flat(model: Weights, ranks: int) -> Weights:
    whole = np.concatenate([tensor.reshape(-1) for tensor in model.values()])
    whole = np.concatenate([whole, np.zeros(-whole.size % ranks, np.uint16)])
    return {f"rank {rank}": part for rank, part in enumerate(whole.reshape(ranks, -1))}


def rows_changed(model: Weights) -> Weights:
    made = {name: tensor.copy() for name, tensor in model.items()}
    for tensor in made.values():
        if tensor.ndim == 2:
            tensor[np.random.default_rng(3).choice(len(tensor), len(tensor) // 100, replace=False)] ^= 1
    return made


CASES = {
    "a row inserted in the middle of an embedding": lambda model: with_rows(model, 1501, 1),
    "a vocabulary extended at the end": lambda model: with_rows(model, 3001, 7),
    "a vocabulary extended at the beginning": lambda model: with_rows(model, 0, 7),
    "fused qkv and gate_up": lambda model: {
        name: np.concatenate([model[f"{layer}.{part}"] for part in parts])
        for layer in range(2)
        for name, parts in ((f"{layer}.qkv", "qkv"), (f"{layer}.gate_up", ["gate", "up"]))
    },
    "tensor-parallel splits": lambda model: {
        f"{name} {rank}": part
        for name, tensor in model.items()
        if tensor.ndim == 2
        for rank, part in enumerate(np.array_split(tensor, 2))
    },
    "FSDP flat parameters": lambda model: flat(model, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_moved_joined_or_split_is_found_again(case, model) -> None:
    assert reused_share(model, CASES[case](model)) >= 0.98


@pytest.mark.parametrize("case", ["fused qkv and gate_up", "tensor-parallel splits", "FSDP flat parameters"])
def test_what_was_joined_or_split_is_found_when_it_is_undone(case, model) -> None:
    made = {name: tensor for name, tensor in model.items() if tensor.nbytes > 64 << 10}
    if case.startswith("fused"):
        made = {name: tensor for name, tensor in made.items() if name[2:] in ("q", "k", "v", "gate", "up")}

    assert reused_share(CASES[case](model), made) >= 0.98


def test_all_but_the_changed_rows_is_found_where_one_percent_of_rows_changed(model) -> None:
    assert reused_share(model, rows_changed(model)) >= 0.98 * 0.99


def test_weights_that_have_nothing_in_common_share_nothing(model) -> None:
    assert reused_share(model, {"other": drawn(3001, 712, seed=500)}) == 0
