"""Attributes mean to us what they mean to git."""

from __future__ import annotations

import subprocess

import pytest

from migrations.attribute_rules import filter_of, lines_of, rules_of

PATTERNS = [
    "*.bin",
    "m.bin",
    "/m.bin",
    "a/m.bin",
    "a/*.bin",
    "a/**",
    "**/m.bin",
    "a/**/m.bin",
    "a/b/",
    "?.bin",
    "[a-m].bin",
    "[!a-m].bin",
    "[[:digit:]].bin",
    "[]-].bin",
    "a*b*.bin",
    "\\*.bin",
    '"a b.bin"',
    '"\\303\\251.bin"',
    "**",
    "*",
    "a**",
    "**/b/**",
    "a/b",
    "[a/b].bin",
    "x[.bin",
    "M.bin",
    "m.bin ",
    "!m.bin",
    "# m.bin",
]
PATHS = [
    "m.bin",
    "z.bin",
    "1.bin",
    "-.bin",
    "].bin",
    "*.bin",
    "a b.bin",
    "é.bin",
    "ab.bin",
    "axbx.bin",
    "a/m.bin",
    "a/b/m.bin",
    "a/b/c/m.bin",
    "b/m.bin",
    "a/b",
    "x[.bin",
    "x",
    "a/x.txt",
]


def git_says(path, attributes):
    subprocess.run(["git", "init", "-q", path], check=True)
    for name, text in attributes.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    asked = "".join(f"{one}\0" for one in PATHS)
    answer = subprocess.run(
        ["git", "check-attr", "-z", "--stdin", "filter"],
        cwd=path,
        input=asked,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    values = dict(zip(answer[0::3], answer[2::3], strict=False))
    return {one: None if values[one] in ("unspecified", "unset", "set") else values[one] for one in PATHS}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_it_matches_in_git(tmp_path, pattern):
    text = f"{pattern} filter=theta\n"

    rules = rules_of(lines_of(text.encode()), "")

    assert {one: filter_of(rules, one) for one in PATHS} == git_says(tmp_path, {".gitattributes": text})


def test_later_lines_and_deeper_directories_count_more(tmp_path):
    top = "*.bin filter=lfs -text\na/*.bin filter=theta\nz.bin -filter\n1.bin !filter\n* text=auto\n"
    deeper = "m.bin filter=other diff=x\n/b/c/m.bin filter\n"

    rules = rules_of(lines_of(top.encode()), "") + rules_of(lines_of(deeper.encode()), "a/")

    assert {one: filter_of(rules, one) for one in PATHS} == git_says(
        tmp_path, {".gitattributes": top, "a/.gitattributes": deeper}
    )
