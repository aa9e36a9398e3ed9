"""Which repositories keep their weights in a local store: `docs/format/collecting.md`.

Several repositories may share one store (`theta.storage`), and what the store has to keep is in all of their histories.
So each of them leaves a file there when it first opens the store; whoever deletes asks all of them.
"""

from __future__ import annotations

import os
from shlex import quote
from typing import NamedTuple

from gitbridge.errors import ConfigError, GitError, RepositoryMissingError
from gitbridge.repository import Repository
from thetastore.backends import Backend
from thetastore.errors import MalformedError

MAX_BYTES = 64 << 10


class Registered(NamedTuple):
    """A repository that uses a store."""

    name: str
    """The file in the store that says so."""
    git_dir: str

    def open(self) -> Repository:
        """Open it.

        Raises:
            ConfigError: it is not there, or not for us to read, so that nobody knows what it needs.
        """
        try:
            found = Repository.at(self.git_dir)
            found.git("rev-parse", "--git-dir")  # git reads nothing of what belongs to somebody else, unasked
        except (RepositoryMissingError, GitError) as error:
            head = f"the repository '{self.git_dir}' keeps its weights here too, and "
            place = quote(self.git_dir)
            if isinstance(error, GitError):
                words, hint = "git does not read it", f"git -C {place} status says why"
                if "dubious ownership" in error.message:
                    words = "belongs to another user"
                    hint = f"if you trust that user: git config --global --add safe.directory {place}"
            elif _is_forbidden(self.git_dir):
                words = "may not be read by this user"
                hint = f"run it as a user who may, or have its owner run: chmod -R g+rX {place}"
            else:
                words = "cannot be reached"
                hint = f"mount it; or, if it is gone for good: git theta prune --forget {place}"
            raise ConfigError(f"{head}{words}: everything stays", hint) from None
        return found


def _is_forbidden(path: str) -> bool:
    """Tell whether we are kept out of a directory, so that we cannot know whether it is there, or from reading it."""
    try:
        return not os.access(path, os.R_OK | os.X_OK) and bool(os.stat(path))
    except PermissionError:
        return True
    except OSError:
        return False


def registered(backend: Backend) -> list[Registered]:
    """Return the repositories that use a store, by their paths.

    Raises:
        MalformedError: something is registered that this version does not understand.
    """
    found = [Registered(name, _git_dir_in(name, backend)) for name in sorted(backend.list("repositories"))]
    return sorted(found, key=lambda one: one.git_dir)


def _git_dir_in(name: str, backend: Backend) -> str:
    import json

    try:
        values = json.loads(backend.read(name, 0, MAX_BYTES + 1))
        is_known = values["format"] == "theta-repository" and values["version"] in (0, 1)
        git_dir = os.fsdecode(bytes.fromhex(values["git_dir_hex"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        is_known, git_dir = False, ""
    if not is_known:
        raise MalformedError(f"'{name}' does not say which repository uses the store: a newer version may have put it")
    return git_dir


def forget(backend: Backend, git_dir: str) -> bool:
    """Take a repository out, whose needs do not count any more; tell whether it was there."""
    path = os.path.realpath(git_dir)
    gone = [one for one in registered(backend) if one.git_dir in (path, os.path.join(path, ".git"))]
    for one in gone:
        backend.delete(one.name)
    return bool(gone)
