"""Text for people: sizes and tables, which are the store's, and progress.

Results go to standard output, all else to
standard error; progress only where that is a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from thetastore.tables import count_text, printable, shape_text, size_text, table

__all__ = ["Progress", "count_text", "printable", "shape_text", "size_text", "table"]


class Progress:
    """A line on a terminal that counts objects and bytes; silent where there is none."""

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = stream or sys.stderr
        self._is_on = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._started = time.monotonic()
        self._shown = 0.0
        self._width = 0

    def __call__(self, object_count: int, stored_bytes: int) -> None:
        """Show how far a copy is; at most ten times a second."""
        if self._is_due():
            rate = stored_bytes / max(self._shown - self._started, 0.001)
            self._show(f"{object_count} objects, {size_text(stored_bytes)}, {size_text(int(rate))}/s")

    def of_bytes(self, done_bytes: int, total_bytes: int) -> None:
        """Show how much of a known amount is done; at most ten times a second."""
        if self._is_due():
            self._show(f"{100 * done_bytes // max(total_bytes, 1)} % of {size_text(total_bytes)}")

    def _is_due(self) -> bool:
        now = time.monotonic()
        if not self._is_on or now - self._shown < 0.1:
            return False
        self._shown = now
        return True

    def _show(self, text: str) -> None:
        line = f"{self._label}: {text}"
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def done(self) -> None:
        """Take the line away."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0
