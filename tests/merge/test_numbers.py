"""Every dtype in and out, against ml_dtypes and numpy: nearest, ties to even, nothing beyond the largest value."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from thetastore.dtypes import DTYPES
from thetastore.merging import MergeError
from thetastore.merging.numbers import can_mix, decode, encode, is_finite, work_dtype

SMALL = tuple(name for name in DTYPES if name.startswith("float8_") and can_mix(name))
FLOATS = (*SMALL, "bfloat16", "float16", "float32", "float64")


def numpy_type(dtype: str) -> Any:
    return np.dtype(getattr(ml_dtypes, dtype, None) or dtype)


def finite_values(dtype: str) -> Any:
    """Return every finite value of a dtype of at most 16 bits."""
    width = DTYPES[dtype].bits
    raw = np.arange(2**width).astype(f"u{width // 8}")
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return raw.view(numpy_type(dtype))[np.isfinite(raw.view(numpy_type(dtype)).astype("f8"))]


@pytest.mark.parametrize("dtype", [*SMALL, "bfloat16", "float16"])
def test_every_value_comes_back_bit_for_bit(dtype: str) -> None:
    values = finite_values(dtype)

    found = decode(values.tobytes(), dtype, "f4")

    assert found.tobytes() == values.astype("f4").tobytes()
    assert bytes(encode(found, dtype)) == values.tobytes()


@pytest.mark.parametrize("dtype", [*SMALL, "bfloat16", "float16"])
def test_numbers_between_two_values_go_to_the_nearest_and_ties_to_the_even_one(dtype: str) -> None:
    values = np.unique(finite_values(dtype).astype("f8"))
    middles = ((values[1:] + values[:-1]) / 2).astype("f4")
    near = np.concatenate(
        [middles, np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(-np.inf))]
    )

    # numpy and ml_dtypes give the sign of what was rounded to 0; `fnuz` types have one zero.
    assert bytes(encode(near, dtype)) == near.astype(numpy_type(dtype)).tobytes()


@pytest.mark.parametrize("dtype", [*SMALL, "bfloat16", "float16", "float32"])
def test_what_is_beyond_the_largest_value_is_an_error_and_never_an_infinity(dtype: str) -> None:
    largest = float(np.finfo("f4").max) if dtype == "float32" else float(finite_values(dtype).astype("f8").max())
    step = largest - float(np.nextafter(np.float32(largest), np.float32(0))) if dtype == "float32" else None
    if step is None:
        ordered = np.unique(finite_values(dtype).astype("f8"))
        step = float(ordered[-1] - ordered[-2])
    work = "f8" if dtype == "float32" else "f4"
    just_within = np.array([largest + 0.49 * step, -largest], work)

    assert decode(encode(just_within, dtype), dtype, "f8").tolist() == [largest, -largest]
    for beyond in (largest + 0.51 * step, -(largest + step), 2 * largest):
        with pytest.raises(MergeError), np.errstate(over="ignore"):
            encode(np.array([beyond], work), dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_is_written(dtype: str, bad: float) -> None:
    with pytest.raises(MergeError, match="not finite"):
        encode(np.array([1.0, bad], work_dtype(dtype)), dtype)


def test_float32_is_rounded_once_from_float64() -> None:
    numbers = np.random.default_rng(1).standard_normal(1000)

    assert bytes(encode(numbers, "float32")) == numbers.astype("f4").tobytes()


@pytest.mark.parametrize("dtype", [name for name in DTYPES if can_mix(name) and "int" in name])
def test_integers_are_rounded_to_even_and_never_wrap(dtype: str) -> None:
    limits = np.iinfo(dtype)
    found = decode(encode(np.array([0.5, 1.5, 2.4, limits.min]), dtype), dtype, "f8") if limits.bits < 64 else None
    if found is not None:
        assert found.tolist() == [0, 2, 2, limits.min]

    for beyond in (float(limits.max) + 1, float(limits.min) - max(1.0, abs(limits.min) / 2**40)):
        with pytest.raises(MergeError, match="beyond"):
            encode(np.array([beyond]), dtype)


def test_integers_that_float64_cannot_hold_are_refused_rather_than_changed() -> None:
    with pytest.raises(MergeError, match="2\\^53"):
        decode(np.array([2**53 + 1], "i8").tobytes(), "int64", "f8")


def test_complex_numbers_are_pairs() -> None:
    values = np.array([1 + 2j, -3j], "c8")

    assert decode(values.tobytes(), "complex64", "f8").tolist() == [1, 2, 0, -3]
    assert bytes(encode(decode(values.tobytes(), "complex64", "f8"), "complex64")) == values.tobytes()


def test_what_has_no_numbers_of_whole_bytes_cannot_be_mixed() -> None:
    refused = {name for name in DTYPES if not can_mix(name)}

    assert {"bool", "float4_e2m1fn", "float8_e8m0fnu", "gguf_q4_0", "float32_be"} <= refused
    assert not refused & {*FLOATS, "int64", "complex64"}


def test_finite_numbers_whose_sum_is_not_are_finite() -> None:
    assert is_finite(np.full(4, np.finfo("f4").max, "f4"))
    assert not is_finite(np.array([np.inf, -np.inf], "f4"))
    assert is_finite(np.array([], "f4"))
