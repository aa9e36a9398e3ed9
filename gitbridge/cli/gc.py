"""`git theta gc`."""

from __future__ import annotations

from gitbridge.cli.opening import open_repository
from gitbridge.errors import ConfigError, UsageError
from gitbridge.remotes import check_is_remote, default_remote, open_place, places
from gitbridge.repository import Repository
from thetastore.cli.gc import EPILOG, add_gc_options, collect_in
from thetastore.command_line import Parser
from thetastore.output import add_quiet_option
from thetastore.store import Store


def gc(arguments: list[str]) -> int:
    """Let go of what nothing in the remote store needs."""
    import argparse

    parser = Parser(
        prog="git theta gc",
        description="Let go of what nothing in the remote store needs: no pin of a pushed history, no ref, no session "
        "of somebody who is pushing. For the local store: git theta prune.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--remote",
        nargs="?",
        const="",
        metavar="NAME",
        help="collect in the store of this git remote; if none is named, of the one that git push uses",
    )
    add_gc_options(parser)
    parser.add_argument("--json", action="store_true", help="for programs; schema 1")
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    if options.remote is None:
        raise UsageError(
            "say what is to be collected", "git theta gc --remote (the remote store), git theta prune (the local one)"
        )
    with open_repository() as repository, _store(repository, options.remote or None) as store:
        return collect_in(store, options)


def _store(repository: Repository, remote: str | None) -> Store:
    check_is_remote(repository, remote)
    found = places(repository, remote)
    if not found:
        name = remote or default_remote(repository) or "(there is none)"
        raise ConfigError(f"no store is known for the remote '{name}'", "git config theta.url /path/to/store")
    return open_place(found[0])
