"""Any bytes under any element type come back bit for bit, wherever they lie and whoever asks."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.codecs import decode, encode
from thetastore.dtypes import DTYPES

DTYPE_NAMES = [*DTYPES, None]


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """Patterns, noise, numbers and mixtures of them, often longer than the least that planes take."""
    pieces = []
    for kind in draw(st.lists(st.sampled_from(["bytes", "repeated", "noise", "normal", "counted"]), max_size=4)):
        if kind == "bytes":
            pieces.append(draw(st.binary(max_size=40)))
        elif kind == "repeated":
            pieces.append(draw(st.binary(min_size=1, max_size=20)) * draw(st.integers(1, 300)))
        else:
            rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
            count = draw(st.integers(0, 3000))
            pieces.append(
                rng.bytes(count)
                if kind == "noise"
                else rng.standard_normal(count).astype(np.float32).tobytes()
                if kind == "normal"
                else np.arange(count, dtype=np.int64).tobytes()
            )
    return b"".join(pieces)


@settings(max_examples=400, deadline=None)
@given(raw=chunks(), dtype=st.sampled_from(DTYPE_NAMES), coded_at=st.integers(0, 9), decoded_at=st.integers(0, 9))
def test_any_bytes_of_any_element_type_come_back_from_any_address_to_any_address(
    raw: bytes, dtype: str | None, coded_at: int, decoded_at: int
) -> None:
    source = memoryview(bytes(coded_at) + raw)[coded_at:]
    target = bytearray(b"\xa5" * (decoded_at + len(raw) + 3))

    coded = encode(source, dtype)
    decode(coded.codec, coded.params, coded.stored, memoryview(target)[decoded_at : decoded_at + len(raw)])

    assert target == b"\xa5" * decoded_at + raw + b"\xa5" * 3
    assert len(coded.stored) <= len(raw)
    assert len(coded.codec) <= 16


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 1023, 1024, 1025, 1031, 65537, (1 << 20) + (64 << 10) + 7])
def test_every_length_comes_back(dtype, length, weights_of, roundtrip) -> None:
    raw = np.resize(np.frombuffer(weights_of("float32", 20_000), np.uint8), length).tobytes()

    roundtrip(raw, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", "float8_e5m2"])
def test_nan_payloads_and_minus_zero_come_back_from_planes(dtype, weights_of, roundtrip) -> None:
    raw = weights_of(dtype, 4096)

    coded = roundtrip(raw, dtype)

    assert coded.codec == "planes"


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("exponent_first", [False, True])
def test_every_plane_may_be_raw_constant_or_coded(width, exponent_first, roundtrip) -> None:
    dtype = {1: "float8_e5m2", 2: "float16", 4: "int32", 8: "float64"}[width]
    if exponent_first:
        dtype = {2: "bfloat16", 4: "float32"}.get(width, dtype)
    rng = np.random.default_rng(width)
    for kinds in range(3**width if width < 8 else 400):
        planes = np.empty((2048, width), np.uint8)
        for plane in range(width):
            kind = kinds // 3**plane % 3
            planes[:, plane] = (rng.integers(0, 256, 2048), 0xC1, rng.integers(0, 4, 2048))[kind]
        roundtrip(planes.tobytes(), dtype)


def test_threads_do_not_disturb_each_other(weights_of, roundtrip) -> None:
    jobs = [(dtype, seed) for seed in range(6) for dtype in ("float32", "bfloat16", "float64", "int64", "float16")]

    def job(dtype: str, seed: int) -> str:
        raw = np.random.default_rng(seed).integers(0, 9 + seed, 9000).tobytes() if dtype == "int64" else None
        return roundtrip(raw or weights_of(dtype, 30_000 + seed, seed), dtype).codec

    with ThreadPoolExecutor(4) as threads:
        codecs = list(threads.map(lambda arguments: job(*arguments), jobs))

    assert set(codecs) <= {"planes", "zstd"}


def test_chunks_of_every_size_may_follow_each_other_in_one_thread(weights_of, roundtrip) -> None:
    for element_count in (300_000, 512, 7_000, 270_000, 1_300_000, 600):
        roundtrip(weights_of("float32", element_count), "float32")


def test_small_and_opaque_chunks_need_no_numpy() -> None:
    program = (
        "import sys; from thetastore.codecs import encode, decode\n"
        "cases = [(bytes(range(256)) * 40, None), (bytes(99), 'float32'), (b'abc' * 300, 'int8'), (b'', None)]\n"
        "for raw, dtype in [*cases, (bytes(1 << 20), 'float32')]:\n"
        "    coded = encode(raw, dtype); out = bytearray(len(raw))\n"
        "    decode(coded.codec, coded.params, coded.stored, memoryview(out)); assert out == raw\n"
        "print([name for name in ('numpy', 'threading', 'numcodecs') if name in sys.modules])"
    )

    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert printed == "[]\n"
