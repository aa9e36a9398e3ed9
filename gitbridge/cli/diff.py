"""`git theta diff`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gitbridge.cli.opening import open_repository
from gitbridge.errors import RepositoryMissingError, UsageError
from gitbridge.repository import Repository
from thetastore.command_line import Parser, split_at_dashes
from thetastore.errors import did_you_mean, near_names
from thetastore.output import Rows, add_listing_options, painter, print_values, wants_values

if TYPE_CHECKING:
    from gitbridge.diffing import FileDiff

_ROWS = (
    Rows("files", ("path", "changed_count", "unchanged_count")),
    Rows("files.tensors", ("files.path", "name", "change", "changed", "compared", "relative_at_most")),
)
_EPILOG = """\
what is compared:
  (nothing)          the work tree with the index          --cached [REV]   the index with HEAD, or with REV
  REV                the work tree with REV                REV REV, A..B    two revisions
  A...B              B with where it left A                REV:PATH FILE    two files, of revisions or on disk
  --no-index A B     two files, whatever git knows of them
  :1:PATH :2:PATH    sides of a file in conflict: 1 is base, 2 ours, 3 theirs

columns:
  M changed, T another type, S another shape, R renamed, A added, D removed, X metadata or format
  changed   share of the elements that differ in any bit (of blocks, for quantised types)
  relative  norm of the change over the norm of what was there; L2 and max: of the change
  cosine    of the angle between before and after
  looks     sparse, scaled, low-rank (with its rank), dense; rounded: to another type, and nothing else
Chunks that both versions share are not read; relative is then an upper bound (<), cosine a lower one (>). --whole reads
them as well. Values that are not finite are counted, and take no part in norms.
"""


def diff(arguments: list[str]) -> int:
    """Print what changed between versions of files, tensor by tensor."""
    parser = _parser()
    before_dashes, paths = split_at_dashes(arguments)
    has_dashes = "--" in arguments
    options = parser.parse_intermixed_args(before_dashes)
    with ExitStack() as stack:
        repository = _opened(stack, options)
        if options.no_index:
            names = [*options.names, *paths]
            if len(names) != 2:
                raise UsageError(f"--no-index compares two files, not {len(names)}", "git theta diff --no-index A B")
            return _run(repository, names, [], options)
        if repository is None or has_dashes:
            return _run(repository, options.names, paths, options)
        return _run(repository, *_split(repository, options.names), options)


def _parser() -> Parser:
    parser = Parser(
        prog="git theta diff",
        usage="git theta diff [REV [REV] | A..B | REV:PATH REV:PATH] [options] [--] [PATH...]",
        description="Say which tensors changed between two versions of files, by how much, and what it looks like.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="REV, FILE", help=argparse.SUPPRESS)
    parser.add_argument("--cached", "--staged", action="store_true", help="compare the index, not the work tree")
    parser.add_argument("--no-index", action="store_true", help="compare two files as they lie on disk")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--stat", action="store_true", help="sums by file, layer and module only")
    form.add_argument("--name-status", action="store_true", help="letters and names only; reads no weights")
    add_listing_options(parser, *_ROWS, group=form)
    form.add_argument("--md", action="store_true", help="Markdown")
    form.add_argument("--html", metavar="FILE", help="write a page with plots that needs no network")
    parser.add_argument("--joined", action="store_true", help="take all files for one model, as shards are")
    choice = parser.add_argument_group("what is shown")
    choice.add_argument("--tensors", action="append", metavar="GLOB", help="only tensors whose names match; repeatable")
    choice.add_argument("--ignore", metavar="CLASS,...", help="leave out: metadata, dtype (recast only), buffers")
    choice.add_argument("--sort", metavar="KEY", default="name", help="name, relative, norm, max, share, size")
    choice.add_argument("--top", type=int, metavar="N", help="at most N tensors of each file")
    more = parser.add_argument_group("what is computed")
    more.add_argument(
        "--whole", action="store_true", help="read what did not change, too: exact norms of whole tensors"
    )
    more.add_argument("--spectrum", action="store_true", help="exact singular values of changes (slow: one SVD each)")
    more.add_argument("--metric", action="append", metavar="NAME", help="a further metric, as plug-ins offer them")
    parser.add_argument("--exit-code", action="store_true", help="end with status 1 if anything changed")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing; implies --exit-code")
    return parser


def _opened(stack: ExitStack, options: argparse.Namespace) -> Repository | None:
    """Return the repository that we are in; two files can be compared without one."""
    try:
        return stack.enter_context(open_repository())
    except RepositoryMissingError:
        if options.no_index or len(options.names) == 2:
            return None
        raise


def _split(repository: Repository, names: list[str]) -> tuple[list[str], list[str]]:
    """Take leading revisions, or two files, from names without a `--`; the rest are paths, as for git diff."""
    from gitbridge.versions import is_revision

    if len(names) == 2 and any(":" in name for name in names):
        return names, []
    if len(names) == 1 and _is_file_of_revision(repository, names[0]):
        path = names[0].partition(":")[2]
        raise UsageError(f"'{names[0]}' is one file, to be compared with another", f"git theta diff {names[0]} {path}")
    count = 0
    while count < min(len(names), 2) and (is_revision(repository, names[count]) or _is_range(repository, names[count])):
        if repository.work_tree is not None and os.path.lexists(names[count]):
            raise UsageError(
                f"'{names[count]}' is both a revision and a file", f"git theta diff -- {names[count]}, or REV --"
            )
        count += 1
    rest = names[count:]
    if count == 2 and rest and not os.path.lexists(rest[0]) and is_revision(repository, rest[0]):
        raise UsageError(f"'{rest[0]}' is one revision too many", "paths go behind --")
    for path in rest:
        if not os.path.lexists(path) and not any(mark in path for mark in "*?["):
            raise _neither(repository, path)
    return names[:count], rest


def _is_file_of_revision(repository: Repository, name: str) -> bool:
    from gitbridge.versions import is_revision

    return ":" in name and is_revision(repository, name) and repository.git("cat-file", "-t", name) == b"blob\n"


def _neither(repository: Repository, name: str) -> UsageError:
    from gitbridge.revisions import resolve
    from gitbridge.trees import near_revisions

    if name in ("HEAD", "@"):
        resolve(repository, name)  # says that there is no commit yet
    near = near_revisions(repository, name)
    return UsageError(f"'{name}' is neither a revision nor a file{near}", "a file that is gone: git theta diff -- PATH")


def _is_range(repository: Repository, name: str) -> bool:
    from gitbridge.versions import is_revision

    first, dots, second = name.partition("..")
    second = second.removeprefix(".")
    return bool(dots) and all(not side or is_revision(repository, side) for side in (first, second))


def _run(repository: Repository | None, names: list[str], paths: list[str], options: argparse.Namespace) -> int:
    from gitbridge.diffing import CLASSES, ORDERS, Differ, Options
    from gitbridge.versions import Versions, joined

    ignored = frozenset(filter(None, (options.ignore or "").split(",")))
    for unknown in sorted(ignored - set(CLASSES)):
        near = did_you_mean(near_names(unknown, CLASSES))
        raise UsageError(f"'{unknown}' is no class to ignore{near}", f"--ignore {','.join(CLASSES)}")
    if options.sort not in ORDERS:
        near = did_you_mean(near_names(options.sort, list(ORDERS)))
        raise UsageError(f"tensors cannot be sorted by '{options.sort}'{near}", f"--sort {'|'.join(ORDERS)}")
    if options.top is not None and options.top < 0:
        raise UsageError(f"--top {options.top} is no number of tensors")
    metrics = [*(options.metric or []), *["spectrum"] * options.spectrum, *["histogram"] * (options.html is not None)]
    # Whether tensors were only recast is known from their values alone.
    needs_figures = (
        not (options.name_status or options.quiet) or "dtype" in ignored or options.sort not in ("name", "size")
    )
    wanted = Options(options.tensors or (), ignored, needs_figures, tuple(dict.fromkeys(metrics)), options.whole)
    with Versions(repository) as versions, Differ(repository, wanted) as differ:
        twos = versions.of_names(names, options.cached, paths)
        found = list(differ.diffs(joined(twos) if options.joined else twos))
    if not options.quiet:
        _print(found, options)
    return 1 if found and (options.exit_code or options.quiet) else 0


def _print(found: list[FileDiff], options: argparse.Namespace) -> None:
    if options.html is not None:
        from gitbridge.reports.page import page

        with open(options.html, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.writelines(page(found, options.sort, options.top))
        print(f"git theta: wrote '{options.html}'", file=sys.stderr)
    elif wants_values(options):
        from gitbridge.reports.values import diff_values

        print_values(options, diff_values(found, options.sort, options.top))
    else:
        sys.stdout.writelines(_lines(found, options))


def _lines(found: list[FileDiff], options: argparse.Namespace) -> Iterable[str]:
    if options.name_status:
        from gitbridge.reports.text import name_status

        return name_status(found, options.sort, options.top)
    if options.md:
        from gitbridge.reports.markdown import diff_markdown

        return diff_markdown(found, options.sort, options.top)
    from gitbridge.reports.text import diff_text

    return diff_text(found, options.sort, options.top, with_tensors=not options.stat, paint=painter(options))
