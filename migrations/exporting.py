"""`git theta migrate export`: back to plain files, or to Git LFS."""

from __future__ import annotations

import argparse
import sys

from gitbridge.fetching import fetch_manifests
from gitbridge.profile import EVERYTHING
from gitbridge.render import Progress, count_text, size_text
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile
from migrations.conversions import LFS, OURS, Change, files_below
from migrations.git_objects import NewObjects
from migrations.importing import checked_scope, confirmed, land_and_tell
from migrations.migrating import add_commit, look_through, replaced_by, rewrite
from migrations.outgoing import Finder, export_all

_GIT_WARNS_BYTES = 100 << 20


def run(repository: Repository, options: argparse.Namespace) -> int:
    """Convert pointers back; return the exit status."""
    change = Change(OURS, options.target, files_below(options.include), files_below(options.exclude))
    scope = checked_scope(repository, options)
    finder = Finder(repository)
    look_through(repository, scope, change, finder)
    files = [*finder.found.values()]
    if not files:
        print("git theta: no pointers to export")
        return 0
    raw_bytes = sum(file.file_bytes for file in files)
    of = f"{count_text(len({file.path for file in files}), 'file')} in {count_text(len(files), 'version')}"
    print(f"{count_text(len(scope.oids), 'commit')}, {of}: {size_text(raw_bytes)} to write whole")
    large = [file.path for file in files if file.file_bytes > _GIT_WARNS_BYTES]
    if options.target != LFS and large:
        print(f"'{large[0]}' is longer than common Git hosts take (100 MiB): --to lfs", file=sys.stderr)
    if options.dry_run:
        print("nothing was changed; without --dry-run it will be")
        return 0
    if not confirmed(options, scope):
        return 2
    objects = NewObjects(repository)
    exported = _export(repository, objects, files, options.target == LFS)
    objects.flush()
    blob = replaced_by(exported)
    if scope.is_rewrite:
        made = rewrite(repository, objects, scope, change, blob)
    else:
        message = options.message or f"Keep weights in {options.target} (git theta migrate export)"
        made = add_commit(repository, objects, scope, change, blob, message)
    land_and_tell(repository, made, options)
    if options.target == LFS:
        print("with git-lfs: git lfs install, and git lfs push --all origin before git push", file=sys.stderr)
    return 0


def _export(repository: Repository, objects: NewObjects, files: list[TrackedFile], to_lfs: bool) -> dict[str, str]:
    raw_bytes = sum(file.file_bytes for file in files)
    progress = Progress("writing files")
    with repository.open_store() as store:
        try:
            fetch_manifests(repository, store, files, None, report=progress, profile=EVERYTHING)
            return export_all(
                repository, store, objects, files, to_lfs, lambda done_bytes: progress.of_bytes(done_bytes, raw_bytes)
            )
        finally:
            progress.done()
