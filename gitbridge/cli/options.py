"""Options that several commands have, and that mean the same in all of them."""

from __future__ import annotations

import argparse
import os
from typing import Any

from gitbridge.render import PROGRESS_VARIABLE


def add_progress_options(parser: argparse.ArgumentParser) -> None:
    """Give a command `-q` and `--progress`."""
    parser.add_argument("-q", "--quiet", action=_Quiet, nargs=0, default=False, help="show no progress")
    parser.add_argument(
        "--progress",
        action=_Progress,
        choices=("auto", "json", "none"),
        default="auto",
        help="how progress is shown: on a terminal as git does, else a line every ten seconds; or as JSON lines",
    )


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


class _Progress(argparse.Action):
    """Says how progress is shown, to our own code and to what git runs of ours."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        setattr(namespace, self.dest, values)
        os.environ[PROGRESS_VARIABLE] = values


class _Quiet(argparse.Action):
    """The same as `--progress none`, and the command leaves out what only says that all went well."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        setattr(namespace, self.dest, True)
        os.environ[PROGRESS_VARIABLE] = "none"
