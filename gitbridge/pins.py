"""How a repository finds its pins, which say that a store has all weights of a history (`thetastore.pins`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from gitbridge.errors import GitError
from gitbridge.repository import Repository
from thetastore.pins import Pin, PinName, encode_pin, parse_pin, pin_names, read_pin, write_pin

__all__ = [
    "Pin",
    "PinName",
    "encode_pin",
    "is_shallow",
    "parse_pin",
    "pin_names",
    "present_commits",
    "read_pin",
    "repository_id",
    "write_pin",
]


def repository_id(repository: Repository, commit: str, names: Iterable[PinName]) -> str:
    """Return the directory of this repository's pins.

    Args:
        repository: whose id it is.
        commit: a commit that is pushed, for a repository whose HEAD is unborn.
        names: the pins of the store, among which a shallow clone looks for its own.
    """
    named = repository.config("theta.repositoryId")
    if named and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", named):
        return named
    if is_shallow(repository):
        known = {name.commit: name.repository for name in names}
        for oid in present_commits(repository, known):
            return known[oid]
    for start in ("HEAD", commit):
        try:
            roots = repository.git("rev-list", "--first-parent", "--max-parents=0", start, "--").split()
        except GitError:
            continue
        if roots:
            return roots[-1].decode()
    return commit


def is_shallow(repository: Repository) -> bool:
    """Tell whether this clone lacks a part of its history."""
    return os.path.exists(os.path.join(repository.common_dir, "shallow"))


def present_commits(repository: Repository, oids: Iterable[str]) -> list[str]:
    """Return those of the named objects that are commits of this repository."""
    asked = "".join(f"{oid}\n" for oid in oids).encode()
    if not asked:
        return []
    answer = repository.git("cat-file", "--batch-check=%(objectname) %(objecttype)", input=asked)
    pairs = (line.split() for line in answer.decode().splitlines())
    return [oid for oid, kind in pairs if kind == "commit"]
