"""Which filter the `.gitattributes` of a tree give to a path, without a work tree.

Git 2.39 answers that for the index and the work tree only, and here it is asked of every commit of a history. What
counts is the attribute `filter`: the last line that matches decides, and those of a deeper directory come later.
Macros are not expanded: none of git's own sets a filter.

Source: gitattributes(5), gitignore(5) on patterns; `wildmatch.c` of git for `**` and character classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from gitbridge.attributes import split_line


class Rule(NamedTuple):
    """A line that says something of the filter."""

    matches: Callable[[str], object]
    """Of a path below the directory of the rule."""
    directory: str
    """With a slash at its end; empty for the top."""
    filter: str | None
    """The filter's name; None takes away what earlier lines said."""


def lines_of(text: bytes) -> list[str]:
    """Return the lines of a file with their ends; bytes survive as surrogates."""
    lines = [line + "\n" for line in text.decode("utf-8", "surrogateescape").split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def rules_of(lines: Iterable[str], directory: str) -> tuple[Rule, ...]:
    """Return what the lines of a directory's `.gitattributes` say of filters, in order."""
    found = []
    for line in lines:
        pattern, attributes = split_line(line)
        said = _filter_in(attributes)
        if pattern and said is not _NOTHING and not pattern.startswith(("!", "[attr]")):
            found.append(Rule(matcher(pattern), directory, None if said is None else str(said)))
    return tuple(found)


_NOTHING = object()


def _filter_in(attributes: Iterable[str]) -> object:
    said: object = _NOTHING
    for attribute in attributes:
        if attribute in ("-filter", "!filter", "filter"):
            said = None
        elif attribute.startswith("filter="):
            said = attribute[len("filter=") :]
    return said


def filter_of(rules: tuple[Rule, ...], path: str) -> str | None:
    """Return the name of a path's filter; None where it has none."""
    for rule in reversed(rules):
        if path.startswith(rule.directory) and rule.matches(path[len(rule.directory) :]):
            return rule.filter
    return None


@lru_cache(maxsize=4096)
def matcher(pattern: str) -> Callable[[str], object]:
    """Return what tells whether a pattern matches a path; one without a slash looks at the last part alone."""
    if pattern.endswith("/"):
        return lambda path: None  # git gives a directory's attributes to nothing in it
    matches = re.compile(_expression(_as_bytes(pattern.removeprefix("/"))), re.DOTALL).fullmatch
    if "/" not in pattern:
        return lambda path: matches(_as_bytes(path.rpartition("/")[2]))
    return lambda path: matches(_as_bytes(path))


def _as_bytes(text: str) -> str:
    """Return a text with a character for each byte, since git's `?` stands for a byte."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("latin-1")


_TOKEN = re.compile(r"^\*\*/|/\*\*/|/\*\*$|\*+|\?|\[[!^]?\]?(?:\\.|\[:[a-z]+:\]|[^\]])*\]|\\.|.", re.DOTALL)
_SPELLED = {"**/": "(?:.*/)?", "/**/": "/(?:.*/)?", "/**": "/.*", "?": "[^/]"}
_CLASSES = {"alnum": "A-Za-z0-9", "alpha": "A-Za-z", "digit": "0-9", "lower": "a-z", "upper": "A-Z", "space": r"\s"}


def _expression(pattern: str) -> str:
    text = ""
    for token in _TOKEN.findall(pattern):
        if token in _SPELLED:
            text += _SPELLED[token]
        elif token[0] == "*":
            text += "[^/]*"
        elif token[0] == "[" and len(token) > 1:
            text += _class(token[1:-1])
        elif token == "[":
            return "(?!)"
        else:
            text += re.escape(token[-1])
    return text


def _class(inner: str) -> str:
    """Return a character class in Python's spelling; one that it does not understand matches nothing, as git's."""
    negation = "^" if inner[:1] in ("!", "^") else ""
    inner = inner[len(negation) :]
    inner = re.sub(r"\[:([a-z]+):\]", lambda found: _CLASSES.get(found[1], ""), inner)
    escaped = re.sub(r"\\(.)|([\[\]^&|~\\])", lambda found: "\\" + (found[1] or found[2]), inner, flags=re.DOTALL)
    try:
        re.compile(f"[{negation}{escaped}]")
    except re.error:
        return "(?!)"
    return f"(?!/)[{negation}{escaped}]"
