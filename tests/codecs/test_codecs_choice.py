"""Which codec is taken, and how small chunks become: the figures that the design promises."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from thetastore.codecs import CODEC_NAMES, encode
from thetastore.dtypes import DTYPES

MINILM_BF16 = Path(__file__).parents[3] / "shared/data/minilm.bf16.safetensors"


def ratio(raw: bytes, dtype: str | None) -> float:
    return len(encode(raw, dtype).stored) / len(raw)


@pytest.mark.parametrize("pattern", [b"\0", b"\x80\x3f", b"\0\0\x80\x3f", b"abc", bytes(range(16))])
@pytest.mark.parametrize("dtype", ["float32", "complex128", None])
def test_a_repeated_pattern_is_stored_once(pattern, dtype) -> None:
    coded = encode((pattern * 100_000)[: (1 << 20) + 1], dtype)

    assert (coded.codec, bytes(coded.stored)) == ("constant", pattern)


def test_a_pattern_that_breaks_off_is_not_constant() -> None:
    for place in (32, 40_000, 99_999):
        raw = bytearray(100_000)
        raw[place] = 1

        assert encode(raw, None).codec == "zstd"


def test_noise_is_kept_as_it_is_without_a_copy() -> None:
    raw = np.random.default_rng(3).bytes(100_000)
    for dtype in [*DTYPES, None]:
        coded = encode(raw, dtype)

        assert coded.codec == "literal"
        assert memoryview(coded.stored).obj is raw


@pytest.mark.parametrize(
    ("dtype", "at_most"),
    [("bfloat16", 0.67), ("float32", 0.835), ("float16", 0.85), ("float64", 0.50), ("float8_e5m2", 0.71)],
)
def test_trained_weights_become_as_small_as_their_entropy_allows(dtype, at_most, weights_of) -> None:
    raw = weights_of(dtype, 200_000)

    coded = encode(raw, dtype)

    assert coded.codec == "planes"
    assert len(coded.stored) <= at_most * len(raw)


def test_float32_that_holds_bfloat16_costs_no_more_than_bfloat16(weights_of) -> None:
    narrow = np.frombuffer(weights_of("bfloat16", 200_000), np.uint16)
    wide = (narrow.astype(np.uint32) << 16).tobytes()

    assert len(encode(wide, "float32").stored) <= 1.001 * len(encode(narrow.tobytes(), "bfloat16").stored)


def test_complex_numbers_are_coded_as_their_floats(weights_of) -> None:
    raw = weights_of("float32", 100_000)

    assert bytes(encode(raw, "complex64").stored) == bytes(encode(raw, "float32").stored)


def test_integers_take_whichever_is_smaller() -> None:
    rng = np.random.default_rng(5)
    spread = (rng.standard_normal(200_000) * 12).astype(np.int8).tobytes()
    drawn = rng.choice(rng.integers(0, 1 << 62, 100), 100_000).tobytes()
    tiled = np.tile(rng.integers(0, 1 << 62, 500), 300).tobytes()

    assert encode(spread, "int8").codec == "planes"
    assert encode(drawn, "int64").codec == "zstd"
    assert ratio(drawn, "int64") < 0.3
    assert ratio(tiled, "int64") < 0.01


def test_masks_become_tiny() -> None:
    mask = np.tril(np.ones((1024, 1024), np.bool_)).tobytes()

    assert ratio(mask, "bool") < 0.02


def test_an_unknown_element_type_is_opaque() -> None:
    raw = b"no such type, no such type" * 100

    assert encode(raw, "float128").codec == "zstd"


def test_released_names_fit_their_field() -> None:
    assert CODEC_NAMES[:5] == ("literal", "constant", "zstd", "planes", "difference")


@pytest.mark.skipif(not os.path.exists(MINILM_BF16), reason=f"real weights are not here: {MINILM_BF16}")
def test_real_bfloat16_weights_take_no_more_than_two_thirds() -> None:
    with open(MINILM_BF16, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header_bytes)
        chunks = [file.read(1 << 20) for _ in range(12)]

    stored_bytes = sum(len(encode(chunk, "bfloat16").stored) for chunk in chunks)

    assert stored_bytes <= 0.67 * sum(map(len, chunks))
