"""`git theta migrate import`: into the store, from plain git, Git LFS or Git-Theta."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from gitbridge.cli.opening import make_ready
from gitbridge.errors import UsageError
from gitbridge.render import Progress, count_text, size_text
from gitbridge.repository import Repository
from gitbridge.setup import configure
from migrations import git_theta
from migrations.conversions import GIT, OURS, Change, files_below
from migrations.git_objects import NewObjects
from migrations.incoming import Converter, Finder, Missing, ObjectsMissingError, Wanted
from migrations.landing import directory_of, land, next_number
from migrations.migrating import (
    Found,
    Rewrite,
    Scope,
    add_commit,
    literal_pattern,
    look_through,
    replaced_by,
    rewrite,
    scope_of,
)
from migrations.refs import check_can_rewrite, check_is_clean, has_stash, notes_of, others_that_share, refs_of
from thetastore.store import Store

_SHOWN = 10
_MESSAGE = "Keep weights in a thetastore (git theta migrate import)"


def run(repository: Repository, options: argparse.Namespace) -> int:
    """Convert what the options name; return the exit status."""
    if options.source == "huggingface":
        from migrations import huggingface

        return huggingface.run(repository, options)
    change = change_of(options.source, options.include, options.exclude)
    settings = git_theta.UNFILTERED if options.source == "git-theta" else ()
    scope = checked_scope(repository, options, settings)
    finder = Finder(repository)
    found = look_through(repository, scope, change, finder)
    if finder.missing:
        change, finder = _without_missing([*finder.missing], options), Finder(repository)
        look_through(repository, scope, change, finder)
    wanted = [*finder.found.values()]
    if not wanted:
        print(f"git theta: nothing to migrate from {options.source} in {_commits(scope)}")
        print("hint: git theta migrate info lists what there is", file=sys.stderr)
        return 0
    _print_before(repository, scope, found, wanted)
    if options.dry_run:
        return _print_after(repository, wanted)
    if not confirmed(options, scope):
        return 2
    return _migrate(repository, options, scope, change, wanted)


def change_of(source: str, include: Sequence[str], exclude: Sequence[str]) -> Change:
    """Return what happens to attributes.

    Raises:
        UsageError: a pattern that attributes cannot have, or none where one is needed.
    """
    include, exclude = files_below(include), files_below(exclude)
    if source == "git-theta":
        if include:
            raise UsageError("from Git-Theta, all of its files are migrated", "--exclude leaves some as they are")
        return git_theta.GitThetaChange(exclude)
    if source == GIT and not include:
        raise UsageError(
            "from plain git, only files that --include names are migrated", "git theta migrate info lists what there is"
        )
    return Change(source, OURS, include, exclude)


def checked_scope(repository: Repository, options: argparse.Namespace, settings: Sequence[str] = ()) -> Scope:
    """Return the commits that are concerned; `settings` as of `refs.check_is_clean`.

    Raises:
        UsageError: something speaks against it, see `refs.check_can_rewrite`.
    """
    if options.no_rewrite:
        if options.everything or options.refs:
            raise UsageError("--no-rewrite adds a commit to the branch that is checked out, and to no other")
        if repository.work_tree is None:
            raise UsageError("--no-rewrite needs a work tree, and there is none here")
        check_is_clean(repository, settings)
        return scope_of(repository, refs_of(repository, (), False), False)
    if options.everything and options.refs:
        raise UsageError("--everything and names of branches exclude each other")
    refs = refs_of(repository, options.refs, options.everything)
    check_can_rewrite(repository, refs, settings)
    return scope_of(repository, refs, True)


def _commits(scope: Scope) -> str:
    return count_text(len(scope.oids), "commit")


def _without_missing(missing: list[Missing], options: argparse.Namespace) -> Change:
    """Leave the paths alone of which a version is missing.

    Raises:
        ObjectsMissingError: that was not asked for.
    """
    if not options.skip_missing:
        hint = "git lfs fetch --all; or leave them where they are: --skip-missing"
        raise ObjectsMissingError(_missing_text(missing), hint)
    for lost in missing[:_SHOWN]:
        print(f"git theta: left as it is, in all versions: '{lost.path}': {lost.what} is not here", file=sys.stderr)
    if len(missing) > _SHOWN:
        print(f"git theta: … and {len(missing) - _SHOWN} more", file=sys.stderr)
    paths = dict.fromkeys(lost.path for lost in missing)
    return change_of(options.source, options.include, [*options.exclude, *map(literal_pattern, paths)])


def _missing_text(missing: list[Missing]) -> str:
    shown = "".join(f"\n  '{lost.path}': {lost.what}" for lost in missing[:_SHOWN])
    more = f"\n  … and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return (
        f"{count_text(len(missing), 'object')} that the history needs are not here; nothing was changed:{shown}{more}"
    )


def _print_before(repository: Repository, scope: Scope, found: Found, wanted: list[Wanted]) -> None:
    raw_bytes = sum(one.nbytes for one in wanted)
    of = f"{count_text(len({one.path for one in wanted}), 'file')} in {count_text(len(wanted), 'version')}"
    print(f"{_commits(scope)}, {of}: {size_text(raw_bytes)}")
    print(f"before: {size_text(bytes_before(repository, wanted))} on disk")
    if scope.is_rewrite:
        if found.signed_count:
            print(f"{count_text(found.signed_count, 'commit')} of these are signed; those that change lose it")
        if found.submodules:
            print(f"submodules stay as they are: {', '.join(sorted(found.submodules)[:_SHOWN])}")
        others = others_that_share(repository, scope.refs)
        if others:
            names = count_text(others, "other branch or tag", "other branches and tags")
            print(f"{names} would keep the old history: --everything takes them along")
        if has_stash(repository):
            print("stashes stay as they are, on top of the old commits")


def bytes_before(repository: Repository, wanted: list[Wanted]) -> int:
    """Return what the files take where they are now: in packs of git, or as objects of Git LFS."""
    in_git = "".join(f"{one.oid}\n" for one in wanted if one.lfs_pointer is None).encode()
    listed = repository.git("cat-file", "--batch-check=%(objectsize:disk)", input=in_git).split()
    pointers = {one.lfs_pointer for one in wanted if one.lfs_pointer is not None}
    theirs = git_theta.stored_bytes(repository, [one.oid for one in wanted if one.is_git_theta])
    return sum(map(int, listed)) + sum(pointer.nbytes for pointer in pointers) + theirs


def _print_after(repository: Repository, wanted: list[Wanted]) -> int:
    """Convert into a store that is deleted again, to say exactly what it takes."""
    print(f"after: {size_text(measure(repository, wanted))} on disk")
    print("nothing was changed; without --dry-run it will be")
    return 0


def measure(repository: Repository, wanted: list[Wanted]) -> int:
    """Return what a store takes for some files, by making one."""
    scratch = os.path.join(directory_of(repository), f"trial-{os.getpid()}")
    try:
        with Store.open(scratch, create=True) as store:
            _convert(Converter(repository, store, _Dropped(repository), remembers=False), wanted)
        return bytes_below(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Dropped(NewObjects):
    """Takes objects and keeps none."""

    def add(self, kind: str, content: bytes) -> str:
        return ""


def bytes_below(directory: str) -> int:
    """Return the length of all files in a directory."""
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(directory) for name in names)


def confirmed(options: argparse.Namespace, scope: Scope) -> bool:
    """Ask, unless that was answered already."""
    if options.yes or not scope.is_rewrite:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            f"this rewrites {_commits(scope)}, and nobody is here to be asked", "--yes to go on; --dry-run to see more"
        )
    sys.stderr.write(f"rewrite {_commits(scope)}? [y/N] ")
    sys.stderr.flush()
    is_yes = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not is_yes:
        print("nothing was changed")
    return is_yes


def _convert(converter: Converter, wanted: list[Wanted]) -> None:
    total_bytes = sum(one.nbytes for one in wanted)
    progress = Progress("storing files")
    try:
        converter.convert_all(wanted, lambda done_bytes: progress.of_bytes(done_bytes, total_bytes))
    finally:
        progress.done()


def _migrate(
    repository: Repository, options: argparse.Namespace, scope: Scope, change: Change, wanted: list[Wanted]
) -> int:
    if options.source == "git-theta":
        git_theta.make_room(repository)
        configure(repository, "--local", force=True)
        repository.forget_config()
    make_ready(repository)
    objects = NewObjects(repository)
    with repository.open_store() as store:
        before_bytes = bytes_below(store.url)
        converter = Converter(repository, store, objects)
        _convert(converter, wanted)
        after_bytes = bytes_below(store.url)
    renamed = {one.oid: git_theta.new_name for one in wanted if one.is_git_theta}
    blob = replaced_by(converter.pointers, renamed)
    if scope.is_rewrite:
        made = rewrite(repository, objects, scope, change, blob)
    else:
        made = add_commit(repository, objects, scope, change, blob, options.message or _MESSAGE)
    land_and_tell(repository, made, options)
    print(f"after: {size_text(after_bytes - before_bytes)} more in the store")
    return 0


def land_and_tell(repository: Repository, made: Rewrite, options: argparse.Namespace) -> None:
    """Move the refs, and say what happened and how to go back."""
    number = next_number(repository)
    land(repository, number, made.moves, notes_of(repository) if made.commits else [], made.commits)
    for move in made.moves:
        print(f"{move.ref.removeprefix('refs/heads/').removeprefix('refs/')}: {move.old} -> {move.new}")
    if made.commits:
        place = os.path.relpath(os.path.join(directory_of(repository), str(number), "commits"))
        if len(made.commits) <= _SHOWN or options.verbose:
            for old, new in made.commits.items():
                print(f"  {old} {new}")
        print(f"{count_text(len(made.commits), 'commit')} made anew; old and new names: {place}")
    if made.signature_count:
        print(f"{count_text(made.signature_count, 'signature')} dropped: they were of the old bytes")
    print("to take it back: git theta migrate undo", file=sys.stderr)
    if made.commits:
        print("when all is well: git theta migrate forget, then git push --force-with-lease", file=sys.stderr)
