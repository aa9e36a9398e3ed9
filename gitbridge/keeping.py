"""What the histories of the repositories that share a local store need of it, and what of it is needed here and now."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_in_history

EVERYTHING = ("--all", "--reflog", "--indexed-objects")
"""What git itself keeps objects for: refs, stashes, reflogs, and the indexes of all work trees."""
_OTHER_HEADS = ("ORIG_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "REBASE_HEAD", "FETCH_HEAD", "AUTO_MERGE")


def named_anywhere(repository: Repository) -> Iterator[TrackedFile]:
    """Yield all files that a repository has any name for, of any version.

    Raises:
        GitError: git cannot read something, so what is needed is unknown.
    """
    yield from tracked_in_history(repository, _other_heads(repository), more=EVERYTHING)


def needed_now(repository: Repository, days: int) -> Iterator[TrackedFile]:
    """Yield the files that are checked out or in an index, in any work tree, and those of young commits.

    Args:
        repository: whose.
        days: commits of refs that are younger than this are young.
    """
    heads = repository.git("worktree", "list", "--porcelain").decode("utf-8", "replace")
    tips = [line.removeprefix("HEAD ") for line in heads.splitlines() if line.startswith("HEAD ")]
    young = repository.git("rev-list", "--all", f"--since={days}.days").decode().split() if days else []
    commits = [tip for tip in dict.fromkeys(tips + young) if tip.strip("0")]
    yield from tracked_in_history(repository, commits, more=("--no-walk", "--indexed-objects"))


def _other_heads(repository: Repository) -> list[str]:
    """Return what is named by files that are no refs, in all work trees: of a merge or rebase that is under way."""
    directories = [repository.common_dir]
    linked = os.path.join(repository.common_dir, "worktrees")
    if os.path.isdir(linked):
        directories += [os.path.join(linked, name) for name in sorted(os.listdir(linked))]
    found: list[str] = []
    for directory in directories:
        for name in _OTHER_HEADS:
            try:
                with open(os.path.join(directory, name), encoding="ascii", errors="replace") as stream:
                    words = [line.split("\t")[0].strip() for line in stream.read(1 << 20).splitlines()]
            except FileNotFoundError:
                continue
            found += [word for word in words if len(word) in (40, 64) and word.isalnum()]
    return list(dict.fromkeys(found))
