"""Which pointers a push has to vouch for: those that commits reach and that no pin covers."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from gitbridge.pins import is_shallow, present_commits
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_in_history


class Scan(NamedTuple):
    """One object to pin, and the pointers that it adds to what is pinned."""

    oid: str
    files: list[TrackedFile]
    leans_on: tuple[str, ...]
    """Commits whose history was left out: ancestors that are pinned, or that are among the scans before it."""
    is_shallow: bool
    """Whether the history looked at ends where a shallow clone was cut."""


def peeled(repository: Repository, oids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return what each object is behind its tags, and of which type; those that are not here are left out."""
    asked = list(dict.fromkeys(oids))
    if not asked:
        return {}
    lines = "".join(f"{oid}^{{}}\n" for oid in asked).encode()
    answers = repository.git("cat-file", "--batch-check=%(objectname) %(objecttype)", input=lines).decode()
    found = {}
    for oid, line in zip(asked, answers.splitlines(), strict=True):
        name, _, kind = line.partition(" ")
        if kind in ("commit", "tree", "blob"):
            found[oid] = name, kind
    return found


def independent(repository: Repository, oids: Iterable[str]) -> list[str]:
    """Peel tags, drop what other pushed commits reach: what is left covers the same history."""
    kinds = dict(peeled(repository, oids).values())
    commits = [oid for oid, kind in kinds.items() if kind == "commit"]
    others = [oid for oid, kind in kinds.items() if kind in ("tree", "blob")]
    if 1 < len(commits) <= _MOST_TO_REDUCE:
        reduced = repository.git("--no-replace-objects", "merge-base", "--independent", *commits, check=False)
        commits = reduced.decode().split() or commits
    return commits + others


_MOST_TO_REDUCE = 256
"""Comparing commits with each other costs the square of their number; above this each is scanned by itself."""


def scan(repository: Repository, tips: list[str], pinned: Iterable[str]) -> list[Scan]:
    """Find the pointers that tips add to what is pinned; each scan leans on pinned ones and on scans before it."""
    named = set(pinned)
    covered = set(present_commits(repository, named))
    without = _without_pointers(repository)
    scans: list[Scan] = []
    for tip in tips:
        if tip not in named:
            scans += _scan_of(repository, tip, covered, without)
            covered.update(one.oid for one in scans)
    return scans


def _scan_of(repository: Repository, tip: str, covered: set[str], without: list[str]) -> list[Scan]:
    """Scan one tip up to ancestors that are covered, and before it those that it shares with covered commits.

    It leans on no commit that it does not reach: that one may be let go of, when its branch is deleted, and would be
    kept for the sake of a few files.
    """
    edge = _edge(repository, tip, [*covered, *without])
    if edge is None:
        listed = repository.git("--no-replace-objects", "rev-list", tip, "--").decode().split()
        covered = covered.intersection(listed)
        edge = _edge(repository, tip, [*covered, *without])
        if edge is None:
            return [Scan(tip, [], (), False)]
    scans: list[Scan] = []
    for shared in sorted(edge - covered):
        *before, last = _scan_of(repository, shared, covered, without)
        scans += [*before, last] if last.files or last.leans_on else before
    leans_on = tuple(sorted(edge & covered.union(one.oid for one in scans)))
    excluded = [*leans_on, *without]
    files = list(tracked_in_history(repository, [tip], excluded))
    return [*scans, Scan(tip, files, leans_on, _reaches_cut(repository, tip, excluded))]


def _edge(repository: Repository, tip: str, excluded: list[str]) -> set[str] | None:
    """Return the commits at which the history of a tip meets that of excluded ones; None if they reach the tip."""
    if not excluded or not present_commits(repository, [tip]):
        return set()
    lines = "".join(f"{line}\n" for line in (tip, *("^" + oid for oid in excluded))).encode()
    listed = repository.git("--no-replace-objects", "rev-list", "--boundary", "--stdin", input=lines).decode().split()
    edge = {line[1:] for line in listed if line.startswith("-")}
    return None if len(edge) == len(listed) else edge


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
