"""Files of differences: what is written, and what of it is believed."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from thetastore.arrays import WritableTensor, writable_tensor
from thetastore.errors import MalformedError, ThetaError
from thetastore.pool import Pool
from thetastore.publishing.differences import (
    PIECE_BYTES,
    DifferenceSource,
    apply,
    changes_of,
    check_fits,
    first_wrong,
    parse_difference,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "format" / "weight-differences.md"
State = dict[str, np.ndarray]


def targets(state: State) -> dict[str, WritableTensor]:
    return {name: writable_tensor(name, value) for name, value in state.items()}


def difference(before: State, after: State, base_number: int = 1) -> bytes:
    changed, stored = [], []
    with Pool() as pool:
        for name, target in targets(after).items():
            base = writable_tensor(name, before[name]).raw
            one, payloads = changes_of(name, target.dtype, target.shape, target.raw, base, pool)
            changed.append(one)
            stored += payloads
    source, found, buffer = DifferenceSource(base_number, changed, stored), bytearray(), memoryview(bytearray(1 << 16))
    while count := source.readinto(buffer):
        found += buffer[:count]
    return bytes(found)


def applied(raw: bytes, state: State) -> str | None:
    """Apply a file in place; return the name of a tensor that is wrong afterwards."""
    with Pool() as pool:
        parsed = parse_difference(memoryview(raw), "x")
        check_fits(parsed, targets(state), "x")
        apply(parsed, targets(state), pool)
        return first_wrong(parsed, targets(state), pool)


def two() -> tuple[State, State]:
    rng = np.random.default_rng(1)
    before = {"a": rng.standard_normal((600, 700), np.float32), "b": rng.integers(0, 9, 77, np.int8)}
    after = {name: value.copy() for name, value in before.items()}
    after["a"][::9, ::7] += 1
    after["b"][5] += 1
    return before, after


def test_steps_of_some_rows_of_a_matrix_take_less_than_those_of_as_many_elements_without_rows() -> None:
    rng = np.random.default_rng(6)
    before = rng.normal(0, 0.02, (2048, 512)).astype(np.float16)
    moved = (rng.random((2048, 1)) < 0.25) & (rng.random(before.shape) < 0.3)
    # As gradients are: products of a number for the row and one for the column.
    signs = rng.choice([-1, 1], (2048, 1)) * rng.choice([-1, 1], 512) * np.where(before < 0, -1, 1)
    after = (before.view(np.uint16) + moved * signs).astype(np.uint16).view(np.float16)
    vector = {"w": after.reshape(-1).copy()}

    of_matrix, of_vector = difference({"w": before}, {"w": after}), difference({"w": before.reshape(-1)}, vector)

    assert len(of_matrix) < 0.95 * len(of_vector)
    state = {"w": before.copy()}
    assert applied(of_matrix, state) is None
    assert state["w"].tobytes() == after.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "complex64"])
def test_any_change_of_any_type_is_applied_bit_by_bit(dtype: str, share: float) -> None:
    rng = np.random.default_rng(2)
    count = 2 * PIECE_BYTES // np.dtype(dtype).itemsize + 13
    before = {"w": rng.integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8).view(dtype)}
    after = {"w": before["w"].copy()}
    raw = after["w"].view("u1")
    chosen = rng.random(raw.size) < share
    raw[chosen] = rng.integers(0, 256, np.count_nonzero(chosen), np.uint8)

    encoded = difference(before, after)

    assert applied(encoded, before) is None
    assert before["w"].tobytes() == after["w"].tobytes()
    assert len(encoded) < after["w"].nbytes * 1.001 + 500


def test_damage_is_refused_or_seen_by_the_digests() -> None:
    before, after = two()
    sound = difference(before, after)
    rng = random.Random(3)
    outcomes = set()
    for number in range(600):
        raw = bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(500 if number % 2 else len(raw))] = rng.randrange(256)
        if number % 5 == 0:
            del raw[rng.randrange(len(raw)) :]
        state = {name: value.copy() for name, value in before.items()}
        try:
            wrong = applied(bytes(raw), state)
        except ThetaError:
            outcomes.add("refused")
            continue
        outcomes.add("seen" if wrong else "none")
        assert wrong or bytes(raw) == sound or all(np.array_equal(state[name], after[name]) for name in state)

    assert {"refused", "seen"} <= outcomes


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"from":1', b'"from":"'),
        (b'"name":"a"', b'"name":"c"'),
        (b'"name":"b"', b'"name":"a"'),
        (b'"shape":[600,700]', b'"shape":[700,600]'),
        (b'"shape":[600,700]', b'"shape":[600,-70]'),
        (b'"dtype":"int8"', b'"dtype":"int9"'),
        (b'["difference"', b'["copies....."'),
        (b'"pieces":[[', b'"pieces":[0,['),
        (b'"tensors":[{', b'"tensors":{[{'),
    ],
)
def test_a_table_that_breaks_a_rule_is_refused_before_anything_changes(old: bytes, new: bytes) -> None:
    before, after = two()
    sound = difference(before, after)
    start = 40 + int.from_bytes(sound[32:40], "little")
    table = sound[40:start].replace(old, new, 1)
    assert table != sound[40:start]
    state = {name: value.copy() for name, value in before.items()}

    with pytest.raises(MalformedError):
        applied(sound[:32] + len(table).to_bytes(8, "little") + table + sound[start:], state)

    assert all(np.array_equal(state[name], before[name]) for name in state)


def test_a_length_that_is_not_so_takes_no_memory() -> None:
    sound = difference(*two())

    for length in (0, 1 << 40, (1 << 64) - 1, len(sound)):
        with pytest.raises(MalformedError):
            parse_difference(memoryview(sound[:32] + length.to_bytes(8, "little") + sound[40:]), "x")


def test_the_example_of_the_document_is_what_is_written() -> None:
    dump = "".join(re.findall(r"^    [0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)$", DOCUMENT.read_text(), re.MULTILINE))
    before = {"w": np.array([1, 2, 3, 4], np.uint8)}

    assert bytes.fromhex(dump) == difference(before, {"w": np.array([1, 2, 3, 9], np.uint8)}, 7)
