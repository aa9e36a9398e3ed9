"""`git theta push`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from gitbridge.cli.opening import open_repository
from gitbridge.cli.options import add_progress_options, add_refs_from_input, refs_given, refuse_git_lfs_options
from gitbridge.errors import WeightsMissingError
from gitbridge.pushing import Pushed
from gitbridge.remotes import check_is_remote, default_remote
from gitbridge.render import Progress, count_text, printable, size_text, table
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.trees import all_refs
from thetastore.command_line import FailedAfterError, Parser, print_json

_ALONE = "nobody else may push there at the same time: its server lets one writer replace another's files"


def push(arguments: list[str]) -> int:
    """Send the weights of revisions to the remote store."""
    parser = Parser(
        prog="git theta push",
        description="Send the weights of revisions (HEAD, if none is named) to the store of a remote.",
    )
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="a git remote; if none, the one git would use")
    parser.add_argument("refs", nargs="*", metavar="REF", help="branches, tags or commits")
    parser.add_argument(
        "-a", "--all", action="store_true", help="of REF, or all branches and tags; looks at the whole history again"
    )
    add_refs_from_input(parser)
    parser.add_argument("-n", "-d", "--dry-run", action="store_true", help="only say what would be sent")
    parser.add_argument("-j", "--json", action="store_true", help="for programs; schema 1")
    add_progress_options(parser)
    refuse_git_lfs_options(parser, "push")
    options = parser.parse_args(arguments)
    with open_repository() as repository:
        try:
            pushed = _push(repository, options)
        except WeightsMissingError as error:
            values = {**_values(Pushed(), options.dry_run), "missing": list(error.paths)}
            raise FailedAfterError(values) from error
    if options.json:
        print_json(_values(pushed, options.dry_run))
    elif options.dry_run:
        sys.stdout.write(_would(pushed))
    elif not options.quiet:
        print(summary(pushed))
    return 0


def _push(repository: Repository, options: argparse.Namespace) -> Pushed:
    from gitbridge.pushing import push as send

    check_is_remote(repository, options.remote)
    remote = options.remote or repository.config("remote.pushDefault") or default_remote(repository) or "origin"
    has_all = options.all and not options.refs and not options.stdin
    named = {} if has_all else _named(repository, refs_given(options, ["HEAD"]))
    refs = dict.fromkeys(all_refs(repository), ()) if has_all else named
    progress = Progress("sending weights")
    try:
        return send(repository, remote, None, refs, everything=options.all, dry_run=options.dry_run, report=progress)
    finally:
        progress.done()


def _named(repository: Repository, revisions: list[str]) -> dict[str, tuple[str, ...]]:
    """Return what revisions are, each with the branch or tag that it names, if it does."""
    found: dict[str, tuple[str, ...]] = {}
    for revision in revisions:
        oid = resolve(repository, revision)
        name = repository.git("rev-parse", "--symbolic-full-name", "--end-of-options", revision, check=False)
        ref = name.decode("utf-8", "backslashreplace").strip().removeprefix("--end-of-options").strip()
        found[oid] = (ref,) if ref.startswith("refs/") else ()
    return found


def summary(pushed: Pushed) -> str:
    """Return one line about what a push did."""
    if pushed.place is None or not pushed.file_count:
        return "git theta: nothing to push"
    if not pushed.copied.object_count:
        return f"git theta: '{pushed.place.url}' has everything already"
    what = f"{count_text(pushed.copied.object_count, 'object')}, {size_text(pushed.copied.stored_bytes)}"
    if pushed.logical_bytes > pushed.copied.stored_bytes:
        what += f" for {size_text(pushed.logical_bytes)} of weights"
    told = f" (and '{os.path.normpath(pushed.told)}' now says so to those who clone it)" if pushed.told else ""
    alone = "" if pushed.is_for_many_writers else f"\ngit theta: {_ALONE}"
    return f"git theta: sent {what}, to '{pushed.place.url}'{told}{alone}"


def _would(pushed: Pushed) -> str:
    if pushed.place is None or not pushed.sent:
        return summary(pushed) + "\n"
    files = sorted((file for file in pushed.files if file.manifest_digest in pushed.sent), key=lambda file: file.path)
    rows = [(str(file.file_digest)[:10], size_text(file.file_bytes), printable(file.path)) for file in files]
    versions = count_text(len(files), "version of a file", "versions of files")
    return (
        f"git theta: would send what '{pushed.place.url}' lacks of {versions}\n{table(rows, right=(1,), indent='  ')}"
    )


def _values(pushed: Pushed, is_dry: bool) -> dict[str, Any]:
    states = {True: "would be sent" if is_dry else "sent", False: "there"}
    return {
        "dry_run": is_dry,
        "store": pushed.place.url if pushed.place else None,
        **pushed.copied._asdict(),
        "files": [
            {
                "path": file.path,
                "size_bytes": file.file_bytes,
                "digest": str(file.file_digest),
                "state": states[file.manifest_digest in pushed.sent],
            }
            for file in sorted(pushed.files, key=lambda file: file.path)
            if file.manifest_digest not in pushed.absent
        ],
        "missing": sorted(file.path for file in pushed.files if file.manifest_digest in pushed.absent),
    }
