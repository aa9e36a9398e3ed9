"""The words of the project are defined once, and modules are named by one job."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = """
base cache chunk codec delta digest index layout locator manifest object pack pin pointer raw remote representation
skeleton span store stored update
"""
DRAWERS = {"utils", "helpers", "common", "misc"}


@pytest.mark.parametrize("word", WORDS.split())
def test_a_word_is_defined_once(word: str) -> None:
    definitions = re.findall(rf"\*\*{word}\*\*:", (ROOT / "docs" / "glossary.md").read_text())

    assert len(definitions) == 1


def test_the_sides_of_a_merge_are_named() -> None:
    assert "**base / ours / theirs**:" in (ROOT / "docs" / "glossary.md").read_text()


def test_no_module_is_a_drawer_for_leftovers() -> None:
    modules = {
        path.stem for package in ("thetastore", "gitbridge", "migrations") for path in (ROOT / package).rglob("*.py")
    }

    assert not modules & DRAWERS


def test_every_module_says_what_it_is_for() -> None:
    for package in ("thetastore", "gitbridge", "migrations"):
        for path in (ROOT / package).rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path
