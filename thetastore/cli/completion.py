"""`thetastore completion`."""

from __future__ import annotations

import sys

from thetastore.command_line import Parser
from thetastore.completion import SHELLS, script


def run(arguments: list[str]) -> int:
    """Print a completion script."""
    parser = Parser(prog="thetastore completion", description="Print what completes thetastore in a shell.")
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or fish")
    options = parser.parse_args(arguments)
    from thetastore.cli.main import all_parsers

    sys.stdout.write(script(options.shell, "thetastore", all_parsers()))
    return 0
