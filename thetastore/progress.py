"""What is done so far, for people and for programs that wait: both command lines show it by this."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from thetastore.tables import count_text, size_text

VARIABLE = "THETASTORE_PROGRESS"


class Progress:
    """What is done so far: a line that changes on a terminal, a line now and then elsewhere, JSON lines, or nothing.

    Which of these, a variable of the environment says (`auto`, `json`, `none`). Nothing is shown of what takes less
    than a heartbeat where there is no terminal.
    """

    def __init__(
        self, label: str, stream: TextIO | None = None, program: str = "thetastore", variable: str = VARIABLE
    ) -> None:
        """Show what is under way.

        Args:
            label: what that is: `fetching weights`.
            stream: where; None for standard error.
            program: who says so, where lines stand for themselves.
            variable: name of the variable.
        """
        self._label = label
        self._stream = stream or sys.stderr
        self._program = program
        self._mode = _mode(self._stream, variable)
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
            self._stream.write(f"{self._program}: {line}\n")
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


def _mode(stream: TextIO, variable: str) -> str:
    asked = os.environ.get(variable, "").lower()
    if asked in ("none", "json"):
        return "" if asked == "none" else _JSON
    return _LINE if stream.isatty() and os.environ.get("TERM") != "dumb" else _BEATS
