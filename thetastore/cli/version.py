"""`thetastore version`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, add_json_option
from thetastore.command_line import Parser, installed_version, print_json


def run(arguments: list[str]) -> int:
    """Print the version."""
    parser = Parser(prog="thetastore version", description="Print the version.")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    number = installed_version()
    if options.json:
        print_json({"version": number, "python": sys.version.split()[0]})
    else:
        print(f"thetastore {number}")
    return EXIT_DONE
