"""Ranges of files far away, fetched before they are asked for: neighbours in one request, several at once.

Packs are written in the order in which files are read, so the records of one manifest mostly touch each other. What
was announced and never read is forgotten when newer announcements need the room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from thetastore.backends import Range

MAX_BLOCK_BYTES = 8 << 20
"""A block is one request. Longer ones would be lost whole with a connection, and start decoding later."""
MOST_HELD_BYTES = 64 << 20
_LEAST_GAP_BYTES = 4 << 10
_GAP_SHARE = 32
"""Up to this part of what is wanted is read besides, where that saves a request: 3 %."""


class Block:
    """Consecutive bytes of one file, on their way or here; fewer where a file of unknown length ends before."""

    def __init__(self, name: str, start: int, stop: int, stored: Future[bytes]) -> None:
        self.name = name
        self.start = start
        self.stop = stop
        self.stored = stored


def coalesce(ranges: Iterable[Range]) -> list[Range]:
    """Join ranges of one file that nearly touch; never to more than `MAX_BLOCK_BYTES`, never cutting one in two."""
    joined: list[Range] = []
    for name, offset, nbytes in sorted(set(ranges)):
        if joined and joined[-1].name == name:
            last = joined[-1]
            gap_bytes = offset - (last.offset + last.nbytes)
            total_bytes = max(last.offset + last.nbytes, offset + nbytes) - last.offset
            if gap_bytes <= max(_LEAST_GAP_BYTES, last.nbytes // _GAP_SHARE) and total_bytes <= MAX_BLOCK_BYTES:
                joined[-1] = Range(name, last.offset, total_bytes)
                continue
        joined.append(Range(name, offset, nbytes))
    return joined


class Held:
    """Blocks that were announced. Thread-safe."""

    def __init__(self, start: Callable[[Range], Future[bytes]]) -> None:
        """Fetch with `start`, which must return at once."""
        self._start = start
        self._blocks: dict[Block, None] = {}
        """In the order in which they were announced."""
        self._of_file: dict[str, list[Block]] = {}
        self._held_bytes = 0
        self._lock = threading.Lock()

    def expect(self, ranges: Iterable[Range]) -> None:
        """Begin to fetch ranges, as far as there is room; what was announced long ago makes room first."""
        with self._lock:
            room = MOST_HELD_BYTES
            for wanted in coalesce(ranges):
                if self._find(wanted.name, wanted.offset, wanted.offset + wanted.nbytes) or wanted.nbytes > room:
                    continue
                room -= wanted.nbytes
                while self._blocks and self._held_bytes + wanted.nbytes > MOST_HELD_BYTES:
                    self._drop(next(iter(self._blocks)))
                block = Block(wanted.name, wanted.offset, wanted.offset + wanted.nbytes, self._start(wanted))
                self._blocks[block] = None
                self._of_file.setdefault(wanted.name, []).append(block)
                self._held_bytes += wanted.nbytes

    def take(self, name: str, offset: int, out: memoryview) -> bool:
        """Fill `out` from what was announced, waiting for it; False where it was not, or did not come.

        Raises:
            FileNotFoundError: the file is not there, so there is no use in asking again.
        """
        found = self.find(name, offset, offset + out.nbytes)
        if found is None or found.nbytes != out.nbytes:
            return False
        out[:] = found
        return True

    def find(self, name: str, start: int, stop: int) -> memoryview | None:
        """Return what was announced of `[start, stop)`, waiting for it: fewer bytes where the file ended before.

        Raises:
            FileNotFoundError: the file is not there.
        """
        with self._lock:
            block = self._find(name, start, stop)
        if block is None:
            return None
        try:
            stored = block.stored.result()
        except FileNotFoundError:
            self.forget(block)
            raise
        except Exception:  # whoever asks for the range by itself is told what is wrong
            stored = b""
        if not stored:
            self.forget(block)
            return None
        return memoryview(stored)[start - block.start : stop - block.start]

    def forget(self, block: Block) -> None:
        """Make room for others."""
        with self._lock:
            self._drop(block)

    def _find(self, name: str, start: int, stop: int) -> Block | None:
        for block in self._of_file.get(name, ()):
            if block.start <= start and stop <= block.stop:
                return block
        return None

    def _drop(self, block: Block) -> None:
        if block in self._blocks:
            del self._blocks[block]
            others = self._of_file[block.name]
            others.remove(block)
            if not others:
                del self._of_file[block.name]
            self._held_bytes -= block.stop - block.start
            block.stored.cancel()
