"""`git theta blame`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gitbridge.cli.opening import open_repository
from gitbridge.errors import RemoteError
from thetastore.command_line import Parser, split_at_dashes
from thetastore.output import Paint, Rows, add_listing_options, painter, print_values, wants_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gitbridge.history import Blamed
    from gitbridge.repository import Repository
    from thetastore.comparing.comparison import Measured

_ROWS = Rows(
    "tensors",
    ("name", "change", "commit.oid", "commit.date", "commit.author", "changed", "compared", "relative_at_most"),
)
_EPILOG = """\
columns: commit, date, author, what it did (M changed, T another type, S another shape, R renamed, A added), share of
the elements that it changed, norm of that change over the norm of what was there, what it looks like, tensor.
The figures need the weights of both versions; where they are not here, or with --names, there are none.
"""


def blame(arguments: list[str]) -> int:
    """Print, for each tensor of a file, the commit that last changed it, and by how much."""
    parser = Parser(
        prog="git theta blame",
        usage="git theta blame [options] [REV] [--] PATH",
        description="Say of each tensor of a file which commit changed it last, and by how much.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="REV, PATH", help=argparse.SUPPRESS)
    parser.add_argument("--tensors", action="append", metavar="GLOB", help="only tensors whose names match; repeatable")
    parser.add_argument("--names", dest="names_only", action="store_true", help="no figures: reads no weights")
    add_listing_options(parser, _ROWS)
    before, behind = split_at_dashes(arguments)
    options = parser.parse_intermixed_args(before)
    options.names += behind
    if not options.names:
        parser.error("missing: PATH")
    with open_repository() as repository:
        rows = _blamed(repository, options)
    if wants_values(options):
        from gitbridge.reports.values import commit_values, tensor_values

        tensors = [tensor_values(measured) | {"commit": commit_values(one.commit)} for one, measured in rows]
        print_values(options, {"tensors": tensors})
    else:
        sys.stdout.write(_text(rows, painter(options)))
    return 0


def _blamed(repository: Repository, options: argparse.Namespace) -> Sequence[tuple[Blamed, Measured]]:
    from gitbridge.diffing import Differ, Options
    from gitbridge.history import History
    from gitbridge.versions import revision_and_path
    from thetastore.comparing.comparison import Measured
    from thetastore.selection import Globs

    figures: dict[str, Measured] = {}
    names = revision_and_path(repository, options.names)
    with History(repository, *names, follow=True) as history, Differ(repository, Options()) as differ:
        wants = Globs(options.tensors or ())
        found = history.blamed(wants)
        wants.check()
        if options.names_only:
            return [(one, Measured(one.change)) for one in found]
        try:
            for measured in differ.of_commits(history.path, found, history.side):
                figures[measured.change.name] = measured
        except RemoteError as error:
            print(f"git theta: not all figures are known: {error.message}", file=sys.stderr)
            print("hint: git theta fetch --all  (--names needs no weights)", file=sys.stderr)
    return [(one, figures.get(one.entry.name, Measured(one.change))) for one in found]


def _text(rows: Sequence[tuple[Blamed, Measured]], paint: Paint) -> str:
    from gitbridge.render import printable, table
    from gitbridge.reports.figures import LETTERS, name_text, relative_text, remark_text, share_of

    return table(
        [
            (
                paint(one.commit.short, "yellow"),
                one.commit.date[:10],
                printable(one.commit.author),
                LETTERS[one.change.kind],
                share_of(measured),
                relative_text(measured.moments),
                remark_text(measured),
                name_text(measured),
            )
            for one, measured in rows
        ],
        right=(4, 5),
    )
