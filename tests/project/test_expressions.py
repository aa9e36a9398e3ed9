"""No regular expression repeats a group possessively: Python before 3.11.5 matches those wrongly.

Debian 12 has 3.11.2. There `(?:,1)*+]` matches `,]`: what the last try of the group has consumed is not given back
(https://github.com/python/cpython/issues/106052). Single characters and sets may be repeated so.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for package in ("thetastore", "gitbridge", "migrations") for path in (ROOT / package).rglob("*.py")
)
POSSESSIVE_GROUP = re.compile(r"(?<!\\)\)(?:[*+?]|\{\d*,?\d*\})\+|\(\?>")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_group_is_repeated_possessively(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert not [line for line in lines if POSSESSIVE_GROUP.search(line) and re.search(r"\br[bf]?[\"']", line)]


def test_such_a_group_is_recognised() -> None:
    assert POSSESSIVE_GROUP.search(r"(?:,1)*+\]")
    assert POSSESSIVE_GROUP.search(r"(?:a|b){0,63}+")
    assert not POSSESSIVE_GROUP.search(r"[ab]*+\)+")
