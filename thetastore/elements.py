"""The values of raw elements, for all element types that have values.

float64 holds every value of every float type here, and integers up to 2^53 exactly. Types without elements of whole
bytes (block-quantised, 4 and 6 bits wide) have no values here: they are compared by their bytes.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from thetastore.dtypes import BIG_ENDIAN, DTYPES

if TYPE_CHECKING:
    import numpy

    from thetastore.digest import Buffer

    Floats = numpy.ndarray[Any, numpy.dtype[numpy.float64]]
    Bits = numpy.ndarray[Any, Any]

_FLOAT8 = {
    # name: bits of exponent and mantissa, bias, is finite only (fn), has one zero and one NaN (uz)
    "float8_e4m3fn": (4, 3, 7, True, False),
    "float8_e4m3fnuz": (4, 3, 8, True, True),
    "float8_e5m2": (5, 2, 15, False, False),
    "float8_e5m2fnuz": (5, 2, 16, True, True),
    "float8_e4m3": (4, 3, 7, False, False),
    "float8_e4m3b11fnuz": (4, 3, 11, True, True),
    "float8_e3m4": (3, 4, 3, False, False),
}
_SIGNIFICANT_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8, "complex64": 24, "complex128": 53}


def has_values(dtype: str) -> bool:
    """Tell whether the elements of a type can be taken for numbers one by one."""
    dtype = dtype.removesuffix(BIG_ENDIAN)
    return dtype in _NUMPY or dtype in _FLOAT8 or dtype in ("bfloat16", "bool", "float8_e8m0fnu")


def is_floating(dtype: str) -> bool:
    """Tell whether a type has values that are rounded ones."""
    return has_values(dtype) and DTYPES[dtype].kind in ("float", "complex")


def components(dtype: str) -> int:
    """Return how many numbers an element has: 2 where it is complex."""
    return 2 if DTYPES[dtype].kind == "complex" else 1


def significant_bits(dtype: str) -> int:
    """Return the width of a float type's significand, the implicit bit counted; for integers that of float64."""
    if dtype in _FLOAT8:
        return _FLOAT8[dtype][1] + 1
    return 1 if dtype == "float8_e8m0fnu" else _SIGNIFICANT_BITS.get(dtype.removesuffix(BIG_ENDIAN), 53)


def smallest_step(dtype: str) -> float:
    """Return the least positive value of a float type; 0 for others: what rounding near zero may add."""
    if dtype in _FLOAT8:
        return float(float8_values(dtype)[1])
    return _SMALLEST.get(dtype.removesuffix(BIG_ENDIAN), 0.0)


_SMALLEST = {
    "float32": 2.0**-149,
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "complex64": 2.0**-149,
    "float8_e8m0fnu": 2.0**-127,
}


def bits_of(raw: Buffer, dtype: str) -> Bits:
    """Return raw bytes as unsigned integers as wide as an element (complex128: two each), without copying."""
    import numpy

    width = min(DTYPES[dtype].bits // 8, 8)
    return numpy.frombuffer(raw, f"u{width}")


def values_of(raw: Buffer, dtype: str, out: Floats) -> None:
    """Put the values of raw bytes into `out`; a complex element takes two places, real part first."""
    import numpy

    if dtype in _FLOAT8 or dtype == "float8_e8m0fnu":
        numpy.take(float8_values(dtype), numpy.frombuffer(raw, "u1"), out=out, mode="clip")
    else:
        with numpy.errstate(invalid="ignore"):  # a NaN that signals: numpy would warn of it on the terminal
            out[:] = numbers_of(raw, dtype)


def numbers_of(raw: Buffer, dtype: str) -> Bits:
    """Return the values of raw bytes in an array that holds them exactly, a view of the bytes where numpy has the type.

    Of 8-bit floats and bfloat16 it is one of float32. A complex element takes two places, real part first.
    """
    import numpy

    order = ">" if dtype.endswith(BIG_ENDIAN) else "<"
    plain = dtype.removesuffix(BIG_ENDIAN)
    if plain in _FLOAT8 or plain == "float8_e8m0fnu":
        return numpy.take(float8_values(plain, "f4"), numpy.frombuffer(raw, "u1"))
    if plain == "bfloat16":
        wide = numpy.frombuffer(raw, f"{order}u2").astype("u4")
        wide <<= 16
        return wide.view("f4")
    if plain == "bool":
        truths: Bits = numpy.frombuffer(raw, "u1") != 0
        return truths
    return numpy.frombuffer(raw, order + _NUMPY[plain])


_INTEGERS = [name for name, known in DTYPES.items() if known.kind == "int" and known.bits >= 8]
_NUMPY = {
    **{name: f"{name[0]}{DTYPES[name].bits // 8}" for name in _INTEGERS if not name.endswith(BIG_ENDIAN)},
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "complex64": "f4",
    "complex128": "f8",
}
"""Types that numpy knows, of a number: a complex element is two."""


@cache
def float8_values(dtype: str, kept_as: str = "f8") -> Floats:
    """Return the value of each of the 256 patterns; float32 (`f4`) holds them exactly, too.

    Source: OCP OFP8 and MX specifications; for the `fnuz` types, arXiv 2206.02915.
    """
    values = _decoded_patterns(dtype).astype(kept_as)
    values.flags.writeable = False
    return values


def _decoded_patterns(dtype: str) -> Floats:
    import numpy

    patterns = numpy.arange(256)
    if dtype == "float8_e8m0fnu":
        return numpy.array([math.ldexp(1.0, at - 127) for at in range(255)] + [math.nan], dtype="f8")
    exponent_bits, mantissa_bits, bias, is_finite, is_unsigned_zero = _FLOAT8[dtype]
    exponents = (patterns >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissas = patterns & ((1 << mantissa_bits) - 1)
    fractions = mantissas + numpy.where(exponents > 0, 1 << mantissa_bits, 0)
    values: Floats = numpy.ldexp(fractions.astype("f8"), numpy.maximum(exponents, 1) - bias - mantissa_bits)
    if not is_finite:
        top = exponents == (1 << exponent_bits) - 1
        values[top] = numpy.where(mantissas[top] == 0, numpy.inf, numpy.nan)
    elif not is_unsigned_zero:
        values[(patterns & 0x7F) == 0x7F] = numpy.nan
    values[patterns >= 128] *= -1
    if is_unsigned_zero:
        values[128] = numpy.nan
    return values
