"""`git theta fetch`, `pull` and `push`."""

from __future__ import annotations

import argparse
import os

from gitbridge.cli.opening import open_repository, open_work_tree
from gitbridge.cli.options import add_progress_options
from gitbridge.errors import PathMissingError, RevisionError
from gitbridge.profile import Profile, profile_of, split_globs
from gitbridge.pushing import Pushed
from gitbridge.reading import select_names
from gitbridge.remotes import check_is_remote, default_remote
from gitbridge.render import Progress, count_text, size_text
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.trees import TrackedFile, all_refs, tracked_in_history, tracked_in_index, tracked_in_tree
from thetastore.command_line import Parser
from thetastore.errors import did_you_mean, near_names
from thetastore.transfers.transfer import CopyReport

_ALONE = "nobody else may push there at the same time: its server lets one writer replace another's files"


def fetch(arguments: list[str]) -> int:
    """Bring the weights of revisions into the local store."""
    parser = _parser(
        "fetch", "Bring the weights of revisions (HEAD and the index, if none is named) into the local store."
    )
    parser.add_argument("--all", action="store_true", help="of the whole history of all branches and tags")
    parser.add_argument("-I", "--include", action="append", metavar="PATHS", help="only these files; comma-separated")
    parser.add_argument("-X", "--exclude", action="append", metavar="PATHS", help="not these files; comma-separated")
    parser.add_argument("--tensors", action="append", metavar="GLOBS", help="only tensors whose names match")
    parser.epilog = (
        "For good, in this clone: theta.fetchInclude, theta.fetchExclude, theta.fetchTensors. "
        "What is given here takes their place."
    )
    options = parser.parse_args(arguments)
    with open_repository() as repository:
        profile = _profile(repository, options)
        copied = _fetch(repository, options.remote, options.refs, options.all, profile, bool(options.include))
    if not options.quiet:
        print(_fetched(copied, profile))
    return 0


def _profile(repository: Repository, options: argparse.Namespace) -> Profile:
    """Return what this clone is set to keep, but for what the command line says."""
    usual = profile_of(repository)
    return Profile(
        usual.tensors if options.tensors is None else split_globs(options.tensors),
        usual.include if options.include is None else split_globs(options.include),
        usual.exclude if options.exclude is None else split_globs(options.exclude),
    )


def pull(arguments: list[str]) -> int:
    """Fetch, then fill what is a pointer in the work tree."""
    parser = Parser(
        prog="git theta pull",
        description="Bring the weights of the checked-out files into the local store, and fill the work tree.",
    )
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="a git remote; if none, the one git fetch uses")
    add_progress_options(parser)
    options = parser.parse_args(arguments)
    from gitbridge.cli.checkout import fill

    with open_work_tree() as repository:
        profile = profile_of(repository)
        copied = _fetch(repository, options.remote, [], False, profile)
        if not options.quiet:
            print(_fetched(copied, profile))
        return fill(repository, None, options.quiet)


def push(arguments: list[str]) -> int:
    """Send the weights of revisions to the remote store."""
    parser = _parser("push", "Send the weights of revisions (HEAD, if none is named) to the store of a remote.")
    parser.add_argument("--all", action="store_true", help="of all branches and tags; looks at the whole history again")
    parser.add_argument("-n", "--dry-run", action="store_true", help="say what would be sent")
    options = parser.parse_args(arguments)
    from gitbridge.pushing import push as send

    with open_repository() as repository:
        remote = options.remote or _push_remote(repository)
        check_is_remote(repository, options.remote)
        refs = _named(repository, [] if options.all else options.refs or ["HEAD"])
        if options.all:
            refs = dict.fromkeys(all_refs(repository), ())
        progress = Progress("sending weights")
        try:
            pushed = send(
                repository, remote, None, refs, everything=options.all, dry_run=options.dry_run, report=progress
            )
        finally:
            progress.done()
    if options.dry_run or not options.quiet:
        print(_would(pushed) if options.dry_run else summary(pushed))
    return 0


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
    if pushed.place is None or not pushed.sent_count:
        return summary(pushed)
    versions = count_text(pushed.sent_count, "version of a file", "versions of files")
    return f"git theta: would send what '{pushed.place.url}' lacks of {versions}"


def _fetched(copied: CopyReport, profile: Profile) -> str:
    if not copied.object_count:
        return f"git theta: all weights {'' if profile.is_whole else 'to keep '}are in the local store already"
    return f"git theta: fetched {count_text(copied.object_count, 'object')}, {size_text(copied.stored_bytes)}"


def _parser(name: str, description: str) -> Parser:
    parser = Parser(prog=f"git theta {name}", description=description)
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="a git remote; if none, the one git would use")
    parser.add_argument("refs", nargs="*", metavar="REF", help="branches, tags or commits")
    add_progress_options(parser)
    return parser


def _fetch(
    repository: Repository,
    remote: str | None,
    refs: list[str],
    everything: bool,
    profile: Profile,
    must_include: bool = False,
) -> CopyReport:
    from gitbridge.fetching import fetch_manifests
    from gitbridge.space import remark_on_fetch

    check_is_remote(repository, remote)
    wanted = _wanted(repository, refs, everything)
    files = [file for file in wanted if profile.wants_path(file.path)]
    if must_include and not files and wanted:
        raise _not_included(profile, wanted)
    _check_globs(repository, files, profile)
    progress = Progress("fetching weights")
    try:
        if not files:
            return CopyReport(0, 0, 0)
        with repository.open_store() as local:
            if profile.is_whole:
                remark_on_fetch(local, repository.store_path(), files)
            return fetch_manifests(repository, local, files, remote, report=progress, profile=profile)
    finally:
        progress.done()


def _not_included(profile: Profile, files: list[TrackedFile]) -> PathMissingError:
    paths = list(dict.fromkeys(file.path for file in files))
    near = did_you_mean(near_names(profile.include[0], paths) if profile.include else ())
    return PathMissingError(
        f"{', '.join(map(repr, profile.include))} matches no file to fetch{near}", "git theta ls-files lists them"
    )


def _check_globs(repository: Repository, files: list[TrackedFile], profile: Profile) -> None:
    """Refuse globs that match nothing in any of the files; pointers tell, so nothing is fetched for it."""
    if profile.tensors and files:
        names = {tensor.name for file in files for tensor in file.pointer(repository).tensors}
        select_names(sorted(names), profile.tensors)


def _wanted(repository: Repository, refs: list[str], everything: bool) -> list[TrackedFile]:
    if everything:
        return list(tracked_in_history(repository, all_refs(repository)))
    if refs:
        return [file for ref in refs for file in tracked_in_tree(repository, ref)]
    files = tracked_in_index(repository) if repository.work_tree else []
    try:
        return files + tracked_in_tree(repository, "HEAD")
    except RevisionError:  # no commit yet
        return files


def _push_remote(repository: Repository) -> str:
    remote = repository.config("remote.pushDefault") or default_remote(repository)
    if remote is None:
        return "origin"
    return remote
