"""Tracked files that a checkout or a clone has left out: git removes the old file first, and fails or dies then."""

from __future__ import annotations

import os
from collections.abc import Sequence
from shlex import quote

from gitbridge.errors import RevisionError
from gitbridge.render import printable
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_in_index, tracked_in_tree

RESTORE_ALL = "git restore --source=HEAD --staged --worktree :/"
WITHOUT_WEIGHTS = "GIT_THETA_SKIP_SMUDGE=1"
"""Before a command of git that writes files: leaves pointers."""
_NAMED_COUNT = 3


def nothing_is_checked_out(repository: Repository) -> bool:
    """Tell whether the index is empty and HEAD is not: git clone writes neither index nor files where one fails."""
    is_empty = not repository.git("ls-files", "-z")
    return is_empty and bool(_in_head(repository))


def remark_on_absent(repository: Repository, files: Sequence[TrackedFile] | None = None) -> str:
    """Return which tracked files are not here, and on a second line what brings them back; empty if all are here.

    Args:
        repository: whose work tree.
        files: the tracked files of the index, if the caller knows them.
    """
    in_index = {file.path for file in (tracked_in_index(repository) if files is None else files)}
    absent = sorted(_in_head(repository) - in_index)
    if absent:
        return (
            f"{_named(absent)} in HEAD, and not in the index (a checkout that failed?)\n"
            f"to bring back all files of HEAD: {RESTORE_ALL}"
            + (f"\nwithout their weights: {WITHOUT_WEIGHTS} {RESTORE_ALL}" if not in_index else "")
        )
    deleted = sorted(in_index & _deleted(repository))
    if deleted:
        return (
            f"{_named(deleted)} in the index, and not in the work tree (deleted, or a checkout that failed?)\n"
            f"to bring back what is deleted: {_restoring(deleted)}"
        )
    return ""


def _in_head(repository: Repository) -> set[str]:
    try:
        return {file.path for file in tracked_in_tree(repository, "HEAD")}
    except RevisionError:  # no commit yet
        return set()


def _deleted(repository: Repository) -> set[str]:
    """Return what the work tree lacks; a sparse checkout lacks nothing."""
    return {os.fsdecode(path) for path in repository.git("ls-files", "-z", "--deleted").split(b"\0")[:-1]}


def _named(paths: list[str]) -> str:
    return f"'{printable(paths[0])}' " + (f"and {len(paths) - 1} more are" if len(paths) > 1 else "is")


def _restoring(paths: list[str]) -> str:
    if len(paths) > _NAMED_COUNT:
        return "git ls-files -z --deleted :/ | xargs -0 git restore --"
    return "git restore " + " ".join(quote(":/" + path) for path in paths)
