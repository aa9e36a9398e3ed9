"""Standard output, as both command lines have it."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Let names be printed that are not UTF-8, and results keep their order with what is said of them in one log."""
    try:
        is_one_log = os.path.sameopenfile(1, 2)
    except OSError:  # one of them is closed
        is_one_log = False
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=is_one_log)  # type: ignore[union-attr]
