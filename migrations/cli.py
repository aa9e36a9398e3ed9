"""`git theta migrate`: a history into the store and out of it again."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

from gitbridge.cli.opening import open_repository
from gitbridge.cli.options import add_progress_options, refuse_git_lfs_options
from thetastore.command_line import Parser
from thetastore.output import Rows, add_listing_options, add_quiet_option, quietly

_FROM = "what keeps the files now; huggingface: REF is a model's directory in a cache, or any, committed to this branch"
_EPILOG = """\
Start with 'git theta migrate info'. An import that was interrupted has lost nothing: run it again. Old refs are kept
below refs/theta/before/ until 'git theta migrate forget'; 'git theta migrate undo' puts them back.
"""


def migrate(arguments: list[str]) -> int:
    """Run one of the migrations; return the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    with open_repository() as repository:
        from migrations.landing import settle_pending

        settle_pending(repository)
        # A question has to be seen, and what is asked about.
        with nullcontext() if getattr(options, "yes", None) is False else quietly(options):
            status: int = getattr(__import__(options.module, fromlist=["run"]), options.function)(repository, options)
    return status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all migrations."""
    parser = Parser(
        prog="git theta migrate",
        description="Bring the weights of a history into the store, or back out of it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="what to do", dest="action", required=True, metavar="ACTION")
    _add_import(actions.add_parser("import", help="from plain git, Git LFS, Git-Theta or Hugging Face into the store"))
    _add_export(actions.add_parser("export", help="back to plain files, or to Git LFS"))
    _add_info(actions.add_parser("info", help="which files of the history would gain"))
    undo = actions.add_parser("undo", help="put back the refs that the last migration moved")
    add_quiet_option(undo)
    undo.set_defaults(module="migrations.taking_back", function="undo")
    forget = actions.add_parser("forget", help="let go of the old history that undo would need")
    add_quiet_option(forget)
    forget.set_defaults(module="migrations.taking_back", function="forget")
    return parser


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", required=True, dest="source", choices=("git", "lfs", "git-theta", "huggingface"), help=_FROM
    )
    _add_scope(parser)
    parser.add_argument(
        "--into", metavar="DIRECTORY", help="from huggingface: where to put the model (default: its name)"
    )
    parser.add_argument("--skip-missing", action="store_true", help="leave files alone of which a version is not here")
    refuse_git_lfs_options(parser, "migrate import")
    parser.set_defaults(module="migrations.importing", function="run")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", dest="target", choices=("git", "lfs"), default="git", help="what is to keep the files (default: git)"
    )
    _add_scope(parser)
    refuse_git_lfs_options(parser, "migrate export")
    parser.set_defaults(module="migrations.exporting", function="run")


def _add_scope(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "refs", nargs="*", metavar="REF", help="branches and tags to rewrite (default: the branch that is checked out)"
    )
    pattern: Any = {"action": "append", "default": [], "metavar": "PATTERN"}
    parser.add_argument("-I", "--include", help="only files that match, as in .gitattributes", **pattern)
    parser.add_argument("-X", "--exclude", help="no files that match", **pattern)
    parser.add_argument("--everything", action="store_true", help="all branches and tags")
    parser.add_argument("--no-rewrite", action="store_true", help="rewrite nothing: add a commit to this branch")
    parser.add_argument("-m", "--message", metavar="TEXT", help="of the commit that --no-rewrite adds")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done, and sizes")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask before history is rewritten")
    parser.add_argument("-v", "--verbose", action="store_true", help="print old and new names of all commits")
    parser.add_argument("--skip-fetch", action="store_true", help="fetch nothing from git remotes: always so")
    add_progress_options(parser)


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("refs", nargs="*", metavar="REF", help="branches and tags to look at (default: all)")
    parser.add_argument("--above", metavar="SIZE", default="1m", help="only versions from this size on (default: 1m)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="at most so many lines (default: 10)")
    parser.add_argument("--measure", action="store_true", help="store all of it for a trial, and say what it takes")
    add_listing_options(
        parser, Rows("groups", ("from", "pattern", "files", "versions", "raw_bytes", "before_bytes", "after_bytes"))
    )
    parser.add_argument("--everything", action="store_true", help="all branches and tags: always so without REF")
    parser.add_argument("--skip-fetch", action="store_true", help="fetch nothing from git remotes: always so")
    add_progress_options(parser)
    refuse_git_lfs_options(parser, "migrate info")
    parser.set_defaults(module="migrations.census", function="run")
