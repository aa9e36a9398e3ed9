"""The table of settings has all that the code reads, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from gitbridge.git_theta_names import REPLACED
from gitbridge.settings import (
    CONFIGURATION,
    ENVIRONMENT,
    INTERNAL,
    parse_size,
    truth,
    unknown_settings,
    without_effect,
)

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "gitbridge" / "settings.py"
FILE_MARKS = {"theta.part_of", "theta.tensors", "theta.fetch"}
"""Words in the metadata of files, and the beginning of several settings: no settings themselves."""


def literals(pattern: str, package: str) -> set[str]:
    sources = [path for path in (ROOT / package).rglob("*.py") if path != TABLE]
    return {name for path in sources for name in re.findall(pattern, path.read_text(encoding="utf-8"))}


def test_every_setting_that_the_code_names_is_in_the_table() -> None:
    named = literals(r"(?<![\w.-])theta(?:\.[a-zA-Z_]\w*)+(?!:)\b", "gitbridge") - FILE_MARKS - {"theta.name"}
    known = {setting.name for setting in CONFIGURATION} | set(INTERNAL)

    assert named - known == set(), "to mend it: a line in gitbridge/settings.py, then make docs"
    assert {name for name in known if name.startswith("theta.") and "<" not in name} - named == set(), (
        "in the table, and nothing reads it"
    )


def test_every_variable_that_the_code_names_is_in_the_table() -> None:
    pattern = r"\b(?:GIT_THETA|THETASTORE)_[A-Z_]+\b"
    named = literals(pattern, "gitbridge") | literals(pattern, "thetastore")
    known = {setting.name for setting in ENVIRONMENT} | set(REPLACED)

    assert named - known == set(), "to mend it: a line in gitbridge/settings.py, then make docs"


def test_unknown_names_are_told_with_near_ones_whatever_their_case() -> None:
    found = unknown_settings(["theta.ulr", "theta.allowincompletepush", "theta.zzz", "core.bare", "remote.o.thetaurl"])

    assert [tuple(one) for one in found] == [("theta.ulr", "theta.url"), ("theta.zzz", "")]
    assert without_effect(["theta.url", "theta.storage"]) == ["theta.storage"]


def test_words_are_read_as_git_reads_them() -> None:
    assert (truth("YES"), truth("0"), truth(""), truth("maybe")) == (True, False, False, None)
    assert (parse_size("10m"), parse_size("3"), parse_size("1G"), parse_size("x"), parse_size("-1")) == (
        10 << 20,
        3,
        1 << 30,
        None,
        None,
    )


def test_no_setting_is_in_the_table_twice() -> None:
    for settings in (CONFIGURATION, ENVIRONMENT):
        names = [setting.name for setting in settings]
        assert sorted(set(names)) == sorted(names)
