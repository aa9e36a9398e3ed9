"""Memory that each thread uses again and again: the first touch of a fresh page costs as much as coding its bytes."""

from __future__ import annotations

from _thread import _local  # threading.local, without the cost of importing threading
from typing import Any, Final

import numpy as np

_ALLOCATOR_BYTES: Final = 16 << 20
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


def words_of(raw: memoryview, width: int, use: str) -> np.ndarray[Any, np.dtype[Any]]:
    """View the whole elements of `raw` as unsigned integers; copy them to scratch memory where they are not aligned."""
    words: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(raw, dtype=f"<u{width}", count=raw.nbytes // width)
    if words.flags.aligned:
        return words
    copy: np.ndarray[Any, np.dtype[Any]] = scratch(use, words.nbytes).view(words.dtype)
    np.copyto(copy, words)
    return copy


def _make_allocator_keep_freed_memory() -> None:
    """Have malloc serve payloads of up to 16 MiB from memory that was freed, and return it only above twice that.

    Payloads leave us, so that they cannot be scratch memory. glibc gives freed blocks of their size back to the kernel,
    and fetches them again page by page: half of all payload bytes were faulted in, 10-15 % of the time to encode. It
    adapts its thresholds to the largest mapped block that was ever freed; so one is, of which no page was touched.
    Other allocators ignore it.
    """
    np.empty(_ALLOCATOR_BYTES, dtype=np.uint8)


_make_allocator_keep_freed_memory()
