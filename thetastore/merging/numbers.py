"""Bytes of a tensor to numbers and back: exact one way, rounded to nearest, ties to even, the other.

Work is done in float32 for elements of 16 and 8 bits and in float64 for all others, so that the one rounding at the end
is the only one that can be seen: float32 sums of float32 numbers are off by up to 4 units in the last place. A number
that the target cannot hold (beyond the largest finite value, after rounding) is an error, never an infinity or a
wrapped integer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thetastore.digest import Buffer
from thetastore.dtypes import BIG_ENDIAN, DTYPES
from thetastore.elements import float8_values, has_values, numbers_of
from thetastore.merging import MergeError

if TYPE_CHECKING:
    from thetastore.merging import Array

_EXACT_INTEGER = 2**53
_ONLY_COPIED = ("bool", "float8_e8m0fnu")
"""Truth values, and powers of two that scale others: no mean of two is one."""


def can_mix(dtype: str) -> bool:
    """Tell whether numbers of a dtype can be mixed; others, big-endian ones among them, can only be copied."""
    return has_values(dtype) and dtype not in _ONLY_COPIED and not dtype.endswith(BIG_ENDIAN)


def is_complex(dtype: str) -> bool:
    """Tell whether elements are pairs, mixed as real and imaginary parts."""
    return DTYPES[dtype].kind == "complex"


def work_dtype(dtype: str) -> str:
    """Return the numpy dtype in which a result of `dtype` is computed."""
    return "f4" if DTYPES[dtype].kind == "float" and DTYPES[dtype].bits <= 16 else "f8"


def decode(raw: Buffer, dtype: str, work: str) -> Array:
    """Return the numbers of little-endian bytes, flat (complex ones as pairs); never a view that may be written to.

    Raises:
        MergeError: integers that float64 does not hold exactly.
    """
    import numpy as np

    numbers = numbers_of(raw, dtype)
    if numbers.dtype.kind in "iu" and numbers.dtype.itemsize == 8 and numbers.size:
        largest = max(abs(int(numbers.max())), abs(int(numbers.min())))
        if largest > _EXACT_INTEGER:
            raise MergeError(f"an integer of {largest} is beyond 2^53, what float64 holds exactly")
    with np.errstate(over="ignore", invalid="ignore"):
        return numbers.astype(work, copy=False)


def encode(numbers: Array, dtype: str) -> memoryview:
    """Return the little-endian bytes of numbers, each rounded to the nearest value of `dtype`, ties to even.

    Raises:
        MergeError: a number is not finite, or beyond what `dtype` holds.
    """
    import numpy as np

    numbers = np.ascontiguousarray(numbers).reshape(-1)
    if not is_finite(numbers):
        raise MergeError("the result has elements that are not finite")
    if DTYPES[dtype].kind == "int":
        return _encode_integers(numbers, dtype)
    if DTYPES[dtype].bits == 8:
        return _bytes_of(_encode_float8(numbers, dtype))
    if dtype == "bfloat16":
        rounded, finite = _encode_bfloat16(numbers)
    else:
        with np.errstate(over="ignore"):
            rounded = numbers.astype(_numpy_dtype(dtype), copy=False)
        finite = rounded is numbers or is_finite(rounded)
    if not finite:
        raise _beyond(numbers, dtype)
    return _bytes_of(rounded)


def _bytes_of(array: Array) -> memoryview:
    raw: memoryview = array.reshape(-1).view("u1").data
    return raw


def is_finite(numbers: Array) -> bool:
    """Tell whether all numbers are finite, without an array of truth values."""
    import numpy as np

    if not numbers.size:
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        # NaN and infinity survive a sum; only a sum that overflowed, which is rare, needs the long way.
        if np.isfinite(numbers.sum()):
            return True
    return bool(np.isfinite(numbers).all())


def _numpy_dtype(dtype: str) -> str:
    if is_complex(dtype):
        return "<f4" if dtype == "complex64" else "<f8"
    letter = {"float": "f", "int": "u" if dtype.startswith("u") else "i"}[DTYPES[dtype].kind]
    return f"<{letter}{DTYPES[dtype].bits // 8}"


def _encode_bfloat16(numbers: Array) -> tuple[Array, bool]:
    """Return the upper halves of float32, rounded, and whether all are finite."""
    bits: Array = numbers.astype("<f4").view("<u4")
    bits += 0x7FFF + ((bits >> 16) & 1)
    halves = (bits >> 16).astype("<u2")
    return halves, not bool(((halves & 0x7F80) == 0x7F80).any())


def _encode_integers(numbers: Array, dtype: str) -> memoryview:
    import numpy as np

    limits = np.iinfo(_numpy_dtype(dtype))
    rounded = np.rint(numbers)
    # 2^63 and 2^64 are float64 numbers, their predecessors are not: hence the comparison with what is beyond.
    if rounded.size and not (rounded.min() >= float(limits.min) and rounded.max() < float(limits.max) + 1):
        raise _beyond(numbers, dtype)
    return _bytes_of(rounded.astype(_numpy_dtype(dtype)))


def _encode_float8(numbers: Array, dtype: str) -> Array:
    import numpy as np

    known = float8_values(dtype)
    values = known[:128][np.isfinite(known[:128])]
    largest, has_negative_zero = len(values) - 1, not np.isnan(known[128])
    beyond = 2 * values[-1] - values[-2]
    upper = np.append(values[1:], beyond)
    middles = ((values + upper) / 2).astype(numbers.dtype)  # few bits: exact
    sizes = np.abs(numbers)
    codes = np.searchsorted(middles, sizes, side="left")
    is_tie = (codes <= largest) & (middles[np.minimum(codes, largest)] == sizes)
    codes += is_tie & (codes % 2 == 1)
    if codes.size and codes.max() > largest:
        raise _beyond(numbers, dtype)
    is_negative = np.signbit(numbers) & ((codes > 0) | has_negative_zero)
    return (codes + 128 * is_negative).astype("u1")


def _beyond(numbers: Array, dtype: str) -> MergeError:
    return MergeError(f"the result has elements of {float(abs(numbers).max()):.6g}, beyond what {dtype} holds")
