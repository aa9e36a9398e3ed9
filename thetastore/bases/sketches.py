"""Sketches of tensors: equal where one was trained from the other, whatever models, names and shapes they have.

Training moves weights by little of their size, so that signs stay: of random weights of a fine-tune, one or two in a
hundred have another one. A sketch is two times 24 signs, evenly taken from a tensor's beginning; of one that is not
equal to another's, the second half often still is, and two tensors that have nothing to do with each other share a
half in one of 16 million cases.

Source: M. Charikar, "Similarity estimation techniques from rounding algorithms" (2002): signs as a hash that the like
share; P. Indyk, R. Motwani, "Approximate nearest neighbors" (1998): several of them together as a key.
"""

from __future__ import annotations

from typing import Final

import xxhash

from thetastore.dtypes import DTYPES

LEAST_SKETCHED_BYTES: Final = 64 << 10
"""What is looked at of a tensor; shorter ones have no sketch."""
_HALVES: Final = 2
_SIGNS: Final = 24
_FEWEST: Final = 4
"""With fewer of either sign, as in norms and masks, a half says too little."""


def sketch_keys(raw: memoryview, dtype: str) -> tuple[str, ...]:
    """Return the keys of a tensor, as those of the family table: none to two. 15 us.

    Args:
        raw: its beginning, `LEAST_SKETCHED_BYTES` or more.
        dtype: its element type; only floats of 2 bytes and more have a sketch.
    """
    element = DTYPES.get(dtype)
    if element is None or element.kind != "float" or element.bits < 16:
        return ()
    import numpy as np

    octets = np.frombuffer(raw[:LEAST_SKETCHED_BYTES], np.uint8)
    top_bytes = octets[element.bits // 8 - 1 :: element.bits // 8]
    signs = top_bytes[:: top_bytes.size // (_HALVES * _SIGNS)][: _HALVES * _SIGNS] >> 7
    halves = (signs[half::_HALVES] for half in range(_HALVES))
    return tuple(
        xxhash.xxh3_128_hexdigest(f"{dtype} {number} ".encode() + half.tobytes())
        for number, half in enumerate(halves)
        if _FEWEST <= int(half.sum()) <= _SIGNS - _FEWEST
    )
