"""Buffers that are used again: touching fresh memory costs as much as compressing it."""

from __future__ import annotations


class Buffers:
    """A stock of equal buffers. `take` and `give` may be called from any thread."""

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer_bytes = buffer_bytes
        self._stock: list[bytearray] = []

    def take(self, nbytes: int) -> memoryview:
        """Return a writable view of `nbytes` bytes with any content: of a buffer in stock, or of a new one.

        Short views (under an eighth of a buffer) get memory of their own, which the allocator keeps warm.
        """
        if nbytes > self._buffer_bytes or nbytes < self._buffer_bytes // 8:
            return memoryview(bytearray(nbytes))
        try:
            buffer = self._stock.pop()
        except IndexError:
            buffer = bytearray(self._buffer_bytes)
        return memoryview(buffer)[:nbytes]

    def give(self, view: memoryview) -> None:
        """Put the buffer behind a view from `take` back into stock; the view must not be used again."""
        buffer = view.obj
        if isinstance(buffer, bytearray) and len(buffer) == self._buffer_bytes:
            self._stock.append(buffer)
