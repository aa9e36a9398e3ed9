"""Text for people: sizes and tables, which are the store's, and progress.

Results go to standard output, all else to standard error.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from thetastore.tables import count_text, printable, shape_text, size_text, table

__all__ = [
    "PROGRESS_VARIABLE",
    "Progress",
    "count_text",
    "has_colours",
    "painted",
    "printable",
    "shape_text",
    "size_text",
    "table",
]


class Progress:
    """What is done so far: a line that changes on a terminal, a line now and then elsewhere, JSON lines, or nothing.

    Which of these, GIT_THETA_PROGRESS says (`auto`, `json`, `none`): git's own processes pass it on to our filter and
    hooks. Nothing is shown of what takes less than a heartbeat where there is no terminal.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = stream or sys.stderr
        self._mode = _mode(self._stream)
        self._started = time.monotonic()
        self._shown = self._started if self._mode == _BEATS else 0.0
        self._width = 0
        self._last: dict[str, int] = {}

    def __call__(self, object_count: int, stored_bytes: int) -> None:
        """Show how far a copy is."""
        self._last = {"objects": object_count, "stored_bytes": stored_bytes}
        if not self._is_due():
            return
        elapsed_s = max(self._shown - self._started, 0.001)
        if self._mode == _JSON:
            self._write_json()
        else:
            rate = size_text(int(stored_bytes / elapsed_s))
            self._show(f"{count_text(object_count, 'object')}, {size_text(stored_bytes)}, {rate}/s")

    def of_bytes(self, done_bytes: int, total_bytes: int) -> None:
        """Show how much of a known amount is done."""
        self._last = {"done_bytes": done_bytes, "total_bytes": total_bytes}
        if not self._is_due():
            return
        if self._mode == _JSON:
            self._write_json()
            return
        share = done_bytes / max(total_bytes, 1)
        left_s = (self._shown - self._started) * (1 - share) / max(share, 1e-9)
        left = f", {left_s:.0f} s left" if 0 < share < 1 and self._shown - self._started > _SOON_S else ""
        self._show(f"{100 * share:.0f} % of {size_text(total_bytes)}{left}")

    def _is_due(self) -> bool:
        now = time.monotonic()
        if not self._mode or now - self._shown < _EVERY_S[self._mode]:
            return False
        self._shown = now
        return True

    def _show(self, text: str) -> None:
        line = f"{self._label}: {text}"
        if self._mode == _BEATS:
            self._stream.write(f"git theta: {line}\n")
        else:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        self._stream.flush()

    def _write_json(self, **more: bool) -> None:
        import json

        elapsed_s = round(time.monotonic() - self._started, 3)
        line = {"schema": 1, "progress": self._label, "elapsed_s": elapsed_s, **self._last, **more}
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()

    def done(self) -> None:
        """Take the line away; as JSON, say how it ended."""
        if self._mode == _JSON and self._last:
            self._write_json(done=True)
            self._last = {}
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0


_LINE, _BEATS, _JSON = "line", "beats", "json"
_EVERY_S = {_LINE: 0.1, _BEATS: 10.0, _JSON: 1.0}
_SOON_S = 2.0
"""What is left is guessed only after this long."""


def _mode(stream: TextIO) -> str:
    asked = os.environ.get(PROGRESS_VARIABLE, "").lower()
    if asked in ("none", "json"):
        return "" if asked == "none" else _JSON
    return _LINE if stream.isatty() and os.environ.get("TERM") != "dumb" else _BEATS


PROGRESS_VARIABLE = "GIT_THETA_PROGRESS"


def painted(text: str, colour: str, is_on: bool) -> str:
    """Return text in a colour of `COLOURS`, or as it is."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[m" if is_on else text


COLOURS = {"green": 32, "yellow": 33, "red": 31}


def has_colours(asked: str, stream: TextIO) -> bool:
    """Tell whether colours are wanted, as git tells it: `always`, `never`, or `auto`, which means on a terminal."""
    if asked != "auto":
        return asked == "always"
    return "NO_COLOR" not in os.environ and stream.isatty() and os.environ.get("TERM") != "dumb"
