"""Text for people: sizes, tables, progress.

Sizes are decimal (1 kB = 1000 bytes, as model hubs and disks say). Results go to standard output, all else to
standard error; progress only where that is a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import TextIO

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def size_text(nbytes: int) -> str:
    """Return a size in three significant digits: `999 B`, `1.50 kB`, `90.9 MB`."""
    if nbytes < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    unit = 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def count_text(count: int, noun: str, plural: str = "") -> str:
    """Return `1 file`, `2 files`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def shape_text(shape: Sequence[int]) -> str:
    """Return `[512, 384]`."""
    return "[" + ", ".join(map(str, shape)) + "]"


def printable(text: str) -> str:
    """Return a name that cannot move the cursor or break a line of a table."""
    safe = text.encode("utf-8", "backslashreplace").decode()
    return safe if safe.isprintable() else "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in safe)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = (), indent: str = "") -> str:
    """Return rows as aligned columns, two blanks apart; the columns in `right` end in line."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(indent + "  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


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
