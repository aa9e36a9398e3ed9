"""Pointers that a commit may not have: those that no weights belong to.

What `git add FILE` stages went through the filter, and is right. `git add -p`, `git apply --cached` and a conflict that
was decided in an editor put text together that no filter has seen: lines of two pointers, and nothing to fill it from.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import NamedTuple

from gitbridge.checks.news import heads
from gitbridge.errors import PointerError, PointerVersionError
from gitbridge.fill import Wanted
from gitbridge.large_files import staged_blobs
from gitbridge.pointers import is_pointer
from gitbridge.repository import Repository
from gitbridge.trees import Entry
from thetastore.errors import ThetaError
from thetastore.store import Store


class Edited(NamedTuple):
    """A file of the index, and what is wrong with its pointer."""

    path: str
    why: str


def edited_pointers(repository: Repository) -> list[Edited]:
    """Return the files that the next commit adds or changes, and whose text begins as a pointer and is none.

    A pointer whose manifest is not here, in a clone without weights, is looked at no further.
    """
    entries = [Entry(path, oid) for path, oid in staged_blobs(repository)]
    pointers = [entry for entry, _, head in list(heads(repository, entries)) if is_pointer(head)]
    found = []
    with ExitStack() as stack:
        try:
            store = stack.enter_context(repository.open_store(create=False)) if pointers else None
        except ThetaError:
            store = None
        for entry in pointers:
            try:
                _check(repository, store, entry)
            except PointerVersionError:
                continue  # of a newer version, which knows what it says
            except PointerError as error:
                found.append(Edited(entry.path, str(error)))
    return found


def _check(repository: Repository, store: Store | None, entry: Entry) -> None:
    wanted = Wanted.of(os.fsencode(entry.path), entry.oid, repository.read_object(entry.oid))
    if store is None:
        return
    try:
        wanted.manifest(store)
    except PointerError:
        raise
    except ThetaError:
        return  # this manifest is not in it: whether weights are missing, a push finds out
