"""Which pointers a push has to vouch for: those that commits reach and that no pin covers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from gitbridge.pins import is_shallow, present_commits
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_in_history


class Scan(NamedTuple):
    """One object to push, and the pointers that it adds to what is pinned."""

    oid: str
    files: list[TrackedFile]
    is_whole: bool
    """Whether nothing was left out because of a pin."""
    is_shallow: bool
    """Whether the history looked at ends where a shallow clone was cut."""


def independent(repository: Repository, oids: Iterable[str]) -> list[str]:
    """Peel tags, drop what other pushed commits reach: what is left covers the same history."""
    asked = list(dict.fromkeys(oids))
    if not asked:
        return []
    peeled = "".join(f"{oid}^{{}}\n" for oid in asked).encode()
    answers = repository.git("cat-file", "--batch-check=%(objectname) %(objecttype)", input=peeled).decode()
    kinds = {line.split()[0]: line.split()[-1] for line in answers.splitlines()}
    commits = [oid for oid, kind in kinds.items() if kind == "commit"]
    others = [oid for oid, kind in kinds.items() if kind in ("tree", "blob")]
    if 1 < len(commits) <= _MOST_TO_REDUCE:
        reduced = repository.git("--no-replace-objects", "merge-base", "--independent", *commits, check=False)
        commits = reduced.decode().split() or commits
    return commits + others


_MOST_TO_REDUCE = 256
"""Comparing commits with each other costs the square of their number; above this each is scanned by itself."""


def scan(repository: Repository, tips: list[str], pinned: list[str]) -> list[Scan]:
    """Find the pointers that each tip adds to what is pinned and to the tips before it."""
    covered = present_commits(repository, pinned)
    excluded = [*covered, *_without_pointers(repository)]
    is_whole = not covered
    scans = []
    for tip in tips:
        files = list(tracked_in_history(repository, [tip], excluded))
        scans.append(Scan(tip, files, is_whole, _reaches_cut(repository, tip, excluded)))
        excluded = [*excluded, tip]
        is_whole = False
    return scans


def _reaches_cut(repository: Repository, tip: str, excluded: list[str]) -> bool:
    """Tell whether the history looked at ends where a shallow clone was cut."""
    if not is_shallow(repository):
        return False
    with open(os.path.join(repository.common_dir, "shallow"), "rb") as stream:
        cuts = set(stream.read().split())
    lines = "".join(f"{line}\n" for line in (tip, *("^" + oid for oid in excluded))).encode()
    reached = repository.git("rev-list", "--ignore-missing", "--stdin", input=lines)
    return not cuts.isdisjoint(reached.split())


_CACHE_NAME = "no-pointers"
_CACHE_LINES = 64


def _without_pointers(repository: Repository) -> list[str]:
    """Return commits whose whole history was read before and holds no pointer.

    A repository that tracks nothing has no pins; without this each of its pushes would read all of it.
    """
    try:
        with open(os.path.join(repository.theta_dir, _CACHE_NAME), encoding="ascii") as stream:
            lines = stream.read(_CACHE_LINES * 65).split()
    except (OSError, UnicodeDecodeError):
        return []
    return present_commits(repository, [line for line in lines if len(line) in (40, 64) and line.isalnum()])


def remember_without_pointers(repository: Repository, scans: list[Scan]) -> None:
    """Note that the scans found nothing, for the next push; what a shallow clone could not see is left out."""
    new = [scan.oid for scan in scans if not scan.is_shallow]
    lines = [*new, *_without_pointers(repository)][:_CACHE_LINES]
    if not new or len(set(lines)) < len(lines):
        return
    path = os.path.join(repository.theta_dir, _CACHE_NAME)
    try:
        os.makedirs(repository.theta_dir, exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="ascii") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
        os.replace(f"{path}.{os.getpid()}", path)
    except OSError:
        return  # only time is lost
