"""Git-Theta's `git_theta.api`, by its names and arguments: `from gitbridge.git_theta_api import load_from_git`.

What differs: only safetensors is written from memory, so paths end in `.safetensors`; the work tree is never behind its
branch, so `checkout` of a save is what always happens; a commit is named by its oid.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gitbridge.committing import commit
from gitbridge.errors import GitError, UsageError
from gitbridge.models import open as open_model
from gitbridge.repository import Repository

_FRAMEWORKS = {
    "pytorch": "torch",
    "pickled-dict": "torch",
    "safetensors": "numpy",
    "safetensors-checkpoint": "numpy",
    "numpy": "numpy",
    "flax": "jax",
    "flax-checkpoint": "jax",
}
"""By the checkpoint types of Git-Theta: as what tensors come back."""


def save_to_git(
    state_dict: Mapping[str, Any],
    path: str,
    commit_msg: str,
    tag: str | None = None,
    checkpoint_type: str = "pytorch",
    checkout: bool = False,
) -> str:
    """Commit tensors to the branch that is checked out, as a safetensors file; return the oid of the commit.

    Args:
        state_dict: tensors by name, as `gitbridge.commit` takes them.
        path: of the file, from the top of the work tree of the current directory.
        commit_msg: of the commit.
        tag: a tag for the commit.
        checkpoint_type: taken and not needed: what the tensors are, they say themselves.
        checkout: taken and not needed: the file is written to the work tree in any case.

    Raises:
        UsageError: the path is not that of a safetensors file, or no branch is checked out.
        GitError: git refused: the file has changes that are not committed, say. Nothing is changed then.
    """
    with Repository.discover() as repository:
        try:
            repository.git("symbolic-ref", "-q", "HEAD")
        except GitError:
            raise UsageError("no branch is checked out to commit to", "git switch BRANCH") from None
        aside = f"refs/heads/theta-save-{os.getpid()}"
        try:
            oid = commit(state_dict, path, commit_msg, aside, repository=repository.root)
            repository.git("merge", "-q", "--ff-only", oid, cwd=repository.work_tree)
        finally:
            repository.git("update-ref", "-d", aside, check=False)
        if tag is not None:
            repository.git("tag", "--", tag, oid)
    return oid


def load_from_git(
    sha_or_tag: str, path: str, checkpoint_type: str = "pytorch", checkout: bool = False
) -> dict[str, Any]:
    """Return the tensors of a file at a revision, without a checkout.

    Args:
        sha_or_tag: any name of a revision.
        path: of the file, from the top of the work tree of the current directory. Any format that is known here.
        checkpoint_type: a type of Git-Theta's; says as what tensors come back, whatever the file is: torch's for
            `pytorch`, jax's for `flax`, numpy's for `safetensors`.
        checkout: check the revision out, too, after the tensors were read.

    Raises:
        UsageError: an unknown type.
        Other errors: as `gitbridge.open`.
    """
    framework = _FRAMEWORKS.get(checkpoint_type)
    if framework is None:
        raise UsageError(f"no checkpoint type '{checkpoint_type}': known are {', '.join(_FRAMEWORKS)}")
    with Repository.discover() as repository:
        tensors = open_model(repository.root, sha_or_tag, path).state_dict(framework)
        if checkout:
            repository.git("checkout", "-q", sha_or_tag, cwd=repository.work_tree)
    return tensors


def save(
    state_dict: Mapping[str, Any],
    path: str,
    commit_msg: str | None = None,
    checkpoint_type: str = "pytorch",
    materialize: bool = False,
) -> str:
    """Commit tensors; the older name of `save_to_git`."""
    return save_to_git(state_dict, path, commit_msg or f"Committing {path}", None, checkpoint_type, materialize)


def load(sha_or_tag: str, path: str, checkpoint_type: str = "pytorch", checkout: bool = False) -> dict[str, Any]:
    """Return tensors; the older name of `load_from_git`."""
    return load_from_git(sha_or_tag, path, checkpoint_type, checkout)
