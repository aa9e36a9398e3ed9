"""Elements to byte planes and back, by whole-array integer operations.

Byte k of every element, taken together, is plane k. Where a float's exponent straddles two bytes (bfloat16, float32:
1 sign bit, 8 exponent bits, mantissa), the *exponent-first* arrangement exchanges sign and exponent in the highest two
bytes, so that the exponent is the highest plane and the sign lies above the mantissa in the next:

    in the file   s eeeeeeee mmmmmmm        exponent first   eeeeeeee s mmmmmmm

A rotation by one bit also gives the exponent a byte of its own, but puts the sign below the mantissa: then float32
values that are exact in bfloat16 or float16 have a lowest plane of signs instead of zeros, and every plane has to be
shifted. A float32 is so a bfloat16 and two more bytes of mantissa, and handled as that: half as much to move.

Shift + truncating cast is 2-4x as fast as a strided copy (float32: 27 against 14 GB/s); powers of two are
multiplied, not shifted, since numpy's multiplication is the better vectorised one (65 against 33 GB/s).
All of it runs without the GIL.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[Any]]
"""One unsigned little-endian integer an element."""
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_SIGN = 0x80
_MANTISSA = 0x7F


def take(words: Words, first_byte: int, out: Words) -> None:
    """Set `out` to the bytes of every element from `first_byte` on, as many as an item of `out` has."""
    if first_byte:
        np.right_shift(words, 8 * first_byte, out=out, casting="unsafe")
    else:
        np.copyto(out, words, casting="unsafe")


def take_exponent(tops: Words, out: Bytes) -> None:
    """Set `out` to the 8 bits below the highest of two-byte elements."""
    np.right_shift(tops, 7, out=out, casting="unsafe")


def take_sign_and_mantissa(tops: Words, out: Bytes, spare: Bytes) -> None:
    """Set `out` to the highest bit of two-byte elements, and below it their lowest 7; `spare` is overwritten."""
    np.copyto(out, tops, casting="unsafe")
    np.bitwise_and(out, _MANTISSA, out=out)
    np.less(tops.view("<i2"), 0, out=spare.view(np.bool_))
    np.multiply(spare, _SIGN, out=spare)
    np.bitwise_or(out, spare, out=out)


def put(plane: Words, out: Words, first_byte: int) -> None:
    """Set `out` to elements that have `plane` from `first_byte` on, and zeros elsewhere: the reverse of `take`."""
    np.copyto(out, plane)
    if first_byte:
        np.multiply(out, 1 << 8 * first_byte, out=out)


def put_exponent(plane: Bytes, out: Words) -> None:
    """Set `out` to two-byte elements with this exponent and zeros elsewhere."""
    np.copyto(out, plane)
    np.multiply(out, 1 << 7, out=out)


def put_sign_and_mantissa(plane: Bytes, out: Words) -> None:
    """Set `out` to two-byte elements with this sign, this mantissa and an exponent of zeros."""
    # Sign extension copies the sign to all bits above the mantissa: one mask leaves it where it belongs.
    np.copyto(out.view("<i2"), plane.view(np.int8))
    np.bitwise_and(out, _SIGN << 8 | _MANTISSA, out=out)
