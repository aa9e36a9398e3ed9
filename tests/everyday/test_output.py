"""Commands that list something say it to scripts and programs alike, and those that work can keep quiet."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator

import pytest

from gitbridge.cli.parsers import all_parsers
from thetastore.cli.main import all_parsers as all_store_parsers
from thetastore.command_line import options_of, subcommands_of
from thetastore.tables import table

LISTS = {
    "git theta": {
        "status", "ls-files", "ls", "show", "diff", "log", "blame", "du", "doctor", "check", "fsck", "unpin", "logs",
        "env", "track", "mergetool", "migrate info",
    },
    "thetastore": {"ls", "show", "log", "tag", "du", "stats", "verify"},
}  # fmt: skip
"""What it says is rows of something."""
NEITHER = {"git theta": {"cat", "completion", "version"}, "thetastore": {"completion", "version"}}
"""What writes a file, or a line."""
ONLY_LISTS = {
    "git theta": {"ls-files", "ls", "show", "log", "blame", "du", "logs", "env"},
    "thetastore": {"ls", "show", "log", "du", "stats"},
}
"""What neither changes nor checks anything: there, -q would leave nothing."""


def commands() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Return program, command and parser; of a command with subcommands, those."""
    for program, parsers in (("git theta", all_parsers()), ("thetastore", all_store_parsers())):
        for name, (_, parser) in parsers.items():
            below = subcommands_of(parser)
            for action, (_, sub) in below.items():
                yield program, f"{name} {action}", sub
            if not below:
                yield program, name, parser


@pytest.mark.parametrize(("program", "name", "parser"), list(commands()))
def test_what_lists_has_the_options_for_scripts_and_what_works_can_be_quiet(program, name, parser) -> None:
    options = set(options_of(parser))

    if name in LISTS[program]:
        assert options >= {"--json", "--porcelain", "-z", "--color"}
    elif "--json" not in options:
        assert not options & {"--porcelain", "-z", "--color"}, "half of a lister"
    if name not in ONLY_LISTS[program] | NEITHER[program]:
        assert options >= {"-q", "--quiet"}
    assert ("--progress" not in options) or "-q" in options


def test_every_command_is_classed() -> None:
    found = {(program, name) for program, name, _ in commands()}

    for classes in (LISTS, NEITHER, ONLY_LISTS):
        assert {(program, name) for program, names in classes.items() for name in names} <= found


LISTINGS = [
    ("ls-files", "--tensors"), ("ls", "m.safetensors"), ("show", "m.safetensors"), ("log", "m.safetensors"),
    ("blame", "m.safetensors"), ("diff", "HEAD~1", "HEAD"), ("du", "--tensors"), ("doctor",), ("check",), ("env",),
    ("track",),
]  # fmt: skip


def of_rows(commands_: Iterator[tuple[str, str, argparse.ArgumentParser]]) -> dict[str, tuple[int, bool]]:
    """Return how many fields lines may have, by command, and whether a kind goes first."""
    found = {}
    for program, name, parser in commands_:
        rows = parser.get_default("porcelain_rows")
        if program == "git theta" and rows:
            found[name] = ({len(one.fields) + (len(rows) > 1) for one in rows}, len(rows) > 1)
    return found


def without_free_room(text: str) -> str:
    """Leave out how much room a disk has, which others change meanwhile."""
    return re.sub(r"[0-9.]+ .?B are free", "room is free", text)


@pytest.mark.parametrize("command", LISTINGS, ids=lambda command: command[0])
def test_porcelain_has_the_fields_that_its_help_names_and_z_ends_lines_otherwise(work, command) -> None:
    work.write("m.safetensors", work.checkpoint("a", "z"))
    work.commit("another")
    lines = work.theta(*command, "--porcelain", check=False).stdout

    assert lines.endswith("\n")
    counts, _ = of_rows(commands())[command[0]]
    assert {line.count("\t") + 1 for line in lines.splitlines()} <= counts
    ended = work.theta(*command, "--porcelain", "-z", "--color=always", check=False).stdout
    assert without_free_room(ended.replace("\0", "\n")) == without_free_room(lines)
    assert "schema" in json.loads(work.theta(*command, "--json", check=False).stdout)


def test_json_has_no_lines_that_could_end_otherwise(place) -> None:
    assert place.theta("du", "--json", "-z", check=False).returncode == 129
    assert place.run("thetastore", "du", "--json", "--porcelain", "zoo", check=False).returncode == 129


def test_what_stands_in_a_name_cannot_end_a_line_or_a_field(work) -> None:
    work.write("odd\ttab.safetensors", work.checkpoint("odd"))
    work.commit("odd")

    lines = work.theta("ls-files", "--porcelain").stdout.splitlines()

    assert "file\todd\\ttab.safetensors\tfull" in {
        line.rpartition("\t")[0].rpartition("\t")[0].rpartition("\t")[0] for line in lines
    }


def test_a_store_lists_for_scripts_too(place) -> None:
    place.write("some.safetensors", place.checkpoint("a"))
    place.run("thetastore", "init", "-q", "zoo")
    assert place.run("thetastore", "put", "-q", "zoo/some", "some.safetensors").stdout == "some@v1\n"
    assert place.run("thetastore", "tag", "-q", "zoo/some", "prod").stdout == ""

    assert place.run("thetastore", "tag", "--porcelain", "zoo/some").stdout == "prod\t1\n"
    assert place.run("thetastore", "ls", "--porcelain", "zoo").stdout.startswith("model\tsome\t1\t1\t")
    assert place.run("thetastore", "ls", "-z", "zoo/some@v1").stdout.startswith("file\tsome.safetensors\t")
    assert place.run("thetastore", "log", "--porcelain", "zoo/some").stdout.split("\t")[4] == '["prod"]'
    assert place.run("thetastore", "verify", "--porcelain", "zoo").stdout == ""
    shown = place.run("thetastore", "show", "--porcelain", "zoo/some//layer.0").stdout
    assert shown.startswith("name\tlayer.0\ndtype\tfloat32\nshape\t[750,100]\n")
    for command in ("du", "stats"):
        assert place.run("thetastore", command, "--porcelain", "zoo").stdout.startswith("total\t1\t")


@pytest.mark.parametrize(
    "command",
    [
        ("install", "--local"), ("uninstall", "--local"), ("track", "*.bin"), ("untrack", "*.safetensors"), ("repack",),
        ("prune",), ("gc", "--remote"), ("unpin",), ("fsck",), ("status",), ("push",), ("fetch",), ("checkout",),
        ("add", "m.safetensors"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_what_went_well_is_not_spoken_of_with_q(work, command) -> None:
    done = work.theta(*command, "-q")

    assert (done.stdout, done.stderr) == ("", "")


def test_coloured_cells_stay_in_line() -> None:
    plain, painted = table([("ab", "x"), ("abcd", "y")]), table([("\x1b[31mab\x1b[m", "x"), ("abcd", "y")])

    assert painted.replace("\x1b[31m", "").replace("\x1b[m", "") == plain
