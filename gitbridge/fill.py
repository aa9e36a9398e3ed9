"""Whole files are made ready beside their places, and put there when git is done.

The order of things is what makes it safe: say in the journal that a temporary file will be there; write and
verify it; say that it is ready; only then answer git with the pointer; put it in its place by a rename, if what
lies there is exactly the pointer; bring git's index up to date; delete the journal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from gitbridge.errors import PointerError
from gitbridge.excludes import exclude
from gitbridge.index_file import Filled, IndexLockedError, IndexUnsupportedError, update_index
from gitbridge.journal import TEMPORARY_MARK, Identity, Journal, Placement, journal_directory
from gitbridge.pointers import parse_pointer, render_pointer
from gitbridge.repository import Repository
from gitbridge.work_files import UnsafePathError, WorkFiles, set_time_before_index, temporary_name
from thetastore.digest import Digest, digest_of
from thetastore.manifest import Manifest
from thetastore.store import Store

_EXCLUDED = b".*" + TEMPORARY_MARK + b"*"


class Wanted(NamedTuple):
    """A file that is to be had for a pointer. Small, whatever the pointer's length: there may be many."""

    path: str
    """From the top of the work tree; bytes that are not valid as surrogates."""
    oid: str
    """Of the blob that holds the pointer."""
    pointer_bytes: int
    pointer_digest: Digest
    """Plain BLAKE3 of the pointer's text."""
    manifest_digest: Digest
    file_bytes: int

    @classmethod
    def of(cls, path: bytes, oid: str, text: bytes) -> Wanted:
        """Read a pointer.

        Raises:
            PointerError: it is none.
        """
        pointer = parse_pointer(text)
        digest = digest_of(text)
        return cls(os.fsdecode(path), oid, len(text), digest, pointer.manifest_digest, pointer.file_bytes)

    def manifest(self, store: Store) -> tuple[Manifest, bytes]:
        """Return the manifest, and the pointer's text made from it anew.

        Raises:
            PointerError: the pointer says something else than its manifest: it was edited.
            ObjectMissingError, ObjectCorruptError: the manifest is not to be had from this store.
        """
        manifest = store.get_manifest(self.manifest_digest)
        text = render_pointer(manifest, self.manifest_digest)
        if digest_of(text) != self.pointer_digest:
            raise PointerError("the pointer was edited: it does not say what its manifest says")
        return manifest, text


class Failure(NamedTuple):
    """A file that could not be filled, and why."""

    path: str
    error: Exception


class Draft(NamedTuple):
    """A file that is being written beside its place."""

    path: bytes
    temporary: bytes
    """Its name, in the same directory."""
    descriptor: int
    """Open for reading and writing."""


class Placed(NamedTuple):
    """What came of putting files in their places."""

    filled: dict[bytes, Filled]
    absent: list[Placement]
    """Something else than the pointer lies there: not ours to touch."""
    failures: list[Failure]


class Filling:
    """The files that this process fills."""

    def __init__(self, repository: Repository, work_tree: str) -> None:
        self._repository = repository
        self._work_tree = work_tree
        self._journal: Journal | None = None
        self._drafts: dict[bytes, Draft] = {}
        self._ready: dict[bytes, Placement] = {}

    def prepare(self, wanted: Wanted, store: Store) -> None:
        """Write and verify a file beside its place.

        Raises:
            ObjectMissingError, ObjectCorruptError, PointerError: the bytes are not to be had.
            OSError: they cannot be written.
        """
        manifest, _ = wanted.manifest(store)
        draft = self.draft(wanted.path)
        try:
            store.write_file(manifest, wanted.manifest_digest, draft.descriptor)
            self.ready(draft, wanted)
        except BaseException:
            self._drop(draft)
            raise

    def draft(self, name: str) -> Draft:
        """Make an empty file beside a place, for whoever writes and verifies it and calls `ready`.

        Raises:
            OSError: it cannot be made.
        """
        path = os.fsencode(name)
        self._discard(path)
        temporary = temporary_name(path)
        self._started_journal().intend(path, temporary)
        with WorkFiles(self._work_tree) as files:
            draft = Draft(path, temporary, files.create_temporary(path, temporary))
        self._drafts[path] = draft
        return draft

    def ready(self, draft: Draft, wanted: Wanted) -> None:
        """Take a draft for what a pointer stands for: whole and verified; it is closed."""
        set_time_before_index(draft.descriptor)
        identity = Identity.of(os.fstat(draft.descriptor))
        oid = bytes.fromhex(wanted.oid)
        placement = Placement(draft.path, draft.temporary, oid, wanted.pointer_bytes, wanted.pointer_digest, identity)
        self._started_journal().ready(placement)
        self._ready[draft.path] = placement
        os.close(self._drafts.pop(draft.path).descriptor)

    def abandon(self) -> None:
        """Delete all that was written and is not in its place."""
        for draft in list(self._drafts.values()):
            self._drop(draft)
        remove_temporaries(self._work_tree, self._ready.values())
        self._ready.clear()
        if self._journal is not None:
            self._journal.remove()
            self._journal = None

    def _started_journal(self) -> Journal:
        if self._journal is None:
            # Or a `git add .` after a crash would take whole weights into Git.
            exclude(self._repository.common_dir, _EXCLUDED)
            self._journal = Journal.create(journal_directory(self._repository.theta_dir))
        return self._journal

    def _drop(self, draft: Draft) -> None:
        if self._drafts.pop(draft.path, None) is not None:
            os.close(draft.descriptor)
        with WorkFiles(self._work_tree) as files:
            files.remove_temporary(draft.path, draft.temporary)

    def _discard(self, path: bytes) -> None:
        """Forget what was ready for a path: git asks for it a second time, as a rebase does."""
        placement = self._ready.pop(path, None)
        if placement is not None:
            with WorkFiles(self._work_tree) as files:
                files.remove_temporary(path, placement.temporary)

    def finish(self) -> list[Failure]:
        """Put everything in its place and bring the index up to date; what fails stays in the journal."""
        if self._journal is None:
            return []
        placed = place(self._work_tree, self._ready.values())
        remove_temporaries(self._work_tree, placed.absent)
        failures = placed.failures + patch_index_of(self._repository, placed.filled)
        self._ready.clear()
        if failures:
            self._journal.leave()
        else:
            self._journal.remove()
        self._journal = None
        return failures


def place(work_tree: str, placements: Iterable[Placement]) -> Placed:
    """Put ready files where their pointers are."""
    result = Placed({}, [], [])
    with WorkFiles(work_tree) as files:
        for placement in placements:
            try:
                stat = files.place(placement)
            except (FileNotFoundError, NotADirectoryError, UnsafePathError):
                stat = None
            except OSError as error:
                result.failures.append(Failure(os.fsdecode(placement.path), error))
                continue
            if stat is None:
                result.absent.append(placement)
            else:
                result.filled[placement.path] = Filled(placement.oid, stat)
    return result


def remove_temporaries(work_tree: str, placements: Iterable[Placement]) -> None:
    """Delete what was made ready and has no place; what cannot be deleted is left."""
    with WorkFiles(work_tree) as files:
        for placement in placements:
            try:
                files.remove_temporary(placement.path, placement.temporary)
            except (OSError, UnsafePathError):
                continue


def patch_index_of(repository: Repository, filled: dict[bytes, Filled]) -> list[Failure]:
    """Tell git's index that files are unchanged, so that `git status` does not read them."""
    if not filled:
        return []
    try:
        update_index(repository.index_path, repository.object_format, filled)
    except IndexUnsupportedError:
        _refresh_by_git(repository, filled)
    except (IndexLockedError, OSError) as error:
        return [Failure(os.fsdecode(path), error) for path in filled]
    return []


def _refresh_by_git(repository: Repository, filled: dict[bytes, Filled]) -> None:
    """Let git bring an index up to date that we do not understand (a split one): it reads the files once for that.

    Git takes a file whose length differs from what the index says for changed, without looking. So the entries are
    written anew first, with the blobs that they have, which leaves them without a length.
    """
    listing = repository.git("ls-files", "-z", "--stage", "--full-name", "--", ":/")
    ours = b""
    for line in listing.split(b"\0")[:-1]:
        head, _, path = line.partition(b"\t")
        _, oid, stage = head.split(b" ")
        if path in filled and stage == b"0" and bytes.fromhex(oid.decode()) == filled[path].oid:
            ours += line + b"\0"
    repository.git("update-index", "-z", "--index-info", input=ours, check=False)
    repository.git("update-index", "-q", "--refresh", check=False)
