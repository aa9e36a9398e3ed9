"""Ascending numbers as bytes: how many are skipped before each.

A byte of 0 to 254 skips as many and names the number after them; 255 skips as many and names none.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from thetastore.codecs.splitting import Bytes, Words
from thetastore.errors import MalformedError

ESCAPE: Final = 255


def encode(numbers: Words, first: int = 0) -> tuple[Bytes, Words]:
    """Return the bytes, and how many of them there are up to each number.

    Args:
        numbers: ascending, one or more.
        first: the least that there could be.
    """
    skipped = np.diff(numbers, prepend=first - 1) - 1
    escape_counts = skipped // ESCAPE
    ends: Words = np.cumsum(escape_counts + 1)
    stream: Bytes = np.full(int(ends[-1]), ESCAPE, np.uint8)
    stream[ends - 1] = skipped - escape_counts * ESCAPE
    return stream, ends


def decode(stream: Bytes, first: int, end: int) -> Words:
    """Return the numbers, from `first` on.

    Raises:
        MalformedError: one of them is `end` or more, or the last byte names none.
    """
    names = stream != ESCAPE
    if stream.size and not names[-1]:
        raise MalformedError("difference has a gap that names nothing")
    after = np.cumsum(stream + names, dtype=np.int64)  # a number is one more than what was skipped before it
    numbers: Words = after.compress(names) + (first - 1)
    if numbers.size and numbers[-1] >= end:
        raise MalformedError(f"difference has a gap that ends at {numbers[-1]} of {end}")
    return numbers
