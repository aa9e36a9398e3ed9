"""Figures as people read them: sizes, counts, shapes, aligned columns.

Sizes are decimal (1 kB = 1000 bytes, as model hubs and disks say).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

_COLOURS = {"bold": 1, "red": 31, "green": 32, "yellow": 33}
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
    shown = [[_shown_length(cell) for cell in row] for row in rows]
    widths = [max(column) for column in zip(*shown, strict=True)]
    lines = []
    for row, lengths in zip(rows, shown, strict=True):
        cells = []
        for column, (cell, length, width) in enumerate(zip(row, lengths, widths, strict=True)):
            blanks = " " * (width - length)
            cells.append(blanks + cell if column in right else cell + blanks)
        lines.append(indent + "  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def painted(text: str, colour: str, is_on: bool) -> str:
    """Return text in a colour (red, green, yellow) or bold, or as it is."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[m" if is_on and text else text


def has_colours(asked: str, stream: TextIO) -> bool:
    """Tell whether colours are wanted, as git tells it: `always`, `never`, or `auto`, which means on a terminal."""
    if asked != "auto":
        return asked == "always"
    return "NO_COLOR" not in os.environ and stream.isatty() and os.environ.get("TERM") != "dumb"


def _shown_length(cell: str) -> int:
    """Return how many columns a cell takes; colours take none, and no other escape gets past `printable`."""
    if "\x1b" not in cell:
        return len(cell)
    import re

    return len(re.sub(r"\x1b\[[0-9]*m", "", cell))
