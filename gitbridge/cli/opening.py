"""How a command finds its repository."""

from __future__ import annotations

import os

from gitbridge.repository import Repository


def open_repository() -> Repository:
    """Find the repository, and complete what a dead process of ours left half done."""
    repository = Repository.discover()
    if has_journals(repository):  # the import costs more than all the rest of a hook
        from gitbridge.materialize import complete_pending

        complete_pending(repository)
    return repository


def has_journals(repository: Repository) -> bool:
    """Tell whether a process of ours, dead or alive, has files to put in their places."""
    try:
        with os.scandir(os.path.join(repository.theta_dir, "pending")) as found:
            return any(True for _ in found)
    except FileNotFoundError:
        return False


def open_work_tree() -> Repository:
    """Find the repository, and insist on a work tree.

    Raises:
        UsageError: it is bare, or we are inside of its git directory.
    """
    from gitbridge.errors import UsageError

    repository = open_repository()
    if repository.work_tree is None:
        raise UsageError("this command needs a work tree, and there is none here", "run it where the files are")
    return repository
