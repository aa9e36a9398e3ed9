"""Options that several commands have, and that mean the same in all of them."""

from __future__ import annotations

import argparse

from gitbridge.render import PROGRESS_VARIABLE
from thetastore import command_line


def add_progress_options(parser: argparse.ArgumentParser) -> None:
    """Give a command `-q` and `--progress`; what git runs of ours goes by them, too."""
    command_line.add_progress_options(parser, PROGRESS_VARIABLE)


def add_color_option(parser: argparse.ArgumentParser) -> None:
    """Give a command `--color`, as git has it; what comes of it, `render.has_colours` says."""
    parser.add_argument(
        "--color",
        nargs="?",
        choices=("auto", "always", "never"),
        const="always",
        default="auto",
        metavar="WHEN",
        help="auto (on a terminal, unless NO_COLOR is set), always or never",
    )
