"""Memory that each thread uses again and again: the first touch of a fresh page costs as much as coding its bytes."""

from __future__ import annotations

from _thread import _local  # threading.local, without the cost of importing threading
from typing import Any, Final

import numpy as np

_KEPT_BYTES: Final = 2 << 20
"""Larger requests are served afresh, so that one odd caller does not leave a thread with his memory."""


class _Buffers(_local):
    def __init__(self) -> None:
        self.by_use: dict[str, np.ndarray[Any, np.dtype[np.uint8]]] = {}


_buffers = _Buffers()


def scratch(use: str, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return `nbytes` bytes, aligned to 8, that are this thread's until it asks again for the same use."""
    kept = _buffers.by_use.get(use)
    if kept is not None and kept.nbytes >= nbytes:
        return kept[:nbytes]
    fresh = np.empty(-(-nbytes // 8), dtype=np.uint64).view(np.uint8)
    if nbytes <= _KEPT_BYTES:
        _buffers.by_use[use] = fresh
    return fresh[:nbytes]
