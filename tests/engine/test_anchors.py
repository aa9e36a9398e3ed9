"""Anchors: chosen by content, few, and the same wherever the content lies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.representations.anchors import IDENTITY_BYTES, MEAN_BYTES, MIN_CHUNK_BYTES, anchors_of, to_remember

MIB = 1 << 20


def weights(word_bytes: int, nbytes: int, seed: int = 1) -> bytes:
    """Return bits as trained weights have them: float32, bfloat16 or int8, by their width."""
    rng = np.random.default_rng(seed)
    floats = (rng.standard_normal(nbytes // word_bytes) * 0.02).astype(np.float32)
    if word_bytes == 4:
        return floats.tobytes()
    if word_bytes == 2:
        return (floats.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return (floats * 2000).clip(-127, 127).astype(np.int8).tobytes()


@pytest.mark.parametrize("item_bytes", [1, 2, 4])
def test_a_shifted_chunk_has_the_same_anchors_where_it_has_the_same_bytes(item_bytes) -> None:
    raw = weights(item_bytes, MIB)
    before = {anchor.identity: anchor.offset for anchor in anchors_of(raw, item_bytes)}

    for shift in (item_bytes, 3 * item_bytes, 4097 * item_bytes):
        after = {anchor.identity: anchor.offset for anchor in anchors_of(raw[shift:], item_bytes)}

        assert after == {identity: offset - shift for identity, offset in before.items() if offset >= shift}


@pytest.mark.parametrize("item_bytes", [1, 2, 4, 8])
def test_weights_have_about_as_many_anchors_as_intended(item_bytes) -> None:
    count = sum(len(anchors_of(weights(min(item_bytes, 4), MIB, seed), item_bytes)) for seed in range(4))

    assert 0.6 < count * MEAN_BYTES / (4 * MIB) < 1.5


def test_float32_cast_from_a_narrower_type_has_anchors_too() -> None:
    cast = (np.frombuffer(weights(2, MIB // 2), np.uint16).astype(np.uint32) << 16).tobytes()

    assert 0.6 < len(anchors_of(cast, 4)) * MEAN_BYTES / MIB < 1.5


def test_the_identity_is_of_the_bytes_that_follow() -> None:
    import xxhash

    raw = weights(4, MIB)

    anchors = anchors_of(raw, 4)

    assert anchors
    for offset, identity in anchors:
        assert identity == xxhash.xxh3_64_intdigest(raw[offset : offset + IDENTITY_BYTES])
        assert offset % 4 == 0


POOR = {
    "zeros": bytes(MIB),
    "ones": b"\xff" * MIB,
    "float32 one": np.ones(MIB // 4, np.float32).tobytes(),
    "the product's inverse, so that every word would be chosen": np.full(
        MIB // 4, -2 * pow(0x9E3779B2 // 2, -1, 1 << 31) % (1 << 31), np.uint32
    ).tobytes(),
    "a period of 8": bytes(range(8)) * (MIB // 8),
    "a period of 5 KiB": np.random.default_rng(1).bytes(5 << 10) * 204,
    "bytes of one bit": np.random.default_rng(1).integers(0, 2, MIB, np.uint8).tobytes(),
    "counting": np.arange(MIB // 8).tobytes(),
}


@pytest.mark.parametrize("item_bytes", [1, 2, 4])
@pytest.mark.parametrize("content", POOR)
def test_poor_content_has_a_bounded_number_of_anchors(content, item_bytes) -> None:
    anchors = anchors_of(POOR[content], item_bytes)

    assert len(anchors) <= 257
    assert len({anchor.identity for anchor in anchors}) == len(anchors)


def test_short_chunks_have_none() -> None:
    assert anchors_of(b"", 4) == []
    assert anchors_of(weights(4, MIN_CHUNK_BYTES)[:-1], 4) == []


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    length=st.integers(MIN_CHUNK_BYTES, 300_000),
    item_bytes=st.sampled_from([1, 2, 3, 4, 8, 16]),
    start=st.integers(0, 9),
)
def test_any_length_and_alignment_gives_anchors_within_the_chunk(seed, length, item_bytes, start) -> None:
    raw = memoryview(np.random.default_rng(seed).bytes(length + start))[start:]

    anchors = anchors_of(raw, item_bytes)

    assert anchors == sorted(anchors)
    assert all(0 <= anchor.offset < length - IDENTITY_BYTES for anchor in anchors)
    assert anchors == anchors_of(bytes(raw), item_bytes)


@pytest.mark.parametrize("nbytes", [MIN_CHUNK_BYTES, 64 << 10, 96 << 10, 200_000, MIB, 2 * MIB])
def test_what_is_remembered_takes_a_twentieth_of_a_percent_at_most_and_of_short_chunks_four_times_that(nbytes) -> None:
    for raw in (weights(4, nbytes), (POOR["a period of 5 KiB"] * 2)[:nbytes]):
        anchors = anchors_of(raw, 4)
        takes = [
            32 + 16 * len(chosen) if chosen else 0
            for chosen in (to_remember(anchors, nbytes), to_remember(anchors, nbytes, stored_bytes=nbytes // 40))
        ]

        assert takes[0] <= nbytes * (0.0005 if nbytes >= MIB else 0.002)
        assert takes[1] <= nbytes * (0.0005 if nbytes >= MIB else 0.001)


def test_of_a_short_chunk_hardly_an_eighth_is_without() -> None:
    raw = weights(4, 288 << 10)
    eighth = len(raw) // 8

    found = {anchor.offset // eighth for anchor in to_remember(anchors_of(raw, 4), len(raw))}

    assert len(found) >= 7


def test_what_is_remembered_leaves_no_long_range_without() -> None:
    raw = weights(4, MIB)
    offsets = [0, *(anchor.offset for anchor in to_remember(anchors_of(raw, 4), MIB)), MIB]

    assert max(np.diff(offsets)) < 110 << 10
    assert len(offsets) > 18
