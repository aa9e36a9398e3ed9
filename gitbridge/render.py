"""Text for people: sizes and tables, which are the store's, and progress.

Results go to standard output, all else to standard error.
"""

from __future__ import annotations

import os
from typing import TextIO

from thetastore import progress
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


class Progress(progress.Progress):
    """What is done so far; see `thetastore.progress`.

    How it is shown, GIT_THETA_PROGRESS says: git's own processes pass it on to our filter and hooks.
    """

    def __init__(self, label: str, stream: TextIO | None = None) -> None:
        super().__init__(label, stream, "git theta", PROGRESS_VARIABLE)


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
