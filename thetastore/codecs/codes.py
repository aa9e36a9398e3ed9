"""Codes of two bits, four in a byte.

A Huffman code takes a bit a symbol or more. Where there is half of that in a symbol, or a fifth, symbols of four come
within some hundredths of it, and are a quarter as many to code.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from thetastore.codecs.splitting import Bytes

PER_BYTE: Final = 4
_CODES_OF_BYTES: Final = (np.arange(256, dtype=np.uint32)[:, None] >> np.array([0, 2, 4, 6]) & 3).astype(np.uint8)
_QUADS: Final = np.ascontiguousarray(_CODES_OF_BYTES).view(np.uint32).reshape(-1)
"""By a byte of four codes: one byte each."""


def packed_bytes(code_count: int) -> int:
    """Return how many bytes so many codes take."""
    return -(-code_count // PER_BYTE)


def pack(codes: Bytes) -> Bytes:
    """Return codes, a multiple of four, four in a byte: the first in its lowest bits."""
    quads = codes.view("<u4")
    packed: Bytes = (quads | quads >> 6 | quads >> 12 | quads >> 18).astype(np.uint8)
    return packed


def unpack(packed: Bytes) -> Bytes:
    """Return one code a byte, four for each of `packed`."""
    codes: Bytes = np.take(_QUADS, packed).view(np.uint8)
    return codes
