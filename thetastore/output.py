"""How both command lines hand out what they found: to people, to scripts, to programs; and when they keep quiet.

A command says once, in `Rows`, which lists of its `--json` are lines of `--porcelain`, and with which fields: the two
cannot disagree, and the help and the reference name the fields. docs/commands.md has the rules for scripts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from thetastore.command_line import print_json
from thetastore.tables import has_colours, painted

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
Paint = Callable[[str, str], str]
"""Returns a text in a colour, or as it is."""


class Rows(NamedTuple):
    """Which values of `--json` are lines of `--porcelain`."""

    path: str
    """Of the list: `tensors`, or `files.tensors` for the tensors of all files; empty for the values themselves."""
    fields: Sequence[str]
    """Of an item, in order; `commit.oid` is inside of `commit`, `files.path` the path of the file that it is in."""

    @property
    def kind(self) -> str:
        """What one line is of; it is the first field where a command has several kinds."""
        name = self.path.rpartition(".")[2]
        return name.removesuffix("s")


def pairs(path: str) -> Rows:
    """Return rows of the names and the values that an object of `--json` has."""
    return Rows(path, _PAIR)


_PAIR = ("name", "value")


def add_listing_options(
    parser: argparse.ArgumentParser, *rows: Rows, group: Any = None, json: Sequence[str] = ("--json",), nul: str = ""
) -> None:
    """Give a command that lists something `--json`, `--porcelain`, `-z` and `--color`.

    Args:
        parser: of the command.
        rows: what `--porcelain` prints.
        group: of options that exclude each other and these; None for a new one.
        json: the spellings of `--json`.
        nul: what `-z` alone does, if not the same as `--porcelain -z`.
    """
    parser.set_defaults(porcelain_rows=rows)
    forms = group or parser.add_mutually_exclusive_group()
    forms.add_argument(*json, action="store_true", help="for programs; schema 1")
    said = "; ".join((f"{one.kind}, " if len(rows) > 1 else "") + ", ".join(one.fields) for one in rows)
    forms.add_argument("--porcelain", action="store_true", help=f"for scripts, a line each, tabs between: {said}")
    parser.add_argument("-z", dest="nul", action="store_true", help=nul or "--porcelain, each line ended by a NUL byte")
    add_color_option(parser)


def add_color_option(parser: argparse.ArgumentParser) -> None:
    """Give a command `--color`, as git has it; see `painter`."""
    parser.add_argument(
        "--color",
        nargs="?",
        choices=("auto", "always", "never"),
        const="always",
        default="auto",
        metavar="WHEN",
        help="auto (on a terminal, unless NO_COLOR is set), always or never",
    )


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """Give a command that shows no progress `-q`; `quietly` goes by it."""
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")


@contextmanager
def quietly(options: argparse.Namespace) -> Iterator[None]:
    """Let a command that was given `-q` print nothing on standard output but what is for programs."""
    if not options.quiet or wants_values(options):
        yield
        return
    from contextlib import redirect_stdout

    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def wants_values(options: argparse.Namespace) -> bool:
    """Tell whether `print_values` is wanted, and no text for people."""
    return any(getattr(options, name, False) for name in ("json", "porcelain", "nul"))


def print_values(options: argparse.Namespace, values: Mapping[str, Any]) -> None:
    """Print what a command found, as `--json` or as `--porcelain`."""
    if options.json:
        print_json(values)
        return
    end = "\0" if options.nul else "\n"
    several = len(options.porcelain_rows) > 1
    sys.stdout.flush()
    for rows in options.porcelain_rows:
        for line in _lines(rows, values, several):
            sys.stdout.buffer.write((line + end).encode("utf-8", "surrogateescape"))


def _lines(rows: Rows, values: Mapping[str, Any], has_kind: bool) -> Iterator[str]:
    for items in _items(rows, {"": values}, values, rows.path.split(".") if rows.path else []):
        cells = [rows.kind] * has_kind + [_cell(_field(items, name)) for name in rows.fields]
        yield "\t".join(cells)


def _items(rows: Rows, around: dict[str, Any], item: Any, path: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield, for each line, the item itself (under an empty name) and those that it is in, by the names of lists."""
    if not path:
        if rows.fields is _PAIR:
            yield from ({"": {"name": name, "value": value}} for name, value in item.items())
        else:
            yield {**around, "": item}
        return
    found = item.get(path[0]) or ()
    # Values that are one object, as totals are, are one line.
    for one in (found,) if isinstance(found, Mapping) else found:
        yield from _items(rows, {**around, path[0]: one}, one, path[1:])


def _field(items: Mapping[str, Any], name: str) -> Any:
    first, _, rest = name.partition(".")
    value = items[first] if rest and first in items else items[""]
    for part in (rest if rest and first in items else name).split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    import json

    return json.dumps(value, separators=(",", ":")).translate(_ESCAPES)


def painter(options: argparse.Namespace) -> Paint:
    """Return what paints a text for standard output, if colours are wanted there."""
    is_on = has_colours(options.color, sys.stdout)
    return lambda text, colour: painted(text, colour, is_on)
