"""What is worth knowing about the tracked files now: changed, not here, not stored, not pushed.

Git says what changed (it runs the filter on files whose stat data changed, and reads no others); the stores
say what they contain. No weights are read.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from gitbridge.attributes import paths_with_filter
from gitbridge.large_files import LargeFile, large_files
from gitbridge.repository import Repository
from gitbridge.states import FULL, MISSING, Known, ask_stores, work_tree_states
from gitbridge.trees import Entry, TrackedFile, index_entries, tracked_in_index, tracked_in_tree, tree_sizes


class FileStatus(NamedTuple):
    """One tracked file."""

    file: TrackedFile
    is_staged: bool
    """The index differs from HEAD."""
    change: str
    """How the work tree differs from the index: ``, `modified`, `deleted`, `conflict`."""
    state: str
    """See `states`."""
    is_here: bool
    """Something lies at the path. If not, and git does not call it deleted, the checkout is sparse."""
    is_stored: bool
    """The local store has everything of what the index holds."""
    is_pushed: bool | None
    """A remote store has everything of what the index holds; None where none is known or answers."""

    def remarks(self) -> list[str]:
        """Return what a person should know; nothing for a file that is as it should be."""
        said = []
        if self.change:
            said.append(self.change)
        if self.is_staged:
            said.append("staged")
        if self.state == MISSING:
            said.append("pointer only, and in no store that can be reached")
        elif self.state != FULL and self.is_here:
            said.append("pointer only")
        elif not self.is_stored and not self.is_pushed:
            said.append("missing from the store")
        if self.is_pushed is False and self.is_stored:
            said.append("not pushed")
        return said


class Status(NamedTuple):
    """All tracked files, and what they are judged against."""

    files: list[FileStatus]
    plain: list[str]
    """Paths that attributes give to us but that the index holds as plain blobs."""
    known: Known
    large: list[LargeFile]
    """Checkpoints that no filter is for, so that git itself would take them whole, or has."""


def status(repository: Repository) -> Status:
    """Look at the tracked files of the index."""
    changes = _changes(repository)
    files = tracked_in_index(repository)
    known = ask_stores(repository, [file.manifest_digest for file in files])
    states = work_tree_states(repository, files, known)
    rows = []
    for file, state in zip(files, states, strict=True):
        staged, change = changes.get(file.path, (False, ""))
        is_pushed = None if known.place is None else file.manifest_digest in known.remote
        if known.trouble and not is_pushed:
            is_pushed = None
        here = state == FULL or _is_here(repository, file.path)
        rows.append(FileStatus(file, staged, change, state, here, file.manifest_digest in known.local, is_pushed))
    tracked = {file.path for file in files}
    return Status(rows, plain_files(repository, tracked), known, large_files(repository))


def plain_files(repository: Repository, tracked: set[str], under: str = "") -> list[str]:
    """Return the files of the index that attributes give to us and that are no pointers; empty files never are."""
    empty = {"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", _EMPTY_SHA256}

    def is_candidate(entry: Entry) -> bool:
        return entry.path not in tracked and entry.oid not in empty and entry.path.startswith(under)

    return paths_with_filter(repository, [entry.path for entry in index_entries(repository) if is_candidate(entry)])


def plain_in_tree(repository: Repository, revision: str) -> list[str]:
    """Return the files of a revision that attributes (as they are now) give to us and that are no pointers there.

    Raises:
        RevisionError: there is no such revision.
    """
    sizes = tree_sizes(repository, revision)
    ours = paths_with_filter(repository, [path for path, nbytes in sizes.items() if nbytes])
    if not ours:
        return []
    pointers = {file.path for file in tracked_in_tree(repository, revision)}
    return [path for path in ours if path not in pointers]


def _is_here(repository: Repository, path: str) -> bool:
    return repository.work_tree is not None and os.path.lexists(os.path.join(repository.work_tree, path))


_EMPTY_SHA256 = "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"


def _changes(repository: Repository) -> dict[str, tuple[bool, str]]:
    """Return (staged, change) by path, as git sees it."""
    listing = repository.git("status", "--porcelain=v1", "-z", "--untracked-files=no", "--no-renames")
    found = {}
    for item in listing.split(b"\0")[:-1]:
        index, tree, path = item[:1], item[1:2], os.fsdecode(item[3:])
        if b"U" in (index, tree) or item[:2] in (b"AA", b"DD"):
            found[path] = (False, "conflict")
            continue
        change = {b"M": "modified", b"T": "modified", b"D": "deleted"}.get(tree, "")
        found[path] = (index != b" ", change)
    return found
