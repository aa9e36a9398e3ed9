"""`git theta prune`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gitbridge.cli.opening import open_repository
from gitbridge.cli.options import refuse_git_lfs_options
from gitbridge.errors import ConfigError, RemoteError
from gitbridge.keeping import named_anywhere, needed_now
from gitbridge.registry import forget, registered
from gitbridge.remotes import open_place, places, remote_names
from gitbridge.render import size_text
from gitbridge.repository import Repository
from gitbridge.settings import parse_size
from thetastore.collecting.pruning import Pruned
from thetastore.collecting.pruning import prune as prune_store
from thetastore.collecting.roots import Root
from thetastore.command_line import Parser, print_json
from thetastore.digest import Digest
from thetastore.errors import StoreMissingError, ThetaError
from thetastore.output import add_quiet_option, quietly
from thetastore.store import Store
from thetastore.tables import table

_EPILOG = """\
Kept: what is checked out or in an index, in any work tree; the files of young commits (theta.pruneDays); and what no
remote store has, be it that it was never pushed or that no commit names it. Every object is looked for in the remote
stores before it goes. If several repositories share the store (theta.storage), all of them are asked what they need.
"""


def prune(arguments: list[str]) -> int:
    """Let go of what the remote store has and is not needed here."""
    parser = Parser(
        prog="git theta prune",
        description="Free the local store of weights that a remote store has and that are not needed here.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-d", "-n", "--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is kept, and why")
    parser.add_argument(
        "-f",
        "--force",
        action="store_true",
        help="keep nothing for being checked out; nothing goes that is only here",
    )
    parser.add_argument(
        "--recent", action="store_true", help="keep nothing because its commit is young (only what is checked out)"
    )
    parser.add_argument(
        "-c", "--verify-remote", action="store_true", help="look for every object in the remote stores: always done"
    )
    parser.add_argument(
        "--no-verify-unreachable",
        action="store_true",
        help="let go of what nothing names here even if no remote store has it: it is lost then",
    )
    parser.add_argument(
        "--verify-unreachable", action="store_true", help="let go of nothing that is nowhere else: always so"
    )
    parser.add_argument("--limit", metavar="SIZE", help="let go of no more than is too much for this size: 200g")
    parser.add_argument("--forget", metavar="REPOSITORY", help="a repository that shares the store is gone for good")
    parser.add_argument("--json", action="store_true", help="for programs; schema 1")
    add_quiet_option(parser)
    refuse_git_lfs_options(parser, "prune")
    options = parser.parse_args(arguments)
    with open_repository() as repository:
        try:
            store = repository.open_store(create=False)
        except StoreMissingError:
            print("git theta: there is no local store, so there is nothing to prune", file=sys.stderr)
            return 0
        with store:
            if options.forget is not None:
                with quietly(options):
                    return _forget(store, options.forget)
            days = 0 if options.recent or options.force else _days(repository)
            pruned = _prune(repository, store, days, options)
    if options.json:
        print_json(values_of(pruned, options.dry_run))
    elif not options.quiet:
        sys.stdout.write(text_of(pruned, options.dry_run, options.verbose))
    return 0


def prune_as_set(repository: Repository, store: Store) -> Pruned:
    """Prune as `git theta prune` does without options."""
    usual = argparse.Namespace(limit=None, force=False, no_verify_unreachable=False, dry_run=False)
    return _prune(repository, store, _days(repository), usual)


def _prune(repository: Repository, store: Store, days: int, options: argparse.Namespace) -> Pruned:
    limit = options.limit or repository.config("theta.storageLimit")
    most_bytes = parse_size(limit) if limit else None
    if limit and most_bytes is None:
        raise ConfigError(f"'{limit}' is not a size", "git config theta.storageLimit 200g")
    with ExitStack() as stack:
        used = stack.enter_context(_times_of_use(store.url))
        repositories = [stack.enter_context(one) for one in _sharing(repository, store)]
        remotes = [stack.enter_context(one) for one in _remote_stores(repositories, store.url)]
        named = [Root(file.path, file.manifest_digest) for one in repositories for file in named_anywhere(one)]
        needed = [] if options.force else [
            Root(file.path, file.manifest_digest) for one in repositories for file in needed_now(one, days)
        ]  # fmt: skip

        def is_elsewhere(digest: Digest) -> bool:
            return any(remote.objects.contains(digest) for remote in remotes)

        return prune_store(
            store.objects,
            needed,
            named,
            is_elsewhere,
            drops_nameless=options.no_verify_unreachable,
            most_bytes=most_bytes,
            used_s=lambda name: max(used[name].st_atime, used[name].st_mtime) if name in used else 0.0,
            is_dry=options.dry_run,
        )


def _sharing(repository: Repository, store: Store) -> list[Repository]:
    """Return all repositories that use the store, this one among them."""
    own = os.path.realpath(repository.common_dir)
    others = [one.open() for one in registered(store.backend) if one.git_dir != own]
    return [Repository(repository.git_dir, repository.work_tree, repository.environment), *others]


def _remote_stores(repositories: list[Repository], own: str) -> list[Store]:
    """Open every remote store that some repository knows, but for the one that is pruned, whatever it is called.

    One that cannot be had has nothing, as far as we know.
    """
    found: list[Store] = []
    asked: set[str] = set()
    for repository in repositories:
        for remote in [None, *remote_names(repository)]:
            try:
                for place in places(repository, remote):
                    if place.location not in asked and not _is_same(place.directory, own):
                        asked.add(place.location)
                        found.append(open_place(place))
                        found[-1].count_only_durable()
            except (RemoteError, ConfigError, ThetaError) as error:
                words = error.message if isinstance(error, RemoteError | ConfigError) else str(error)
                print(f"git theta: {words}: what only it may have stays here", file=sys.stderr)
    return found


def _is_same(directory: str | None, own: str) -> bool:
    """Tell whether a directory is our own store, by any path: that would prove nothing."""
    return directory is not None and os.path.exists(directory) and os.path.samefile(directory, own)


def _days(repository: Repository) -> int:
    text = repository.config("theta.pruneDays") or "10"
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ConfigError(f"'theta.pruneDays' is '{text}', expected a number of days", "git config theta.pruneDays 10")
    return int(text)


@contextmanager
def _times_of_use(directory: str) -> Iterator[dict[str, os.stat_result]]:
    """Tell when each pack was last read, as far as the file system does (most to a day), and leave that as it was.

    Looking for what may go reads all packs. If that counted as their use, the next time none would be older.
    """
    found = {}
    try:
        with os.scandir(os.path.join(directory, "packs")) as packs:
            found = {f"packs/{pack.name}": pack.stat() for pack in packs}
    except FileNotFoundError:
        pass
    try:
        yield found
    finally:
        for name, was in found.items():
            try:
                os.utime(os.path.join(directory, name), ns=(was.st_atime_ns, was.st_mtime_ns))
            except OSError:
                continue  # gone, or somebody else's


def _forget(store: Store, git_dir: str) -> int:
    if forget(store.backend, git_dir):
        print(f"'{git_dir}' does not count any more for what this store has to keep")
        return 0
    names = ", ".join(f"'{one.git_dir}'" for one in registered(store.backend)) or "none"
    print(f"git theta: '{git_dir}' does not use this store; those that do: {names}", file=sys.stderr)
    return 1


def values_of(pruned: Pruned, is_dry: bool) -> dict[str, Any]:
    """Return what came of it, for programs."""
    return {
        "dry_run": is_dry,
        **pruned.found._asdict(),
        "freed_bytes": pruned.freed_bytes,
        "old_packs_are_gone": pruned.is_swept,
    }


def text_of(pruned: Pruned, is_dry: bool, is_verbose: bool) -> str:
    """Return what came of it, in words."""
    found = pruned.found
    text = ""
    if is_verbose or is_dry:
        rows = [
            (size_text(found.needed_bytes), "needed here: checked out, of young commits, or a base of that"),
            (size_text(found.only_here_bytes), "named by a commit, and in no remote store: not pushed"),
            (size_text(found.nameless_bytes), "named by nothing, and in no remote store"),
            (size_text(found.elsewhere_bytes), "not needed here, and in a remote store"),
        ]
        text = table(rows, right=(0,))
    if not pruned.freed_bytes:
        return text + "nothing to prune\n"
    if is_dry:
        return text + f"would free about {size_text(pruned.freed_bytes)} of {size_text(found.pack_bytes)}\n"
    if not pruned.is_swept:
        return text + f"{size_text(pruned.freed_bytes)} will be free when the processes that are writing have ended\n"
    return (
        text
        + f"freed {size_text(pruned.freed_bytes)} of {size_text(found.pack_bytes)}; git theta fetch brings it back\n"
    )
