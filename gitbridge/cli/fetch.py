"""`git theta fetch` and `pull`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from gitbridge.cli.opening import open_repository, open_work_tree
from gitbridge.cli.options import add_progress_options, add_refs_from_input, refs_given, refuse_git_lfs_options
from gitbridge.errors import PathMissingError, RevisionError
from gitbridge.profile import EVERYTHING, Profile, profile_of, split_globs
from gitbridge.reading import select_names
from gitbridge.remotes import check_is_remote, default_remote
from gitbridge.render import Progress, count_text, printable, size_text, table
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.trees import TrackedFile, all_refs, tracked_in_history, tracked_in_index, tracked_in_tree
from thetastore.command_line import FailedAfterError, Parser, print_json
from thetastore.errors import StoreMissingError, did_you_mean, near_names

if TYPE_CHECKING:
    from gitbridge.fetching import Fetched, Found

_EPILOG = """\
For good, in this clone: theta.fetchInclude, theta.fetchExclude, theta.fetchTensors. What is given here takes their
place, and --all brings everything whatever they say. What is recent, theta.fetchRecentRefsDays and its like say.
"""


def fetch(arguments: list[str]) -> int:
    """Bring the weights of revisions into the local store."""
    parser = Parser(
        prog="git theta fetch",
        description="Bring the weights of revisions (HEAD and the index, if none is named) into the local store.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="a git remote; if none, the one git would use")
    parser.add_argument("refs", nargs="*", metavar="REF", help="branches, tags or commits")
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "-a", "--all", action="store_true", help="of the whole history of REF, or of all branches and tags"
    )
    much.add_argument("-r", "--recent", action="store_true", help="of branches with young commits as well")
    _add_choice(parser)
    parser.add_argument("--tensors", action="append", metavar="GLOBS", help="only tensors whose names match")
    add_refs_from_input(parser)
    parser.add_argument("-p", "--prune", action="store_true", help="then let go of what git theta prune would")
    parser.add_argument("-n", "-d", "--dry-run", action="store_true", help="only say what would be fetched")
    parser.add_argument("-j", "--json", action="store_true", help="for programs; schema 1")
    add_progress_options(parser)
    refuse_git_lfs_options(parser, "fetch")
    options = parser.parse_args(arguments)
    if options.prune and options.dry_run:
        parser.error("--prune lets go of weights, and --dry-run changes nothing: git theta prune --dry-run says what")
    with open_repository() as repository:
        check_is_remote(repository, options.remote)
        profile = _profile(repository, options, options.all)
        refs = refs_given(options, [])
        has_names = bool(refs) or options.stdin
        trees = [resolve(repository, ref) for ref in refs] if has_names else _trees_checked_out(repository)
        chosen = _chosen(repository, _asked_for(repository, options, refs, has_names), profile, options, trees)
        return _look(repository, chosen, options) if options.dry_run else _fetch(repository, chosen, options)


def pull(arguments: list[str]) -> int:
    """Fetch, then fill what is a pointer in the work tree."""
    parser = Parser(
        prog="git theta pull",
        description="Bring the weights of the checked-out files into the local store, and fill the work tree.",
    )
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="a git remote; if none, the one git fetch uses")
    _add_choice(parser)
    parser.add_argument("-j", "--json", action="store_true", help="for programs; schema 1")
    add_progress_options(parser)
    options = parser.parse_args(arguments)
    from gitbridge.cli.checkout import fill, say_filled, values_of_filled

    with open_work_tree() as repository:
        check_is_remote(repository, options.remote)
        profile = _profile(repository, options)
        trees = _trees_checked_out(repository)
        chosen = _chosen(repository, _checked_out(repository), profile, options, trees)
        fetched = _bring(repository, chosen)
        if fetched.error is not None:
            raise FailedAfterError({**_values(chosen.files, fetched), "filled": [], "failed": []}) from fetched.error
        if not options.json and not options.quiet:
            print(_text(fetched, profile))
        # Files that are not asked for stay pointers, even if the local store has them.
        is_asked = options.include is not None or options.exclude is not None
        report = fill(repository, None, profile if is_asked else None)
        if options.json:
            print_json({**_values(chosen.files, fetched), **values_of_filled(repository, report)})
        else:
            say_filled(repository, report, options.quiet)
    return 2 if report.failures else 0


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-I", "--include", action="append", metavar="PATHS", help="only these files; comma-separated")
    parser.add_argument("-X", "--exclude", action="append", metavar="PATHS", help="not these files; comma-separated")


def _profile(repository: Repository, options: argparse.Namespace, is_all: bool = False) -> Profile:
    """Return what this clone is set to keep, but for what the command line says."""
    usual = EVERYTHING if is_all else profile_of(repository)
    tensors = getattr(options, "tensors", None)
    return Profile(
        usual.tensors if tensors is None else split_globs(tensors),
        usual.include if options.include is None else split_globs(options.include),
        usual.exclude if options.exclude is None else split_globs(options.exclude),
    )


# Which files


def _asked_for(
    repository: Repository, options: argparse.Namespace, refs: list[str], has_names: bool
) -> list[TrackedFile]:
    """Return the files of the revisions that a command line names."""
    if options.all:
        tips = [resolve(repository, ref) for ref in refs] if has_names else all_refs(repository)
        return list(tracked_in_history(repository, tips)) if tips else []
    files = [file for ref in refs for file in tracked_in_tree(repository, ref)] if has_names else []
    files = files if has_names else _checked_out(repository)
    from gitbridge.recent import recent_files, recent_of

    recent = recent_of(repository)
    if not options.recent and not recent.is_always:
        return files
    head = [] if repository.head_oid() is None else ["HEAD"]
    tips = [resolve(repository, ref, "commit") for ref in (refs if has_names else head)]
    return files + recent_files(repository, recent, options.remote or default_remote(repository), tips)


def _trees_checked_out(repository: Repository) -> list[str]:
    """Return the revisions in which other files may name the tensors; empty is the index."""
    index = [""] if repository.work_tree else []
    head = repository.head_oid()
    return index + ([head] if head else [])


def _checked_out(repository: Repository) -> list[TrackedFile]:
    files = tracked_in_index(repository) if repository.work_tree else []
    try:
        return files + tracked_in_tree(repository, "HEAD")
    except RevisionError:  # no commit yet
        return files


class _Chosen(NamedTuple):
    """What is to be fetched."""

    files: list[TrackedFile]
    profile: Profile
    """Which of their tensors."""
    trees: list[str]
    """Revisions, empty for the index, in which other files may name the tensors."""
    remote: str | None


def _chosen(
    repository: Repository,
    wanted: list[TrackedFile],
    profile: Profile,
    options: argparse.Namespace,
    trees: list[str],
) -> _Chosen:
    """Return the files that a profile keeps something of, with what tells what of them.

    Raises:
        PathMissingError: globs of files match none, and were typed.
        NoSuchTensorError: globs of tensors match none.
    """
    files = [file for file in wanted if profile.wants_path(file.path)]
    if options.include and not files and wanted:
        raise _not_included(profile, wanted)
    if profile.tensors and files:  # pointers tell, so as a rule nothing is fetched for it
        select_names(sorted(_names_in(repository, files, options.remote, trees)), profile.tensors)
    return _Chosen(files, profile, trees, options.remote)


def _names_in(repository: Repository, files: list[TrackedFile], remote: str | None, trees: list[str]) -> set[str]:
    """Return the names of all tensors, those that files have for tensors in others among them."""
    from gitbridge.kept_tensors import tell_names

    try:
        with repository.open_store(create=False) as local:
            told = tell_names(repository, local, files, remote, trees)
    except StoreMissingError:
        told = tell_names(repository, None, files, remote, trees)
    known = [file for file in files if file.path not in told.paths]
    return told.names | {tensor.name for file in known for tensor in file.pointer(repository).tensors}


def _not_included(profile: Profile, files: list[TrackedFile]) -> PathMissingError:
    paths = list(dict.fromkeys(file.path for file in files))
    near = did_you_mean(near_names(profile.include[0], paths) if profile.include else ())
    return PathMissingError(
        f"{', '.join(map(repr, profile.include))} matches no file to fetch{near}", "git theta ls-files lists them"
    )


# Bringing them


def _fetch(repository: Repository, chosen: _Chosen, options: argparse.Namespace) -> int:
    fetched = _bring(repository, chosen)
    values = _values(chosen.files, fetched)
    if fetched.error is not None:
        raise FailedAfterError(values) from fetched.error
    text = "" if options.quiet else _text(fetched, chosen.profile) + "\n"
    if options.prune:
        from gitbridge.cli.prune import prune_as_set, text_of, values_of

        with repository.open_store() as local:
            pruned = prune_as_set(repository, local)
        values["pruned"] = values_of(pruned, is_dry=False)
        text += "" if options.quiet else text_of(pruned, is_dry=False, is_verbose=False)
    if options.json:
        print_json(values)
    else:
        sys.stdout.write(text)
    return 0


def _bring(repository: Repository, chosen: _Chosen) -> Fetched:
    from gitbridge.fetching import Fetched
    from gitbridge.kept_tensors import fetch_kept
    from gitbridge.space import remark_on_fetch

    files, profile, trees, remote = chosen
    if not files:
        return Fetched()
    progress = Progress("fetching weights")
    try:
        with repository.open_store() as local:
            if profile.is_whole:
                remark_on_fetch(local, repository.store_path(), files)
            return fetch_kept(repository, local, files, remote, trees, profile, progress)
    finally:
        progress.done()


def _text(fetched: Fetched, profile: Profile) -> str:
    copied = fetched.copied
    if not copied.object_count:
        return f"git theta: all weights {'' if profile.is_whole else 'to keep '}are in the local store already"
    return f"git theta: fetched {count_text(copied.object_count, 'object')}, {size_text(copied.stored_bytes)}"


def _values(files: list[TrackedFile], fetched: Fetched) -> dict[str, Any]:
    def state(file: TrackedFile) -> str:
        if file.manifest_digest in fetched.missing:
            return "missing"
        return "fetched" if file.manifest_digest in fetched.brought else "here"

    return {
        "dry_run": False,
        **fetched.copied._asdict(),
        "stores": [{"url": one.place.url, **one.copied._asdict()} for one in fetched.arrivals],
        "files": [{**_file_values(file), "state": state(file)} for file in _distinct(files)],
        "missing": [file.path for file in _distinct(files) if file.manifest_digest in fetched.missing],
    }


def _file_values(file: TrackedFile) -> dict[str, Any]:
    return {"path": file.path, "size_bytes": file.file_bytes, "digest": str(file.file_digest)}


def _distinct(files: list[TrackedFile]) -> list[TrackedFile]:
    return sorted({(file.path, file.manifest_digest): file for file in files}.values(), key=lambda file: file.path)


# Only looking


def _look(repository: Repository, chosen: _Chosen, options: argparse.Namespace) -> int:
    from gitbridge.kept_tensors import look_for_kept

    files, profile, trees, remote = chosen
    try:
        with repository.open_store(create=False) as local:
            found = look_for_kept(repository, local, files, remote, trees, profile)
    except StoreMissingError:
        found = look_for_kept(repository, None, files, remote, trees, profile)
    values = _values_of_found(files, found)
    if options.json and found.error is None:
        print_json(values)
    elif not options.json:
        sys.stdout.write(_text_of_found(files, found, profile))
    if found.error is not None:
        raise FailedAfterError(values) from found.error
    return 0


def _text_of_found(files: list[TrackedFile], found: Found, profile: Profile) -> str:
    if not found.offers and not found.missing:
        what = "all weights are" if profile.is_whole else "all weights to keep are"
        return f"git theta: {what} in the local store already\n"
    text = ""
    for place, manifests in found.offers:
        offered = [file for file in _distinct(files) if file.manifest_digest in manifests]
        rows = [(str(file.file_digest)[:10], size_text(file.file_bytes), printable(file.path)) for file in offered]
        lacks = count_text(len(offered), "file lacks", "files lack")
        lacks += f" of {', '.join(map(repr, profile.tensors))}" if profile.tensors else ""
        text += f"git theta: would fetch what {lacks} from '{place.url}'\n{table(rows, right=(1,), indent='  ')}"
    return text


def _values_of_found(files: list[TrackedFile], found: Found) -> dict[str, Any]:
    origin = {manifest: place.url for place, manifests in found.offers for manifest in manifests}

    def state(file: TrackedFile) -> str:
        if file.manifest_digest in found.missing:
            return "missing"
        return "would be fetched" if file.manifest_digest in origin else "here"

    return {
        "dry_run": True,
        "stores": [{"url": place.url, "file_count": len(manifests)} for place, manifests in found.offers],
        "files": [
            {**_file_values(file), "state": state(file), "from": origin.get(file.manifest_digest)}
            for file in _distinct(files)
        ],
        "missing": [file.path for file in _distinct(files) if file.manifest_digest in found.missing],
    }
