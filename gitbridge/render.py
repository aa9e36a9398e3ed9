"""Text for people: sizes and tables, which are the store's, and progress.

Results go to standard output, all else to standard error.
"""

from __future__ import annotations

from typing import TextIO

from thetastore import progress
from thetastore.tables import count_text, has_colours, painted, printable, shape_text, size_text, table

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
