"""Which refs a migration moves, and what speaks against moving any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from gitbridge.errors import RevisionError, UsageError
from gitbridge.repository import Repository


class Ref(NamedTuple):
    """A ref that is to be rewritten."""

    name: str
    """Full; `HEAD` where no branch is checked out."""
    oid: str
    """Of a commit or a tag."""
    type: str


def refs_of(repository: Repository, names: Sequence[str], everything: bool) -> list[Ref]:
    """Return the refs to rewrite: all branches and tags, the named ones, or the branch that is checked out.

    Raises:
        RevisionError: a name is none of a branch or a tag, or nothing is committed yet.
    """
    every = _all(repository)
    if everything:
        found = [ref for ref in every.values() if ref.name.startswith(("refs/heads/", "refs/tags/"))]
        if not _branch(repository) and (head := _head(repository)):
            found.append(head)
        return [ref for ref in found if ref.type in ("commit", "tag")]
    if not names:
        head = every.get(_branch(repository)) or _head(repository)
        if head is None:
            raise RevisionError("nothing is committed here yet", "git theta track '*.safetensors' and git add do all")
        return [head]
    return [_named(repository, every, name) for name in names]


def _all(repository: Repository) -> dict[str, Ref]:
    listed = repository.git("for-each-ref", "--format=%(refname) %(objectname) %(objecttype) %(symref)")
    lines = (line.rsplit(" ", 3) for line in listed.decode("utf-8", "surrogateescape").splitlines())
    return {name: Ref(name, oid, kind) for name, oid, kind, symref in lines if not symref}


def _branch(repository: Repository) -> str:
    return repository.git("symbolic-ref", "-q", "HEAD", check=False).decode("utf-8", "surrogateescape").strip()


def _head(repository: Repository) -> Ref | None:
    oid = repository.git("rev-parse", "-q", "--verify", "HEAD", check=False).decode().strip()
    return Ref("HEAD", oid, "commit") if oid else None


def _named(repository: Repository, every: dict[str, Ref], name: str) -> Ref:
    for prefix in ("", "refs/", "refs/heads/", "refs/tags/"):
        ref = every.get(prefix + name)
        if ref is not None and ref.name.startswith(("refs/heads/", "refs/tags/")) and ref.type in ("commit", "tag"):
            return ref
    raise RevisionError(f"'{name}' is not a branch or a tag of this repository", "git branch; git tag: list them")


def others_that_share(repository: Repository, refs: Sequence[Ref]) -> int:
    """Return how many local refs are left that would still lead to the old history, if nothing else rewrote them."""
    moved = {ref.name for ref in refs}
    return sum(name.startswith(("refs/heads/", "refs/tags/")) and name not in moved for name in _all(repository))


def notes_of(repository: Repository) -> list[str]:
    """Return the refs of notes."""
    return [name for name in _all(repository) if name.startswith("refs/notes/")]


def has_stash(repository: Repository) -> bool:
    """Tell whether changes are stashed: stashes are of the old commits, and stay so."""
    return "refs/stash" in _all(repository)


def check_can_rewrite(repository: Repository, refs: Sequence[Ref], settings: Sequence[str] = ()) -> None:
    """Refuse where a rewrite would lose something, or leave something behind; `settings` as of `check_is_clean`.

    Raises:
        UsageError: the work tree is dirty, an operation is under way, the clone is shallow, objects are replaced, or
            another work tree has one of the branches.
    """
    if os.path.exists(os.path.join(repository.common_dir, "shallow")):
        raise UsageError("this clone is shallow: it has only a part of the history", "git fetch --unshallow")
    if any(name.startswith("refs/replace/") for name in _all(repository)):
        raise UsageError("objects of this repository are replaced (git replace)", "git replace --list; git replace -d")
    check_is_clean(repository, settings)
    names = {ref.name for ref in refs}
    for place, branch in _other_work_trees(repository):
        if branch in names:
            raise UsageError(
                f"'{branch.removeprefix('refs/heads/')}' is checked out in another work tree too: '{place}'",
                f"git worktree remove {place}, or there: git switch --detach",
            )


def check_is_clean(repository: Repository, settings: Sequence[str] = ()) -> None:
    """Refuse where there is something that is not committed.

    Args:
        repository: where.
        settings: what git is configured with while it looks, besides all else: `name=value`.

    Raises:
        UsageError: the work tree or the index is dirty, or an operation is under way.
    """
    for name, operation in (("MERGE_HEAD", "merge"), ("rebase-merge", "rebase"), ("rebase-apply", "rebase")):
        if os.path.exists(os.path.join(repository.git_dir, name)):
            raise UsageError(f"a {operation} is under way", f"git {operation} --continue, or git {operation} --abort")
    if repository.work_tree is None:
        return
    configured = [word for setting in settings for word in ("-c", setting)]
    command = [*configured, "status", "--porcelain", "-z", "--untracked-files=no"]
    dirty = repository.git(*command).split(b"\0")[:-1]
    if dirty:
        name = dirty[0][3:].decode("utf-8", "backslashreplace")
        more = f" and {len(dirty) - 1} more" if len(dirty) > 1 else ""
        raise UsageError(f"there are changes that are not committed: '{name}'{more}", "git commit, or git stash")


def _other_work_trees(repository: Repository) -> list[tuple[str, str]]:
    listing = repository.git("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape")
    found = []
    for block in listing.split("\n\n"):
        values = dict(line.partition(" ")[::2] for line in block.splitlines())
        place = values.get("worktree", "")
        is_here = repository.work_tree is not None and os.path.realpath(place) == os.path.realpath(repository.work_tree)
        if not is_here and "bare" not in values and values.get("branch"):
            found.append((place, values["branch"]))
    return found
