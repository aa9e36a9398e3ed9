"""Figures as people read them: sizes, counts, shapes, aligned columns.

Sizes are decimal (1 kB = 1000 bytes, as model hubs and disks say).
"""

from __future__ import annotations

from collections.abc import Sequence

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
