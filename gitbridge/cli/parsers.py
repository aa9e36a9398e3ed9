"""The parsers of all commands that people type: for the reference, the manual page and completion."""

from __future__ import annotations

from argparse import ArgumentParser

from gitbridge.cli.main import COMMANDS, groups
from thetastore.command_line import parser_of


def all_parsers() -> dict[str, tuple[str, ArgumentParser]]:
    """Return summary and parser by name, in the order of the overview. Imports the module of every command."""
    shown = (name for _, names in groups() for name in names)
    return {name: (COMMANDS[name].summary, parser_for(name)) for name in shown}


def parser_for(name: str) -> ArgumentParser:
    """Return the parser of one command.

    Raises:
        TypeError: the command does not begin by parsing; see `parser_of`.
    """
    command = COMMANDS[name]
    return parser_of(getattr(__import__(command.module, fromlist=[command.function]), command.function))
