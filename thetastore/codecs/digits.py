"""Differences as balanced digits in byte planes: what all layouts of codec `difference` store of elements that changed.

To a difference 0x80 is added in every byte but the highest, so that one of either sign leaves the higher bytes at zero,
and the lowest near 0x80.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from thetastore.codecs import planes, sampling
from thetastore.codecs.scratch import scratch
from thetastore.codecs.splitting import Words
from thetastore.errors import MalformedError

WIDTHS: Final = (1, 2, 4, 8)
_PLANES_WIDTH_AT: Final = 2  # see `payload`

BIASES: Final[dict[int, Any]] = {
    width: np.dtype(f"<u{width}").type(sum(0x80 << 8 * byte for byte in range(width - 1))) for width in WIDTHS
}
"""By width: 0x80 in every byte but the highest."""


def encode_digits(
    digits: Words, differences: Words, bits: list[float], tail: memoryview, ends: Sequence[int] = ()
) -> memoryview:
    """Code differences and tail by planes of about so many bits.

    Args:
        digits: memory for both, of which `differences` is the beginning. Both are overwritten.
        differences: modulo 2^(8 * width).
        bits: entropy of every plane, the lowest first.
        tail: bytes after the elements.
        ends: after which differences others begin that are distributed otherwise.
    """
    np.add(differences, BIASES[differences.itemsize], out=differences)
    digits.data[differences.nbytes :] = tail
    payload = planes.encode(digits.data, sampling.plan_of_bits(bits), at_any_size=True, ends=ends)
    assert payload is not None, "a payload at any size was asked for"
    return payload


def decode_digits(stored: memoryview, count: int, width: int, tail_bytes: int) -> tuple[Words, memoryview]:
    """Return `count` differences, and the tail, in scratch memory.

    Raises:
        MalformedError: the planes are malformed, or of another width or length.
    """
    digits = scratch("digits", count * width + tail_bytes)
    planes.decode(stored, digits.data)
    if stored[_PLANES_WIDTH_AT] != width:
        raise MalformedError(f"difference of width {width} has planes of width {stored[_PLANES_WIDTH_AT]}")
    differences: Words = digits[: count * width].view(f"<u{width}")
    np.subtract(differences, BIASES[width], out=differences)
    return differences, digits.data[differences.nbytes :]
