"""Plots as SVG text, without a plotting library: a heat map, bars, and curves on a logarithmic scale.

Colours are those of the page around, by classes, so that a plot fits a light page and a dark one. Text is escaped here.
Marks carry their figures as `<title>`, which browsers show under the pointer and read aloud.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_CELL_WIDTH, _CELL_HEIGHT = 30, 20
_LETTER_WIDTH = 6.2
"""Of the 11 px text of labels."""
_LONGEST_LABEL = 38
_OUTLINES = {True: 'class="still"', False: 'class="odd"'}


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[int, int], tuple[float | None, str]], label: str
) -> str:
    """Return a grid of cells, the darker the larger their value, on a logarithmic scale.

    Args:
        rows: labels on the left.
        columns: labels above.
        values: by row and column: a value and its text; None for what did not change, 0 for what has no norm.
        label: what the plot is, for those who cannot see it.
    """
    left = 12 + _LETTER_WIDTH * max(len(_short(row)) for row in rows)
    longest = max(len(_short(column)) for column in columns)
    top = 14 + 0.72 * _LETTER_WIDTH * longest
    right = 0.72 * _LETTER_WIDTH * len(_short(columns[-1])) + 8
    width, height = left + _CELL_WIDTH * len(columns) + right, top + _CELL_HEIGHT * len(rows) + 4
    scale = _LogScale([value for value, _ in values.values() if value])
    parts = [
        _text(left + _CELL_WIDTH * (at + 0.5), top - 8, _short(name), name, turned=True)
        for at, name in enumerate(columns)
    ]
    for at, name in enumerate(rows):
        parts.append(_text(left - 6, top + _CELL_HEIGHT * (at + 0.5) + 4, _short(name), name, anchor="end"))
    for (row, column), (value, text) in sorted(values.items()):
        x, y = left + _CELL_WIDTH * column, top + _CELL_HEIGHT * row
        shade = f'class="heat" fill-opacity="{scale.share(value):.2f}"' if value else _OUTLINES[value is None]
        size = f'width="{_CELL_WIDTH - 2}" height="{_CELL_HEIGHT - 2}" rx="2"'
        parts.append(f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" {size} {shade}><title>{escape(text)}</title></rect>')
    return _svg(width, height, label, parts)


def bars(bins: Sequence[tuple[str, int, str]], label: str, unit: str) -> str:
    """Return a histogram.

    Args:
        bins: label under the bar, count, text of the bar.
        label: what the plot is.
        unit: what is counted; stands at the axis.
    """
    width, height, left, bottom = 340.0, 170.0, 14.0, 30.0
    step = (width - left - 8) / max(len(bins), 1)
    most = max((count for _, count, _ in bins), default=0) or 1
    parts = [f'<line class="axis" x1="{left}" y1="{height - bottom}" x2="{width - 4}" y2="{height - bottom}"/>']
    every = max(1, math.ceil(40 / step))
    for at, (name, count, text) in enumerate(bins):
        tall = (height - bottom - 24) * count / most
        x = left + at * step
        parts.append(
            f'<rect class="bar" x="{x + 0.5:.1f}" y="{height - bottom - tall:.1f}" width="{max(step - 1, 1):.1f}" '
            f'height="{tall:.1f}"><title>{escape(text)}</title></rect>'
        )
        if at % every == 0:
            parts.append(_text(x + step / 2, height - bottom + 14, name, "", anchor="middle"))
    parts.append(_text(left, 12, unit, ""))
    return _svg(width, height, label, parts)


def curve(values: Sequence[float], label: str) -> str:
    """Return a falling curve of positive values on a logarithmic scale, relative to the first."""
    width, height, left, bottom = 230.0, 130.0, 36.0, 20.0
    shown = [max(value / values[0], 1e-9) for value in values] if values and values[0] else []
    low = min(-1, math.floor(math.log10(min(shown)))) if shown else -1
    parts = []
    for power in range(0, low - 1, -max(1, -low // 4)):
        y = _height_of(10.0**power, low, height, bottom)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{width - 6}" y2="{y:.1f}"/>')
        parts.append(_text(left - 4, y + 4, f"1e{power}" if power else "1", "", anchor="end"))
    step = (width - left - 12) / max(len(shown) - 1, 1)
    points = [(left + 2 + at * step, _height_of(value, low, height, bottom)) for at, value in enumerate(shown)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<polyline class="curve" points="{path}"/>')
    if len(points) <= 32:
        parts += [
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2"><title>{at + 1}: {value:.3g}</title></circle>'
            for at, ((x, y), value) in enumerate(zip(points, values, strict=True))
        ]
    parts.append(_text(left, height - 4, "1", "", anchor="middle"))
    parts.append(_text(width - 8, height - 4, str(len(values)), "", anchor="end"))
    return _svg(width, height, label, parts)


class _LogScale:
    """Maps positive values to 0.12 .. 1, the largest to 1; what is under a millionth of it is as pale as can be."""

    def __init__(self, values: Sequence[float]) -> None:
        fine = [value for value in values if value and math.isfinite(value)]
        self._top = math.log10(max(fine)) if fine else 0.0
        self._low = max(math.log10(min(fine)), self._top - 6) if fine else 0.0

    def share(self, value: float) -> float:
        if not math.isfinite(value):
            return 1.0
        span = self._top - self._low
        share = 1.0 if not span else (math.log10(value) - self._low) / span
        return 0.12 + 0.88 * min(max(share, 0.0), 1.0)


def _height_of(value: float, low: int, height: float, bottom: float) -> float:
    return 8 + (height - bottom - 12) * math.log10(value) / low


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else "…" + name[1 - _LONGEST_LABEL :]


def _text(x: float, y: float, text: str, title: str, anchor: str = "start", turned: bool = False) -> str:
    turn = f' transform="rotate(-45 {x:.1f} {y:.1f})"' if turned else ""
    said = f"<title>{escape(title)}</title>" if title and title != text else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(text)}{said}</text>'


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label, quote=True)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>\n'
    )
