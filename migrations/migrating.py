"""A migration from its first look to its last ref.

First everything is found that would be converted: which blobs, which of them are not here. Then files are converted;
from there on a killed migration has lost nothing, and the next one goes on. Only then are trees and commits made,
and refs moved in one step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gitbridge.repository import Repository
from migrations.conversions import Change
from migrations.git_objects import NewObjects
from migrations.landing import Move
from migrations.refs import Ref
from migrations.rewriting import commits_of, read_commits, rewrite_commits, rewrite_tag
from migrations.trees import Blob, Converted, Trees


class Scope(NamedTuple):
    """What is rewritten."""

    refs: list[Ref]
    oids: list[str]
    """Of the commits that they lead to, parents first; of the checked out one alone where nothing is rewritten."""
    is_rewrite: bool


def scope_of(repository: Repository, refs: Sequence[Ref], is_rewrite: bool) -> Scope:
    """Return the commits that some refs lead to, or the checked out one alone."""
    if is_rewrite:
        return Scope([*refs], commits_of(repository, [ref.oid for ref in refs]), True)
    return Scope([*refs], [repository.git("rev-parse", "--verify", "HEAD^{commit}").decode().strip()], False)


class Found(NamedTuple):
    """What a look at all trees showed besides what its finder noted."""

    signed_count: int
    submodules: set[str]


def look_through(repository: Repository, scope: Scope, change: Change, note: Callable[[str, str], None]) -> Found:
    """Show all files that a change concerns to `note`, by path and oid, in the order of history."""

    def show(path: str, oid: str) -> None:
        note(path, oid)

    trees = Trees(repository, _Nowhere(repository), change, show)
    signed_count = 0
    for commit in read_commits(repository, scope.oids):
        signed_count += commit.is_signed
        trees.rewritten(commit.tree)
    return Found(signed_count, trees.submodules)


class _Nowhere(NewObjects):
    """Takes objects and keeps none."""

    def add(self, kind: str, content: bytes) -> str:
        return ""


class Rewrite(NamedTuple):
    """A history that is made anew and that no ref leads to yet."""

    moves: list[Move]
    commits: dict[str, str]
    """New oids by old ones."""
    signature_count: int
    """Signatures that were dropped, of commits and tags."""


def rewrite(repository: Repository, objects: NewObjects, scope: Scope, change: Change, blob: Blob) -> Rewrite:
    """Make the commits and tags of a scope anew; flushed when this returns."""
    trees = Trees(repository, objects, change, blob)
    rewritten = rewrite_commits(repository, objects, scope.oids, trees.rewritten)
    signature_count = rewritten.signature_count
    moves = []
    for ref in scope.refs:
        new = rewritten.commits.get(ref.oid)
        if ref.type == "tag":
            tag = rewrite_tag(repository, objects, ref.oid, rewritten.commits)
            new = tag.oid if tag else None
            signature_count += tag is not None and tag.was_signed
        if new is not None:
            moves.append(Move(ref.name, ref.oid, new))
    objects.flush()
    return Rewrite(moves, rewritten.commits, signature_count)


def add_commit(
    repository: Repository, objects: NewObjects, scope: Scope, change: Change, blob: Blob, message: str
) -> Rewrite:
    """Make one commit on top of the checked out one, with what changes in its tree.

    Raises:
        GitError: no name for the author is set, say.
    """
    [head] = read_commits(repository, scope.oids)
    tree = Trees(repository, objects, change, blob).rewritten(head.tree)
    objects.flush()
    if tree == head.tree:
        return Rewrite([], {}, 0)
    new = repository.git("commit-tree", tree, "-p", head.oid, "-F", "-", input=message.encode()).decode().strip()
    return Rewrite([Move(scope.refs[0].name, head.oid, new)], {}, 0)


def replaced_by(blobs: Mapping[str, str], renamed: Mapping[str, Callable[[bytes], bytes]] | None = None) -> Blob:
    """Return what puts converted blobs in the places of those that they are made of."""

    def replace(path: str, oid: str) -> Converted | None:
        new = blobs.get(oid)
        return None if new is None or new == oid else Converted(new, (renamed or {}).get(oid))

    return replace


def literal_pattern(path: str) -> str:
    """Return the pattern that matches a path of the top directory and nothing else."""
    return "/" + re.sub(r"([*?\[\\])", r"\\\1", path)
