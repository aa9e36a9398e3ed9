"""What a parser says, as a reference in Markdown and as a manual page: `make docs` writes both.

The usage line is made here and not by argparse, whose wrapping and spelling change with Python's version: the files
are compared with the code by a test.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NamedTuple

from thetastore.command_line import subcommands_of


class Argument(NamedTuple):
    """One option or positional argument, as people see it."""

    spelling: str
    """`-n, --dry-run`, `--base REV`, or `FILE...`."""
    text: str


class Described(NamedTuple):
    """One command."""

    name: str
    """As it is typed: `git theta status`."""
    summary: str
    """One line; empty where nobody gave one."""
    usage: str
    description: str
    arguments: list[Argument]
    options: list[Argument]
    epilog: str


def describe(parser: argparse.ArgumentParser, summary: str = "") -> list[Described]:
    """Return a command, and each of its subcommands after it."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    nested = subcommands_of(parser)
    positionals = [
        Argument(_metavar(action), _text(action, parser))
        for action in actions
        if not action.option_strings and action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    options = [Argument(_spelling(action), _text(action, parser)) for action in actions if action.option_strings]
    own = Described(
        parser.prog,
        summary,
        _usage(parser),
        parser.description or "",
        positionals,
        [option for option in options if not option.spelling.startswith("-h,")],
        parser.epilog or "",
    )
    return [own, *(one for said, sub in nested.values() for one in describe(sub, said))]


def markdown(commands: Iterable[Described]) -> str:
    """Return the sections of commands."""
    return "\n".join(_markdown_section(command) for command in commands)


def manual_page(name: str, one_line: str, overview: str, commands: Iterable[Described], see_also: str) -> str:
    """Return a page for `man`, section 1, with all commands on it.

    Args:
        name: of the program, and of the page.
        one_line: what it is, for the list of pages.
        overview: text before the commands, paragraphs apart by empty lines.
        commands: as `describe` returns them.
        see_also: the last section.
    """
    lines = [f'.TH {name.upper()} 1 "" "thetastore" "thetastore manual"', ".SH NAME", f"{name} \\- {_roff(one_line)}"]
    lines += [".SH DESCRIPTION", *_roff_paragraphs(overview), ".SH COMMANDS"]
    for command in commands:
        lines += [f".SS {_roff(command.name)}", ".nf", _roff(command.usage), ".fi"]
        lines += [".PP", *_roff_paragraphs(command.description or command.summary)]
        for argument in (*command.arguments, *command.options):
            lines += [".TP", f".B {_roff(argument.spelling)}", _roff(argument.text)]
        if command.epilog:
            lines += [".PP", ".nf", _roff(command.epilog.rstrip("\n")), ".fi"]
    return "\n".join([*lines, ".SH SEE ALSO", _roff(see_also), ""])


def _metavar(action: argparse.Action) -> str:
    name = action.metavar if isinstance(action.metavar, str) else ""
    if not name:
        name = "|".join(map(str, action.choices)) if action.choices else action.dest
    if action.nargs in ("*", "+"):
        return f"{name}..."
    return name


def _spelling(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {_value(action)}"


def _value(action: argparse.Action) -> str:
    """Return what stands for the value of an option."""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    name = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    return {"?": f"[{name}]", "*": f"[{name}...]", "+": f"{name}..."}.get(str(action.nargs), name)


def _text(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    values = {**vars(action), "prog": parser.prog}
    return (action.help or "") % values


def _usage(parser: argparse.ArgumentParser) -> str:
    if parser.usage:
        return parser.usage.replace("%(prog)s", parser.prog)
    if subcommands_of(parser):
        return f"{parser.prog} {'|'.join(subcommands_of(parser))} ..."
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    options = [action for action in shown if action.option_strings]
    words = [parser.prog]
    for group in parser._mutually_exclusive_groups:
        members = [action for action in group._group_actions if action in options]
        options = [action for action in options if action not in members]
        joined = " | ".join(map(_short, members))
        words += [f"({joined})" if group.required else f"[{joined}]"] if members else []
    words += [_short(action) if action.required else f"[{_short(action)}]" for action in options]
    for action in (action for action in shown if not action.option_strings):
        name = _metavar(action)
        words.append(f"[{name}]" if action.nargs in ("*", "?") else name)
    return " ".join(words)


def _short(action: argparse.Action) -> str:
    long_first = [name for name in action.option_strings if name.startswith("--")] or list(action.option_strings)
    return long_first[0] if action.nargs == 0 else f"{long_first[0]} {_value(action)}"


def _markdown_section(command: Described) -> str:
    text = f"## {command.name}\n\n```text\n{command.usage}\n```\n\n{_escaped(command.description or command.summary)}\n"
    rows = [*command.arguments, *command.options]
    if rows:
        text += "\n| | |\n| --- | --- |\n"
        text += "".join(f"| `{row.spelling.replace('|', chr(92) + '|')}` | {_cell(row.text)} |\n" for row in rows)
    if command.epilog:
        text += f"\n```text\n{command.epilog.strip(chr(10))}\n```\n"
    return text


def _escaped(text: str) -> str:
    return text.replace("*", "\\*").replace("_", "\\_").replace("<", "\\<").strip()


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _roff_paragraphs(text: str) -> list[str]:
    return [_roff(line) if line.strip() else ".PP" for line in text.strip().split("\n")]


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in escaped.split("\n"))
