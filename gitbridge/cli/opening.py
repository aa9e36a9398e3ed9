"""How a command finds its repository."""

from __future__ import annotations

from gitbridge.repository import Repository


def open_repository() -> Repository:
    """Find the repository, and complete what a dead process of ours left half done."""
    from gitbridge.materialize import complete_pending

    repository = Repository.discover()
    complete_pending(repository)
    return repository


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
