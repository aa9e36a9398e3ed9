"""`git theta du`."""

from __future__ import annotations

import argparse
import sys

from gitbridge.cli.opening import open_local_store, open_repository
from gitbridge.repository import Repository
from gitbridge.usage import Counted, of_history, of_revisions
from thetastore.command_line import Parser
from thetastore.output import add_listing_options, painter, print_values, wants_values
from thetastore.upkeep.usage import Usage
from thetastore.upkeep.usage_report import USAGE_ROWS, Report, report_of, report_text, report_values

_EPILOG = """\
figures:
  logical  bytes of the files, each as often as it is named
  unique   raw bytes of distinct chunks that one row needs and no other; in the totals: one version of a file
  shared   raw bytes of distinct chunks that other rows need as well; unique + shared: a row's distinct chunks
  stored   what the records of these chunks, of their manifests and pages take in packs, each once
  added    the part of stored that no row above has
  leaning on   differences and copies, by the file whose weights they were taken from: the same or another one
  held only as base   objects that none of the files names, but that a difference needs; not part of stored

A row of files is a path with all its versions. Without REV, a row of commits is what the commit brought, parents
first; with REV, all files of that revision. Weights are counted as the local store has them.
"""


def du(arguments: list[str]) -> int:
    """Print what takes how many bytes in the local store."""
    parser = Parser(
        prog="git theta du",
        description="Say how many bytes files, commits and codecs take: of all that refs and HEAD reach, or of REV.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("revisions", nargs="*", metavar="REV", help="count the files of these revisions only")
    parser.add_argument("--tensors", action="store_true", help="list the tensors of each file, too")
    add_listing_options(parser, *USAGE_ROWS)
    options = parser.parse_args(arguments)
    with open_repository() as repository:
        counted = of_revisions(repository, options.revisions) if options.revisions else of_history(repository)
        report = _counted(repository, counted, options.tensors)
    if wants_values(options):
        print_values(options, report_values(report))
    elif counted.files:
        sys.stdout.write(report_text(report, counted.labels, painter(options)))
    else:
        print("git theta: no commit looked at holds a tracked file", file=sys.stderr)
    return 0


def _counted(repository: Repository, counted: Counted, with_tensors: bool) -> Report:
    with open_local_store(repository) as store:
        usage = Usage(store.objects)
        totals = usage.totals(file for group in counted.files for file in group.files)
        tables = {"files": usage.rows(counted.files), "commits": usage.rows(counted.commits)}
        if with_tensors:
            tables["tensors"] = usage.tensor_rows(counted.files)
        return report_of(usage, totals, tables, counted.files)
