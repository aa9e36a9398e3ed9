"""The parsers of all commands that people type: for the reference, the manual page and completion."""

from __future__ import annotations

from argparse import ArgumentParser

from gitbridge.cli.main import COMMANDS, groups
from thetastore.command_line import parser_of


def all_parsers() -> dict[str, tuple[str, ArgumentParser]]:
    """Return summary and parser by name, in the order of the overview. Imports the module of every command."""
    found = {}
    for name in (name for _, names in groups() for name in names):
        command = COMMANDS[name]
        function = getattr(__import__(command.module, fromlist=[command.function]), command.function)
        found[name] = (command.summary, parser_of(function))
    return found
