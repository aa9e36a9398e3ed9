"""A chunk comes back bit for bit from its difference and its base, and the difference is as small as promised."""

from __future__ import annotations

import json
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore import chunking
from thetastore.codecs import Coded, decode, difference, directions, encode, encode_difference, ordered, places
from thetastore.dtypes import DTYPES

DATA = Path(__file__).parents[3] / "shared/data"
DTYPE_NAMES = [*DTYPES, None]
WIDTHS = {1: "uint8", 2: "bfloat16", 4: "float32", 8: "float64"}


def decoded(coded: Coded, base: bytes) -> bytes:
    out = bytearray(b"\xa5" * len(base))
    decode(coded.codec, coded.params, coded.stored, memoryview(out), [base])
    return bytes(out)


def payload_of(raw: bytes, base: bytes, dtype: str | None, monkeypatch: pytest.MonkeyPatch) -> memoryview:
    """Code without asking whether it promises to pay, so that every path is taken."""
    monkeypatch.setattr(difference, "_promises_to_pay", lambda *_: True)
    payload = difference.encode(memoryview(raw), memoryview(base), dtype)
    assert payload is not None
    return payload


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A base and a chunk: equal, unrelated, a little moved, moved in some places; with any special bytes strewn in."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    base = rng.standard_normal(draw(st.integers(64, 3000))).astype(np.float32)
    base = np.frombuffer(base.tobytes() + draw(st.binary(max_size=7)), np.uint8)
    kind = draw(st.sampled_from(["equal", "unrelated", "little", "few", "many"]))
    raw = base.copy()
    if kind == "unrelated":
        raw = rng.integers(0, 256, base.size, dtype=np.uint8)
    elif kind != "equal":
        share = {"little": 1.0, "few": 0.02, "many": 0.4}[kind]
        raw[::2] += (rng.integers(-3, 4, raw[::2].size) * (rng.random(raw[::2].size) < share)).astype(np.uint8)
    for _ in range(draw(st.integers(0, 4))):
        special = draw(
            st.sampled_from([b"\0\0\0\x80", b"\xff" * 8, b"\0\0\x80\x7f", b"\x80\xff", b"\0\x7c", b"\0" * 16])
        )
        place = draw(st.integers(0, raw.size - 16))
        raw[place : place + len(special)] = np.frombuffer(special, np.uint8)
    return base.tobytes(), raw.tobytes()


@settings(max_examples=400, deadline=None)
@given(pair=pairs(), dtype=st.sampled_from(DTYPE_NAMES), at=st.tuples(*[st.integers(0, 9)] * 3))
def test_any_bytes_of_any_element_type_come_back_from_any_address(pair, dtype, at) -> None:
    base, raw = (memoryview(bytes(offset) + part)[offset:] for offset, part in zip(at, pair, strict=False))
    target = bytearray(b"\xa5" * (at[2] + len(raw) + 3))

    coded = encode_difference(raw, base, dtype)

    if coded is not None:
        decode(coded.codec, coded.params, coded.stored, memoryview(target)[at[2] : at[2] + len(raw)], (base,))
        assert target == b"\xa5" * at[2] + bytes(raw) + b"\xa5" * 3
        assert len(coded.stored) < len(raw)


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.45, 0.7, 1.0])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 1023, 4099, 100_001])
def test_every_layout_comes_back_for_every_length(dtype, share, length, monkeypatch) -> None:
    rng = np.random.default_rng(length)
    raw = rng.integers(0, 256, length, dtype=np.uint8)
    base = np.where(rng.random(-(-length // 16)).repeat(16)[:length] < share, rng.integers(0, 256, length), raw)
    base = base.astype(np.uint8).tobytes()
    if dtype is not None and length < max(DTYPES[dtype].bits // 8, 1):
        return

    monkeypatch.setattr(difference, "_promises_to_pay", lambda *_: True)
    payload = difference.encode(memoryview(raw.tobytes()), memoryview(base), dtype)

    if payload is not None:  # complex128 of 8 bytes is one float64
        assert decoded(Coded("difference", b"", payload), base) == raw.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int16", "float8_e4m3fn", "bool"])
def test_every_bit_pattern_comes_back_from_every_neighbour_and_from_every_special_value(dtype, monkeypatch) -> None:
    width = 1 if DTYPES[dtype].bits == 8 else 2
    patterns = np.arange(1 << 8 * width).astype(f"<u{width}")
    raw = patterns.tobytes()
    specials = [0, 1, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x7FA1, 0xFFFF, 0x7C00, 0xFC00, 0x7F, 0x80, 0xFF]
    bases = [np.full_like(patterns, special & (1 << 8 * width) - 1) for special in specials]
    bases += [patterns + np.array(shift, patterns.dtype) for shift in (1, 127, 128)]
    bases += [patterns[::-1], np.random.default_rng(1).permutation(patterns)]
    for base in bases:
        payload = payload_of(raw, base.tobytes(), dtype, monkeypatch)

        assert decoded(Coded("difference", b"", payload), base.tobytes()) == raw


def in_order(differences: np.ndarray, base: np.ndarray, shift: int, tail: bytes, columns: int) -> bytes:
    """Return the payload in which elements are ordered by exponents, whether that is of use or not."""
    part = ordered.part_of(differences, differences != 0, base, columns)
    count = int(np.count_nonzero(differences))
    of_matrix, stored = ordered.encode(part, count, shift, memoryview(tail), base.nbytes + len(tail))
    return bytes((0, 2 + of_matrix, 2, shift)) + bytes(stored)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.6, 1.0])
def test_every_bit_pattern_comes_back_from_its_neighbours_in_the_order_of_exponents(dtype, share) -> None:
    rng = np.random.default_rng(6)
    base = np.arange(1 << 16).astype("<u2")
    shift = ordered.MANTISSA_BITS[dtype]
    for steps in (rng.integers(-2, 3, base.size), rng.integers(0, 1 << 16, base.size), np.ones(base.size, np.int64)):
        differences = (steps * (rng.random(base.size) < share)).astype("<u2")
        raw = (base + differences).tobytes() + b"!"

        for columns in (0, 16, 256):
            payload = in_order(differences, base, shift, b"!", columns)

            assert decoded(Coded("difference", b"", payload), base.tobytes() + b"?") == raw


@settings(max_examples=200, deadline=None)
@given(
    base=st.binary(min_size=2, max_size=3000),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, (1 << 16) - 1)), min_size=1, max_size=300),
    shift=st.integers(7, 14),
    columns=st.integers(0, 40),
    bits=st.none() | st.integers(0, 1 << 64),
)
def test_any_changes_of_any_elements_come_back_in_the_order_of_exponents(base, changes, shift, columns, bits) -> None:
    words = np.frombuffer(base, "<u2", len(base) // 2)
    differences = np.zeros_like(words)
    for place, difference_ in changes:
        differences[place % words.size] = difference_
    tail = base[words.nbytes :]
    with pytest.MonkeyPatch.context() as monkeypatch:
        if bits is not None:
            rng = np.random.default_rng(bits)
            monkeypatch.setattr(directions, "find", lambda *about: any_directions(rng, *about[-2:]))

        payload = in_order(differences, words, shift, tail, columns)

    assert decoded(Coded("difference", b"", payload), base) == (words + differences).tobytes() + tail


def any_directions(rng: np.random.Generator, columns: int, element_count: int) -> directions.Directions:
    of_rows, of_columns = (rng.integers(0, 2, count).astype("<u2") for count in (element_count // columns, columns))
    return directions.Directions(columns, of_rows, of_columns)


def small_steps(dtype: str, scale: float, weights_of) -> tuple[bytes, bytes]:
    """Weights, and what they become where all move by normal noise, in double precision, and are rounded again."""
    base = weights_of(dtype, 300_000)
    shift = ordered.MANTISSA_BITS[dtype]
    words = np.frombuffer(base, "<u2")
    units = np.exp2(np.maximum((words & 0x7FFF) >> shift, 1).astype(float) - np.float64((1 << 14 - shift) - 1 + shift))
    steps = np.rint(np.clip(np.random.default_rng(3).standard_normal(words.size) * scale / units, -300, 300))
    return base, (words + steps.astype(np.int64).astype("<u2")).astype("<u2").tobytes()


@pytest.mark.parametrize(("dtype", "scale"), [("bfloat16", 3e-5), ("float16", 4e-6)])
def test_steps_of_one_size_take_a_sixth_less_where_exponents_are_known(dtype, scale, weights_of, monkeypatch) -> None:
    base, raw = small_steps(dtype, scale, weights_of)
    coded = encode_difference(raw, base, dtype)
    assert coded is not None
    assert decoded(coded, base) == raw
    monkeypatch.setattr(ordered, "MANTISSA_BITS", {})

    without = encode_difference(raw, base, dtype)

    assert without is not None
    assert (coded.stored[1], without.stored[1]) == (2, 1)
    assert len(coded.stored) < len(without.stored) * 5 / 6


def test_for_archives_the_order_of_exponents_is_used_where_most_elements_changed_too(weights_of) -> None:
    base, raw = small_steps("bfloat16", 4e-4, weights_of)
    usual = encode_difference(raw, base, "bfloat16")

    thorough = encode_difference(raw, base, "bfloat16", is_thorough=True)

    assert usual is not None
    assert thorough is not None
    assert (usual.stored[1], thorough.stored[1]) == (0, 2)
    assert len(thorough.stored) < 0.9 * len(usual.stored)
    assert decoded(thorough, base) == raw


def outer_steps(weights_of, rows: int, columns: int) -> tuple[bytes, bytes]:
    """Weights, and what they become where four steps in five have the sign of their row times that of their column."""
    base, raw = small_steps("bfloat16", 3e-5, weights_of)
    words, moved_to = (np.frombuffer(some, "<u2")[: rows * columns].astype("<u2") for some in (base, raw))
    steps = np.abs((moved_to - words).astype("<i2"))
    rng = np.random.default_rng(4)
    directions_of = rng.choice([-1, 1], (rows, 1)) * rng.choice([-1, 1], (1, columns))
    signs = directions_of.reshape(-1) * np.where(rng.random(words.size) < 0.8, 1, -1) * np.where(words >> 15, -1, 1)
    return words.tobytes(), (words + (steps * signs).astype("<u2")).astype("<u2").tobytes()


def test_steps_with_the_signs_of_rows_and_columns_take_less_where_rows_are_known(weights_of) -> None:
    base, raw = outer_steps(weights_of, 600, 400)
    flat = encode_difference(raw, base, "bfloat16")

    coded = encode_difference(raw, base, "bfloat16", columns=400)

    assert coded is not None
    assert flat is not None
    assert decoded(coded, base) == raw
    changed_count = np.count_nonzero(np.frombuffer(raw, "<u2") != np.frombuffer(base, "<u2"))
    saved_bits = 8 * (len(flat.stored) - len(coded.stored))
    assert saved_bits > 0.2 * changed_count - 1000 > 0  # of .28 that there are, and a bit for each row and column


@pytest.mark.parametrize("columns", [7, 400, 401, 240_000, 1 << 40])
def test_rows_that_are_none_do_no_harm(columns, weights_of) -> None:
    base, raw = outer_steps(weights_of, 600, 400)

    coded = encode_difference(raw, base, "bfloat16", columns=columns)

    assert coded is not None
    assert decoded(coded, base) == raw


def test_rows_in_which_nothing_changed_cost_next_to_nothing(weights_of) -> None:
    base, raw = (np.frombuffer(some, "<u2").reshape(600, 400) for some in outer_steps(weights_of, 600, 400))
    trained = np.random.default_rng(5).random((600, 1)) < 0.1
    raw = np.where(trained, raw, base)
    alone = encode_difference(raw[trained[:, 0]].tobytes(), base[trained[:, 0]].tobytes(), "bfloat16", columns=400)

    coded = encode_difference(raw.tobytes(), base.tobytes(), "bfloat16", columns=400)

    assert coded is not None
    assert alone is not None
    assert decoded(coded, base.tobytes()) == raw.tobytes()
    assert len(coded.stored) < len(alone.stored) + 100


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", None])
@pytest.mark.parametrize("share", [0.0, 0.003, 1.0])
def test_what_is_coded_for_archives_comes_back_where_no_order_is_of_use(dtype, share, weights_of) -> None:
    base, raw = moved("bfloat16", share, weights_of)

    for length in (3000, 300_000):
        coded = encode_difference(raw[:length], base[:length], dtype, is_thorough=True)

        assert coded is not None
        assert decoded(coded, base[:length]) == raw[:length]


@settings(max_examples=200, deadline=None)
@given(
    width=st.sampled_from([4, 8]),
    elements=st.lists(st.tuples(*[st.integers(0, (1 << 64) - 1)] * 2), min_size=1, max_size=40),
    repeats=st.integers(1, 30),
)
def test_any_wide_bit_pattern_comes_back_from_any_other(width, elements, repeats) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        raw, base = (
            (np.array(column, np.uint64) >> np.uint64(64 - 8 * width)).astype(f"<u{width}").repeat(repeats).tobytes()
            for column in zip(*elements, strict=True)
        )

        payload = payload_of(raw, base, WIDTHS[width], monkeypatch)

        assert decoded(Coded("difference", b"", payload), base) == raw


def moved(dtype: str, share: float, weights_of) -> tuple[bytes, bytes]:
    """Weights, and the same after a share of them moved by some units in the last place."""
    raw = weights_of(dtype, 300_000)
    words = np.frombuffer(raw, f"<u{max(DTYPES[dtype].bits // 8, 1)}")
    rng = np.random.default_rng(9)
    steps = np.rint(rng.standard_normal(words.size) * 2).astype(np.int64) * (rng.random(words.size) < share)
    return raw, (words + steps.astype(words.dtype)).astype(words.dtype).tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "float8_e5m2"])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_weights_that_moved_a_little_cost_little(dtype, share, weights_of) -> None:
    base, raw = moved(dtype, share, weights_of)

    coded = encode_difference(raw, base, dtype)

    assert coded is not None
    assert decoded(coded, base) == raw
    # Where elements lie, at the entropy of a bit that is true for this share of them, and 4 bits for each step.
    bits = 4 * share - share * np.log2(share) - (1 - share) * np.log2(1 - share + 1e-9)
    assert 8 * len(coded.stored) <= 1.25 * bits * len(raw) / (len(base) / 300_000) + 2000


def test_decoding_in_place_over_the_base_gives_the_chunk(weights_of) -> None:
    for share in (0.01, 0.3, 1.0):
        base, raw = moved("bfloat16", share, weights_of)
        coded = encode_difference(raw, base, "bfloat16")
        memory = bytearray(base)

        decode(coded.codec, coded.params, coded.stored, memoryview(memory), [memory])

        assert memory == raw


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
def test_planes_of_few_values_take_less_than_a_bit_an_element_each(dtype) -> None:
    rng = np.random.default_rng(2)
    width = DTYPES[dtype].bits // 8
    base = rng.integers(0, 200, (300, 256)).astype(f"<u{width}")
    raw = base + np.where(base < 150, 80, 120).astype(base.dtype)  # weight decay alone
    raw[::50] = rng.integers(0, 255, (6, 256))  # rows that were trained

    coded = encode_difference(raw, base, dtype)

    assert coded is not None
    assert decoded(coded, base.tobytes()) == raw.tobytes()
    assert 8 * len(coded.stored) < 1.3 * base.size


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "int8", None])
def test_an_unrelated_base_is_refused(dtype, weights_of) -> None:
    kind = dtype if dtype and dtype.startswith(("float", "bfloat")) else "float32"

    coded = encode_difference(weights_of(kind, 300_000, 1), weights_of(kind, 300_000, 2), dtype)

    assert coded is None


def test_a_base_of_another_length_and_a_tiny_chunk_are_refused() -> None:
    assert encode_difference(bytes(4000), bytes(4001), "float32") is None
    assert encode_difference(bytes(4000), b"", "float32") is None
    assert encode_difference(b"", b"", "float32") is None
    assert encode_difference(bytes(100), b"\1" + bytes(99), "float32") is None


def test_an_equal_chunk_costs_some_bytes() -> None:
    raw = np.random.default_rng(1).bytes(1 << 20)

    coded = encode_difference(raw, raw, "float32")

    assert coded is not None
    assert len(coded.stored) < 50
    assert decoded(coded, raw) == raw


def test_threads_do_not_disturb_each_other(weights_of) -> None:
    jobs = [(dtype, share) for dtype in ("bfloat16", "float32") for share in (0.01, 0.3, 1.0)] * 4
    made = {job: moved(*job, weights_of) for job in jobs}

    def comes_back(job: tuple[str, float]) -> bool:
        base, raw = made[job]
        coded = encode_difference(raw, base, job[0])
        return coded is not None and decoded(coded, base) == raw

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(comes_back, jobs))


def chunks_of(path: Path) -> list[tuple[str, bytes]]:
    """Return the chunks of a safetensors file's tensors, cut as thetastore cuts them."""
    names = {"BF16": "bfloat16", "F32": "float32", "I64": "int64"}
    raw = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    chunks = []
    for tensor in header.values():
        position = 8 + header_bytes + tensor["data_offsets"][0]
        for length in chunking.grid_lengths(names[tensor["dtype"]], tuple(tensor["shape"])):
            chunks.append((names[tensor["dtype"]], raw[position : position + length]))
            position += length
    return chunks


@pytest.mark.skipif(not os.path.exists(DATA / "minilm-finetuned.bf16.safetensors"), reason=f"no real weights in {DATA}")
def test_a_real_fine_tune_takes_the_share_that_the_design_promises() -> None:
    raw_bytes = stored_bytes = 0
    for (dtype, base), (_, raw) in zip(
        chunks_of(DATA / "minilm.bf16.safetensors"), chunks_of(DATA / "minilm-finetuned.bf16.safetensors"), strict=True
    ):
        candidates = [coded for coded in (encode(raw, dtype), encode_difference(raw, base, dtype)) if coded is not None]
        stored_bytes += min(len(coded.stored) for coded in candidates)
        raw_bytes += len(raw)

    assert stored_bytes <= 0.135 * raw_bytes


def test_planes_of_so_few_elements_that_a_frame_is_as_long_come_back() -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        base = rng.integers(0, 256, 4000, dtype=np.uint8)
        raw = base.copy()
        raw[: int(rng.integers(14, 64))] += rng.integers(1, 3 + seed % 4, 1, dtype=np.uint8)
        raw[: int(rng.integers(14, 64)) : int(rng.integers(1, 4))] += np.uint8(1)

        coded = encode_difference(raw, base, None)

        assert coded is not None
        assert decoded(coded, base.tobytes()) == raw.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.019, 0.021, 0.05, 0.099, 0.101, 0.3, 1.0])
@pytest.mark.parametrize("element_count", [8, 4096, 100_000])
def test_places_are_found_and_come_back_at_every_share(share, element_count) -> None:
    rng = np.random.default_rng(element_count)
    is_named = rng.permutation(element_count) < share * element_count
    expected = np.flatnonzero(is_named)

    assert (places.find(is_named, expected.size) == expected).all()
    if expected.size:
        coding, stored = places.encode(is_named, expected)
        assert (places.decode(memoryview(stored), coding, expected.size, element_count) == expected).all()
