"""`git theta fsck`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain

from gitbridge.cli.fsck_repair import Known, needed_here, sources
from gitbridge.cli.opening import open_local_store, open_repository
from gitbridge.cli.options import add_progress_options, refuse_git_lfs_options
from gitbridge.errors import ConfigError, UsageError
from gitbridge.remotes import Place, check_is_remote, open_place, places
from gitbridge.render import Progress, count_text
from gitbridge.repository import Repository
from thetastore.checking.budget import parse_budget
from thetastore.checking.check import Check, LostFile
from thetastore.checking.repair import Repaired, delete_set_aside, repair, set_aside
from thetastore.checking.report import (
    CHECK_ROWS,
    check_values,
    deleted_text,
    finding_lines,
    lost_text,
    repaired_text,
    set_aside_text,
    summary,
)
from thetastore.command_line import Parser
from thetastore.output import Rows, add_listing_options, painter, print_values, wants_values
from thetastore.pool import processes
from thetastore.store import Store
from thetastore.upkeep.verify import Level

_EPILOG = """\
levels, each with those before it:
  listing  which files are there and how long they are, against the index
  tables   the structure of every file, that every base is there, and what pins or the history need
  stored   the checksum of everything stored
  raw      the digest of everything, decoded

--repair moves what is damaged to 'damaged/' in the store, after what is sound in it went elsewhere; makes the index
anew; and brings back what is lost: from checked-out files, from each --from, from the stores of all remotes. Nothing
is deleted: --delete-damaged does that, when nobody wants to look at it any more. With --budget, a run stops when that
is spent, and the next one goes on there.

Exit status: 0 if nothing is wrong, or no more; 1 if something is damaged, or lost.
"""


def run(arguments: list[str]) -> int:
    """Check the weights of this repository, and repair them."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.revisions:
        _refuse_revisions(options.revisions)
    if options.delete_damaged:
        return _delete_damaged(options)
    budget = parse_budget(options.budget) if options.budget else None
    reads_all = options.remote is None or options.repair  # nothing is mended that was not met
    level = Level[(options.level or ("raw" if reads_all else "tables")).upper()]
    executor_of = processes(options.jobs) if options.jobs > 1 else nullcontext()
    paint = painter(options)
    progress = Progress("checking")
    with open_repository() as repository, _store(repository, options) as (store, place), executor_of as executor:
        known = Known(repository)
        check = Check(store, level, budget, executor, progress.of_bytes)
        checks_history = place is None and level > Level.LISTING
        needed, silent = needed_here(repository, store, known, bool(options.places)) if checks_history else ([], [])
        try:
            for line in finding_lines(chain(check.findings(), check.missing(needed))):
                if not wants_values(options):
                    print(paint(line, "red"))
            lost = check.lost_files(known.manifests)
        finally:
            progress.done()
        repaired = None
        if options.repair:
            found = sources(repository, known, options.places, place)
            whole = [file.manifest_digest for file in [*check.named, *needed]]
            repaired = repair(store, check.found, found, known.manifests, whole)
            lost = repaired.lost
        if wants_values(options):
            print_values(options, check_values(check, lost, repaired, store.url, known.names))
        elif check.found or lost or repaired is not None or not options.quiet:
            _say(check, lost, repaired, store, known, options.remote)
        for reason in silent:
            print(f"git theta: a remote store could not be asked: {reason}", file=sys.stderr)
    return _status(check, lost, repaired)


def _parser() -> Parser:
    parser = Parser(
        prog="git theta fsck",
        description="Check that all weights in the store of this repository can be read, and are the right ones.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--level",
        choices=["listing", "tables", "stored", "raw"],
        help="how deep (default: raw; of a remote store that is not to be repaired: tables)",
    )
    parser.add_argument(
        "--remote",
        nargs="?",
        const="",
        metavar="REMOTE",
        help="the store of a git remote, not the local one; --level raw reads all of it, stored all of its packs",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--repair", action="store_true", help="set damage aside and bring back what is lost")
    mode.add_argument("--delete-damaged", action="store_true", help="delete, for good, what repairs have set aside")
    mode.add_argument("-d", "--dry-run", action="store_true", help="change nothing: always so without --repair")
    parser.add_argument("--objects", action="store_true", help="check what is stored: always so")
    refuse_git_lfs_options(parser, "fsck")
    parser.add_argument(
        "--from",
        dest="places",
        action="append",
        default=[],
        metavar="PLACE",
        help="with --repair: a clone, store, URL or file that may have it; may be given several times",
    )
    parser.add_argument("--budget", metavar="AMOUNT", help="how much now, as in 10GB/10min; the next run goes on there")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="read with so many processes")
    add_listing_options(parser, *CHECK_ROWS, Rows("deleted", ("name", "size_bytes")))
    add_progress_options(parser)
    parser.add_argument("revisions", nargs="*", help=argparse.SUPPRESS)
    return parser


def _refuse_revisions(revisions: list[str]) -> None:
    """Say what to do instead: git-lfs, and git, check what a revision needs."""
    raise UsageError(
        f"'{revisions[0]}': a store is checked whole, not what a revision needs",
        f"git theta ls-files {shlex.quote(revisions[0])} says what of it is missing",
    )


@contextmanager
def _store(repository: Repository, options: argparse.Namespace) -> Iterator[tuple[Store, Place | None]]:
    """Open the store that is meant, and say where it is if it is not the local one."""
    remote = options.remote
    if remote is not None:
        check_is_remote(repository, remote)
        found = places(repository, remote or None)
        if not found:
            raise ConfigError("no remote store is known here", "git config theta.url <where the weights are>")
        with open_place(found[0]) as store:
            yield store, found[0]
        return
    # Where even the store itself is lost, a repair begins with a new one.
    with repository.open_store() if options.repair else open_local_store(repository) as local:
        yield local, None


def _delete_damaged(options: argparse.Namespace) -> int:
    with open_repository() as repository, _store(repository, options) as (store, _):
        deleted = delete_set_aside(store)
    if wants_values(options):
        print_values(options, {"deleted": [{"name": name, "size_bytes": nbytes} for name, nbytes in deleted]})
    elif not options.quiet:
        sys.stdout.write(deleted_text(deleted))
    return 0


def _again(remote: str | None, option: str = "--repair") -> str:
    """Return the command that repairs the same store, or does something else with it."""
    words = [] if remote is None else ["--remote", shlex.quote(remote)] if remote else ["--remote"]
    return " ".join(["git theta fsck", *words, option])


def _say(
    check: Check, lost: list[LostFile], repaired: Repaired | None, store: Store, known: Known, remote: str | None
) -> None:
    again = _again(remote)
    if repaired is not None:
        sys.stdout.write(repaired_text(repaired))
    sys.stdout.write(lost_text(lost, known.names))
    sys.stderr.write(set_aside_text(set_aside(store), _again(remote, "--delete-damaged")))
    print(f"git theta: {summary(check, lost, store.url, repaired is not None)}", file=sys.stderr)
    if repaired is None and (check.found or lost):
        print(f"hint: {again}", file=sys.stderr)
    elif lost:
        where = count_text(len(lost), "file")
        print(f"hint: {again} --from <clone, store or file that has {where}>", file=sys.stderr)


def _status(check: Check, lost: list[LostFile], repaired: Repaired | None) -> int:
    if repaired is not None:
        return 1 if repaired.lost_count else 0
    return 1 if check.found or lost else 0
