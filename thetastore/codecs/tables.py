"""Where a stream of symbols is worth another Huffman table.

A block of a zstd frame may have a table of its own, of some 60 bytes. A stream comes in parts that are distributed
differently; neighbours share a table where two would cost more than they save.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from thetastore.codecs.splitting import Words

_TABLE_BITS: Final = 8 * 60
"""From 30 to 120 bytes, differences of small steps are within .2 % of the same."""
_LEAST_SYMBOLS: Final = 512
"""Where parts are shorter, several are looked at as one, which saves half of the time and costs .1 %."""


def counts_of(lengths: Words, symbols: Words, symbol_count: int) -> Words:
    """Return how often each symbol (second axis) occurs in each part of a stream (first axis).

    Args:
        lengths: how many symbols each part has.
        symbols: all of them.
        symbol_count: how many different ones there may be.
    """
    first = (np.arange(lengths.size) * symbol_count).repeat(lengths)
    counts: Words = np.bincount(first + symbols, minlength=lengths.size * symbol_count)
    return counts.reshape(-1, symbol_count)


def begins(counts: Words) -> list[int]:
    """Return the positions in a stream, ascending, where another table should begin.

    Args:
        counts: as of `counts_of`.
    """
    ends = counts.sum(axis=1).cumsum()
    (firsts,) = np.nonzero(np.diff(ends // _LEAST_SYMBOLS, prepend=-1))
    counts, begins = np.add.reduceat(counts, firsts), [0, *ends.take(firsts[1:] - 1).tolist()]
    own_bits = _bits(counts).tolist()
    found: list[int] = []
    shared, shared_bits = counts[0], own_bits[0]
    for number in range(1, len(counts)):
        joined = shared + counts[number]
        joined_bits = float(_bits(joined))
        if joined_bits > shared_bits + own_bits[number] + _TABLE_BITS:
            found.append(begins[number])
            joined, joined_bits = counts[number], own_bits[number]
        shared, shared_bits = joined, joined_bits
    return found


def _bits(counts: Words) -> Words:
    """Return the bits that symbols take which occur so often, coded by themselves."""
    with_totals = np.concatenate((counts, counts.sum(axis=-1, keepdims=True)), axis=-1)
    information = with_totals * np.log2(np.maximum(with_totals, 1))
    bits: Words = 2 * information[..., -1] - information.sum(axis=-1)
    return bits
