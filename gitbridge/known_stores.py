"""Which remote stores this clone has sent weights to, or got weights from.

A store that was there and is not is a disk that is not mounted, or a bucket that somebody emptied: a push must not make
a new one in its place, as the first push does, as if nothing were wrong. Nothing but that depends on it.
"""

from __future__ import annotations

import os

from gitbridge.repository import Repository

_NAME = "known-stores"
_MOST = 64
_MOST_CHARACTERS = 4096


def remember(repository: Repository, location: str) -> None:
    """Note that a store was at a place; what cannot be written is not noted."""
    known = _known(repository)
    if location in known or len(location) > _MOST_CHARACTERS:
        return
    path = _path(repository)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.{os.getpid()}", "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write("".join(f"{line}\n" for line in [location, *known][:_MOST]))
        os.replace(f"{path}.{os.getpid()}", path)
    except OSError:
        return


def was_there(repository: Repository, location: str) -> bool:
    """Tell whether this clone knows that a store was at a place."""
    return location in _known(repository)


def _path(repository: Repository) -> str:
    return os.path.join(repository.common_dir, "theta", _NAME)


def _known(repository: Repository) -> list[str]:
    try:
        with open(_path(repository), encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read(_MOST * (_MOST_CHARACTERS + 1)).splitlines()
    except OSError:
        return []
