"""The grid and the content-defined cuts against docs/format/chunking.md."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thetastore.chunking import (
    CONTENT_MAX_BYTES,
    CONTENT_MIN_BYTES,
    EDGE_BYTES,
    GRID_BYTES,
    content_cut,
    grid_lengths,
)
from thetastore.dtypes import DTYPES, raw_bytes_of

shapes = st.lists(st.integers(0, 5000), max_size=3).map(tuple).filter(lambda s: math.prod(s) < 3e7)


@pytest.mark.parametrize(
    ("dtype", "shape", "lengths"),
    [
        ("float32", (30522, 384), [786_432] * 59 + [482_304]),
        ("float32", (384, 1536), [786_432] * 3),
        ("float32", (384,), [1536]),
        ("bfloat16", (8, 4096, 4096), [1 << 20] * 256),
        ("float32", (3, 270_000), [1_080_000] * 3),
        ("float32", (), [4]),
        ("float32", (0, 5), []),
        ("float4_e2m1fn", (3, 3), [5]),
        ("float4_e2m1fn", (4096, 4096), [1 << 20] * 8),
        ("gguf_q4_0", (4096, 4096), [589_824] * 16),
        ("gguf_q8_0", (64,), [68]),
    ],
)
def test_the_documented_examples_are_cut_as_documented(dtype, shape, lengths):
    assert list(grid_lengths(dtype, shape)) == lengths


@given(st.sampled_from(sorted(DTYPES)), shapes)
def test_the_chunks_of_a_span_add_up_to_it_and_stay_within_the_limit(dtype, shape):
    lengths = list(grid_lengths(dtype, shape))

    assert sum(lengths) == raw_bytes_of(dtype, math.prod(shape))
    assert all(0 < length < GRID_BYTES + EDGE_BYTES for length in lengths)


def test_appended_rows_leave_the_boundaries_before_them():
    before = list(grid_lengths("float32", (50_000, 128)))
    after = list(grid_lengths("float32", (50_300, 128)))

    assert after[: len(before) - 1] == before[:-1]


def test_a_shape_that_claims_a_million_terabytes_costs_nothing_until_it_is_read():
    lengths = grid_lengths("float32", (1 << 40, 1 << 18))

    assert next(lengths) == 1 << 20


def slow_cut(raw: bytes) -> int:
    """The rule of the document, word by word."""
    raw = raw[:CONTENT_MAX_BYTES]
    for start in range(CONTENT_MIN_BYTES - 8, len(raw) - 7):
        word = int.from_bytes(raw[start : start + 8], "little")
        if word * 0x9E3779B97F4A7C15 % 2**64 >= 0xFFFF000000000000:
            return start + 8
    return len(raw)


@pytest.mark.parametrize("seed", range(8))
def test_content_is_cut_where_the_document_says(seed):
    raw = np.random.default_rng(seed).bytes(20_000 + 37_123 * seed)

    assert content_cut(raw, is_end=True) == slow_cut(raw)


def test_a_cut_at_the_very_first_and_last_possible_place_is_found():
    mark = next(
        w for n in range(1 << 20) if (w := n.to_bytes(8, "little")) and n * 0x9E3779B97F4A7C15 % 2**64 >= 0xFFFF << 48
    )
    for length in (CONTENT_MIN_BYTES, CONTENT_MIN_BYTES + 1, CONTENT_MIN_BYTES + 32_768, CONTENT_MAX_BYTES):
        raw = bytes(length - 8) + mark + bytes(1)

        assert content_cut(raw, is_end=True) == length


def test_zeros_are_cut_at_the_longest_length():
    assert content_cut(bytes(300_000), is_end=True) == CONTENT_MAX_BYTES


@given(st.integers(0, CONTENT_MIN_BYTES))
def test_a_short_gap_is_one_chunk_and_waits_for_its_end(length):
    assert content_cut(bytes(length), is_end=True) == length
    assert content_cut(bytes(length), is_end=False) is None


def test_inserted_bytes_shift_only_a_neighbourhood():
    raw = np.random.default_rng(1).bytes(3 << 20)

    def chunks(content: bytes) -> set[bytes]:
        found, start = set(), 0
        while start < len(content):
            window = content[start : start + CONTENT_MAX_BYTES]
            cut = content_cut(window, start + CONTENT_MAX_BYTES >= len(content))
            assert cut is not None
            found.add(window[:cut])
            start += cut
        return found

    before, after = chunks(raw), chunks(raw[:1_500_000] + b"inserted" + raw[1_500_000:])

    assert len(after - before) <= 2
