"""`git theta logs`: what was written down when a command of ours failed as it must not."""

from __future__ import annotations

import os
import sys

from gitbridge.errors import ConfigError
from gitbridge.render import table
from gitbridge.repository import Repository
from thetastore.command_line import Parser
from thetastore.errors import did_you_mean, near_names
from thetastore.output import Rows, add_listing_options, painter, print_values, wants_values


def logs(arguments: list[str]) -> int:
    """List, print or delete the logs of this work tree."""
    parser = Parser(
        prog="git theta logs",
        description="List what was written down of failures that are bugs of git theta; only the newest 20 are kept.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        default="list",
        metavar="ACTION",
        help="list, last (print the newest one), show NAME, or just NAME (print that one), clear (delete all)",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="as list names it")
    add_listing_options(parser, Rows("logs", ("name", "time")))
    options = parser.parse_args(arguments)
    action, name = options.action, options.name
    if action.endswith(".log") and name is None:
        action, name = "show", action
    if action not in _ACTIONS:
        near = did_you_mean(near_names(action, _ACTIONS))
        parser.error(f"'{action}' is neither an action nor the name of a log{near}")
    if (action == "show") != (name is not None):
        parser.error("show takes the NAME of a log, and nothing else does")
    if action != "list" and wants_values(options):
        parser.error(f"--{'json' if options.json else 'porcelain'} is for list")
    directory = os.path.join(Repository.discover().theta_dir, "logs")
    found = _newest_first(directory)
    if action == "list":
        rows = [(_when(os.path.join(directory, one)), one) for one in found]
        if wants_values(options):
            print_values(options, {"logs": [{"name": one, "time": when} for when, one in rows]})
            return 0
        paint = painter(options)
        sys.stdout.write(table([(paint(when, "yellow"), one) for when, one in rows]))
    elif action == "clear":
        for one in found:
            os.unlink(os.path.join(directory, one))
    else:
        _print(directory, found, name)
    return 0


_ACTIONS = ("list", "last", "show", "clear")


def _newest_first(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(names, key=lambda name: os.path.getmtime(os.path.join(directory, name)), reverse=True)


def _when(path: str) -> str:
    from datetime import datetime

    return datetime.fromtimestamp(os.path.getmtime(path)).astimezone().isoformat(" ", "seconds")


def _print(directory: str, found: list[str], name: str | None) -> None:
    if name is not None and name not in found:
        near = did_you_mean(near_names(name, found))
        raise ConfigError(f"there is no log '{name}'{near}", "git theta logs lists them")
    if not found:
        raise ConfigError("there is no log: nothing failed here as it must not")
    with open(os.path.join(directory, name or found[0]), encoding="utf-8", errors="replace") as stream:
        sys.stdout.write(stream.read())
