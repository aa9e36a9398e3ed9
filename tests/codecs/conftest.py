"""Chunks of every kind, made from a seed: what the codecs' tests code and decode."""

from __future__ import annotations

import numpy as np
import pytest

from thetastore.codecs import Coded, decode, encode

SPECIAL_FLOAT32 = [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7FA00001, 0xFFFFFFFF, 0x00000001]
"""Zeros, infinities, quiet and signalling NaNs with payloads, a denormal: as bits."""


def weights_of(dtype: str, element_count: int, seed: int = 1) -> bytes:
    """Return weights as trained models have them: normal, narrow, with a few special values."""
    rng = np.random.default_rng(seed)
    floats = (rng.standard_normal(element_count) * 0.02).astype(np.float32)
    special = np.array(SPECIAL_FLOAT32, dtype=np.uint32).view(np.float32)[:element_count]
    floats[: special.size] = special
    if dtype == "bfloat16":
        return (floats.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if dtype.startswith("float8"):
        return floats.astype(np.float16).view(np.uint8)[1::2].tobytes()
    with np.errstate(invalid="ignore"):
        return floats.astype(dtype).tobytes()


def roundtrip(raw: bytes, dtype: str | None) -> Coded:
    """Code `raw`, decode it again, and compare bit for bit."""
    coded = encode(raw, dtype)
    out = bytearray(b"\xa5" * len(raw))
    decode(coded.codec, coded.params, coded.stored, memoryview(out))
    assert bytes(out) == raw
    assert len(coded.stored) <= len(raw)
    return coded


@pytest.fixture(name="weights_of")
def weights_of_fixture():
    return weights_of


@pytest.fixture(name="roundtrip")
def roundtrip_fixture():
    return roundtrip
