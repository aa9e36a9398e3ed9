"""`git theta log`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from gitbridge.cli.opening import open_repository
from thetastore.command_line import Parser, split_at_dashes
from thetastore.output import Paint, Rows, add_listing_options, painter, print_values, wants_values

if TYPE_CHECKING:
    from gitbridge.history import Changed
    from gitbridge.repository import Repository

_NAMED_COUNT = 10
_ROWS = (
    Rows("commits", ("oid", "date", "author", "subject")),
    Rows("commits.tensors", ("commits.oid", "change", "name")),
)
_EPILOG = """\
Letters: M changed, T another type, S another shape, R renamed, A added, D removed. A merge is listed where it has
tensors that none of its parents has. Only names and digests are compared: no weights are needed.
"""


def log(arguments: list[str]) -> int:
    """List the commits that changed tensors of a file, with which."""
    parser = Parser(
        prog="git theta log",
        usage="git theta log [options] [REV] [--] PATH",
        description="List the commits that changed the tensors of a file, the newest first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="REV, PATH", help=argparse.SUPPRESS)
    parser.add_argument("--tensors", action="append", metavar="GLOB", help="only tensors whose names match; repeatable")
    parser.add_argument("-n", "--max-count", type=int, metavar="N", help="at most N commits")
    parser.add_argument("--follow", action="store_true", help="go on before the file was renamed")
    parser.add_argument("--all-names", action="store_true", help=f"name all tensors, not {_NAMED_COUNT} a commit")
    add_listing_options(parser, *_ROWS)
    before, behind = split_at_dashes(arguments)
    options = parser.parse_intermixed_args(before)
    options.names += behind
    if not options.names:
        parser.error("missing: PATH")
    with open_repository() as repository:
        changed = islice(_changed(repository, options), options.max_count)
        if wants_values(options):
            print_values(options, {"commits": [_values(one) for one in changed]})
        else:
            sys.stdout.writelines(_text(changed, None if options.all_names else _NAMED_COUNT, painter(options)))
    return 0


def _changed(repository: Repository, options: argparse.Namespace) -> Iterator[Changed]:
    from gitbridge.history import History
    from gitbridge.versions import revision_and_path
    from thetastore.selection import Globs

    names = revision_and_path(repository, options.names)
    with History(repository, *names, follow=options.follow) as history:
        wants = Globs(options.tensors or ())
        yield from history.changed(wants)
        wants.check()


def _text(found: Iterable[Changed], named_count: int | None, paint: Paint) -> Iterator[str]:
    from gitbridge.render import printable
    from gitbridge.reports.figures import LETTERS, name_text
    from thetastore.comparing.changes import KINDS
    from thetastore.comparing.comparison import Measured

    for one in found:
        commit, changes = one
        counts = [(kind, sum(change.kind == kind for change in changes)) for kind in KINDS]
        said = ", ".join(f"{count} {kind}" for kind, count in counts if count)
        head = f"{paint(commit.short, 'yellow')} {commit.date[:10]} {printable(commit.author)}"
        yield f"{head}: {printable(commit.subject)}  ({said})\n"
        for change in changes[:named_count]:
            yield f"  {LETTERS[change.kind]}  {name_text(Measured(change))}\n"
        if named_count is not None and len(changes) > named_count:
            yield f"  ... and {len(changes) - named_count} more\n"


def _values(one: Changed) -> dict[str, Any]:
    from gitbridge.reports.values import commit_values, tensor_values
    from thetastore.comparing.comparison import Measured

    return commit_values(one.commit) | {"tensors": [tensor_values(Measured(change)) for change in one.changes]}
