"""Options that several commands have, and that mean the same in all of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from gitbridge.errors import UsageError
from gitbridge.render import PROGRESS_VARIABLE
from thetastore import command_line
from thetastore.command_line import EXIT_USAGE


def add_progress_options(parser: argparse.ArgumentParser) -> None:
    """Give a command `-q` and `--progress`; what git runs of ours goes by them, too."""
    command_line.add_progress_options(parser, PROGRESS_VARIABLE)


def add_refs_from_input(parser: argparse.ArgumentParser) -> None:
    """Give a command that takes REF `--stdin`; see `refs_given`."""
    parser.add_argument("--stdin", action="store_true", help="read REFs from standard input, one a line")


def refs_given(options: argparse.Namespace, usual: list[str]) -> list[str]:
    """Return the revisions that a command was given, as arguments or on standard input; else the usual ones."""
    if not options.stdin:
        return options.refs or usual
    if options.refs:
        raise UsageError(f"'{options.refs[0]}' is named, and --stdin says that names come from there")
    return [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]


def refuse_git_lfs_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Have a parser say of the options that only git-lfs has what to do instead.

    Args:
        parser: of the command.
        command: its name in `git_lfs.COMMANDS`.
    """
    from gitbridge.cli.git_lfs import ABSENT, command_of

    found = command_of(command)
    assert found is not None, f"git-lfs has no '{command}'"
    for option in found.options:
        if option.kind == ABSENT and option.names:
            # A value, if there is one, must not be taken for a file.
            parser.add_argument(
                *option.names, action=Refused, nargs="?", words=option.words, instead=option.instead,
                default=argparse.SUPPRESS, help=argparse.SUPPRESS,
            )  # fmt: skip


class Refused(argparse.Action):
    """An option that is known and not here: it ends the command as a usage error, with the way out."""

    def __init__(self, *args: Any, words: str, instead: str, **more: Any) -> None:
        super().__init__(*args, **more)
        self._text = f"is not here: {words}\nhint: {instead}"

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, name: str | None = None) -> None:
        """Say so."""
        parser.exit(EXIT_USAGE, f"{parser.prog}: {name} {self._text}\n")
