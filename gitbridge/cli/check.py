"""`git theta check`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gitbridge.checks.check import Check
from gitbridge.checks.news import merge_base, new_and_old
from gitbridge.checks.rules import RULES, Allowed, Budget, Problem, size_of
from gitbridge.cli.opening import open_repository
from gitbridge.cli.options import add_progress_options
from gitbridge.remotes import committed_values
from gitbridge.render import Progress, count_text, has_colours, painted, printable
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from thetastore.command_line import Parser
from thetastore.output import Rows, add_listing_options, print_values, wants_values


def check(arguments: list[str]) -> int:
    """Print what breaks rules; 1 if anything does."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with open_repository() as repository:
        revision = resolve(repository, options.revision, "commit") if options.revision else ""
        base = merge_base(repository, revision, options.base) if options.base else ""
        new, old = new_and_old(repository, revision, base)
        allowed = Allowed([*options.allow, *_values(repository, revision, "theta.checkAllow")])
        looking = Check(repository, new, old, allowed, _budget(repository, revision, options))
        progress = Progress("fetching weights")
        try:
            found = list(looking.problems(revision or None, progress))
        finally:
            progress.done()
    if wants_values(options):
        counts = {"files": len(new), "tensors_read": looking.read_tensor_count}
        print_values(options, {**counts, "problems": [problem._asdict() for problem in found]})
    else:
        _print(found, options.format, has_colours(options.color, sys.stdout))
        if not options.quiet:
            looked = (
                f"{count_text(len(new), 'file')}, numbers of {count_text(looking.read_tensor_count, 'tensor')} read"
            )
            print(f"{count_text(len(found), 'problem') if found else 'no problems'} ({looked})", file=sys.stderr)
    return 1 if found else 0


def _parser() -> Parser:
    parser = Parser(
        prog="git theta check",
        usage="git theta check [--base REV] [--allow RULE[:GLOB]] [--max-size SIZE] [--max-new SIZE] [REV]",
        description="Look through what is staged, or a revision, for what nobody wants to merge: in a hook, and in CI.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", metavar="REV", help="look only at what is new since this branch or commit was left")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="RULE[:GLOB]", help="let what matches break a rule; repeatable"
    )
    parser.add_argument("--max-size", metavar="SIZE", help="of one file: 500m, 2g")
    parser.add_argument("--max-new", metavar="SIZE", help="of all weights that are new, before compression")
    parser.add_argument(
        "--format", choices=("text", "github"), default="text", help="github: as annotations of a pull request"
    )
    add_listing_options(parser, Rows("problems", ("rule", "path", "tensor", "message", "mend")))
    add_progress_options(parser)
    parser.add_argument("revision", nargs="?", metavar="REV", help="a commit; without it: the index, what is staged")
    return parser


_EPILOG = """\
Rules:
{}

Exit status 1 if a rule is broken. Weights that are not here are fetched: of tensors that are new, and no others; with
--allow not-finite none, and with --allow missing as well no store is asked. GLOB is of paths from the top of the work
tree, or of PATH//TENSOR: not-finite:*//*.mask. The same can be said in .thetaconfig, for everybody: theta.checkAllow
(repeatable), theta.checkMaxSize, theta.checkMaxNew.
""".format("\n".join(f"  {name:10}  {meaning}" for name, meaning in RULES.items()))


def _values(repository: Repository, revision: str, name: str) -> list[str]:
    """Return what a setting says in git configuration, else in the `.thetaconfig` that is looked at."""
    return repository.config_all(name) or committed_values(repository, revision, name)


def _budget(repository: Repository, revision: str, options: argparse.Namespace) -> Budget:
    def limit(given: str | None, option: str, setting: str) -> int | None:
        if given is not None:
            return size_of(given, option)
        values = _values(repository, revision, setting)
        return size_of(values[-1], setting) if values else None

    return Budget(
        limit(options.max_size, "--max-size", "theta.checkMaxSize"),
        limit(options.max_new, "--max-new", "theta.checkMaxNew"),
    )


def _print(found: Sequence[Problem], form: str, is_coloured: bool) -> None:
    for problem in found:
        place = problem.path + (f"//{problem.tensor}" if problem.tensor else "")
        said = printable(f"{place}: {problem.message}" if place else problem.message)
        if form == "github":
            # A newline would begin another command of the runner's; `printable` leaves none.
            where = _escaped(printable(problem.path))
            file = f"file={where}," if where else ""
            words = _text(f"{said} ({printable(problem.mend)})")
            print(f"::error {file}title=git theta check%3A {problem.rule}::{words}")
        else:
            print(f"{painted(problem.rule, 'red', is_coloured)}: {said}\n  mend: {printable(problem.mend)}")


def _text(words: str) -> str:
    return words.replace("%", "%25")


def _escaped(words: str) -> str:
    """Write a property of a workflow command: a colon or a comma would end it."""
    return _text(words).replace(":", "%3A").replace(",", "%2C")
