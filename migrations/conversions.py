"""What each direction does to attributes, and which files it takes.

With patterns, lines are added at the end of the top directory's `.gitattributes`, where they count more than those
before them. Without, the lines that are there are changed in place, wherever they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from gitbridge.attributes import ATTRIBUTES, render_line, split_line, stored_pattern
from gitbridge.errors import UsageError
from migrations.attribute_rules import rules_of

_LFS = ("filter=lfs", "diff=lfs", "merge=lfs", "-text")
_PLAIN = ("!filter", "!diff", "!merge", "!text")
OURS, LFS, GIT = "theta", "lfs", "git"
_OF = {OURS: ATTRIBUTES, LFS: _LFS, GIT: _PLAIN}


class Change:
    """From one filter to another: `git` stands for none."""

    def __init__(self, source: str, target: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._source = source
        self._target = target
        self._changes_lines = source != GIT and not include
        self._includes = tuple(map(stored_pattern, include))
        self.top_lines = [attributes_line(pattern, _OF[target]) for pattern in include]
        self.top_lines += [attributes_line(pattern, _OF[source]) for pattern in exclude]

    def line(self, line: str) -> str:
        """See `Conversion.line`."""
        pattern, attributes = split_line(line)
        if not pattern or f"filter={self._source}" not in attributes:
            return line
        if not self._changes_lines and pattern not in self._includes:
            return line
        return self._changed(line, pattern, attributes)

    def _changed(self, line: str, pattern: str, attributes: list[str]) -> str:
        taken = {*_OF[self._source], *_OF[self._target], "text=auto", "text"}
        others = [attribute for attribute in attributes if attribute not in taken]
        mine = [] if self._target == GIT else list(_OF[self._target])
        if not mine and not others:
            return ""
        end = "\r\n" if line.endswith("\r\n") else "\n" if line.endswith("\n") else ""
        return " ".join((_head(self.renamed(pattern)), *mine, *others)) + end

    def renamed(self, pattern: str) -> str:
        """Return the pattern for what becomes of the files that one matches."""
        return pattern

    def wants(self, old_filter: str | None, new_filter: str | None) -> bool:
        """See `Conversion.wants`."""
        if self._target == OURS:
            return new_filter == OURS
        return old_filter == OURS and new_filter != OURS


def attributes_line(pattern: str, attributes: Sequence[str]) -> str:
    """Return a line of attributes."""
    return " ".join((_head(pattern), *attributes)) + "\n"


def _head(pattern: str) -> str:
    """Return a pattern as it begins a line, quoted where git needs it."""
    return render_line(pattern).removesuffix(" ".join(("", *ATTRIBUTES)))


def files_below(patterns: Sequence[str]) -> list[str]:
    """Return patterns as attributes need them: those of directories as those of all files below.

    Raises:
        UsageError: attributes cannot have one.
    """
    found = [pattern + "**" if pattern.endswith("/") else pattern for pattern in patterns]
    for pattern in found:
        if not pattern or not rules_of([attributes_line(pattern, ATTRIBUTES)], ""):
            raise UsageError(f"'{pattern}' is not a pattern of files", "as in .gitattributes: '*.bin', 'models/**'")
    return found
