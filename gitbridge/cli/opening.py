"""How a command finds its repository."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gitbridge.repository import Repository

if TYPE_CHECKING:
    from thetastore.store import Store


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


def make_ready(repository: Repository) -> None:
    """Have git call us in this repository, if it does not yet, and put our hooks in.

    Without the filter, git would take files with weights in them for changed ones, and commit them whole.

    Raises:
        ConfigError: the configuration cannot be written.
        HookError: a hook cannot be put beside the user's.
    """
    from gitbridge import hooks, setup

    if not setup.is_configured(repository):
        setup.configure(repository, "--local")
        repository.forget_config()
        print(_NOW_INSTALLED, file=sys.stderr)
    hooks.install(repository)


_NOW_INSTALLED = "git theta was not installed: it is now, for this repository (git theta install: for all of yours)"


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


def open_local_store(repository: Repository) -> Store:
    """Open the local store of a command that has nothing to do without one.

    Raises:
        ConfigError: nothing is stored yet.
    """
    from gitbridge.errors import ConfigError
    from thetastore.errors import StoreMissingError

    try:
        return repository.open_store(create=False)
    except StoreMissingError:
        words = f"nothing is stored here: there is no local store at '{repository.store_path()}'"
        raise ConfigError(words, "to bring the weights here: git theta fetch") from None
