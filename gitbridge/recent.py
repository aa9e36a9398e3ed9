"""Which files the young commits hold: what somebody will want to look at or go on with, though it is not checked out.

Young, and how young, is said by settings with the names and defaults that git-lfs has for them.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from gitbridge.errors import ConfigError
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_in_history

_DAY_S = 24 * 3600


class Recent(NamedTuple):
    """What counts as recent."""

    ref_days: int
    """Branches whose last commit is younger are; 0 for none."""
    commit_days: int
    """Commits of a branch that are at most so much older than its last one are, too; 0 for none."""
    of_remotes: bool
    """Whether the branches of the remote count as well."""
    is_always: bool
    """Whether every fetch brings what is recent."""


def recent_of(repository: Repository) -> Recent:
    """Return what a repository is set to.

    Raises:
        ConfigError: a setting is no number of days.
    """
    return Recent(
        _days(repository, "theta.fetchRecentRefsDays", 7),
        _days(repository, "theta.fetchRecentCommitsDays", 0),
        repository.config_bool("theta.fetchRecentRemoteRefs", True),
        repository.config_bool("theta.fetchRecentAlways", False),
    )


def recent_files(repository: Repository, recent: Recent, remote: str | None, tips: list[str]) -> list[TrackedFile]:
    """Return the files of recent commits, each content once.

    Args:
        repository: whose.
        recent: what counts.
        remote: the git remote whose branches count; None for none.
        tips: commits that count as if they were branches, whatever their age.
    """
    branches = _branches(repository, recent, remote) if recent.ref_days else []
    commits = list(dict.fromkeys([*tips, *branches]))
    if recent.commit_days:
        commits = list(dict.fromkeys(commit for tip in commits for commit in _before(repository, tip, recent)))
    return list(tracked_in_history(repository, commits, more=("--no-walk",))) if commits else []


def _branches(repository: Repository, recent: Recent, remote: str | None) -> list[str]:
    where = ["refs/heads", *([f"refs/remotes/{remote}"] if recent.of_remotes and remote else [])]
    listed = repository.git("for-each-ref", "--format=%(committerdate:unix) %(objectname)", *where).decode()
    oldest = time.time() - recent.ref_days * _DAY_S
    found = (line.partition(" ") for line in listed.splitlines())
    return [oid for date, _, oid in found if date and int(date) >= oldest]  # no date: not a commit


def _before(repository: Repository, tip: str, recent: Recent) -> list[str]:
    """Return a commit, those that are little older, and the parents of these: what was replaced is compared with."""
    date = int(repository.git("log", "-1", "--format=%ct", tip))
    oldest = date - recent.commit_days * _DAY_S
    return repository.git("rev-list", "--parents", f"--max-age={oldest}", tip).decode().split()


def _days(repository: Repository, name: str, default: int) -> int:
    text = repository.config(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise ConfigError(f"'{name}' is '{text}', expected a number of days", f"git config {name} {default}")
    return int(text)
