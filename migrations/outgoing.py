"""Files on their way out: from pointers of ours to the files themselves in git, or to objects of Git LFS."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable

from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_blob
from migrations import lfs
from migrations.git_objects import NewObjects
from thetastore.store import Store


class Finder:
    """Notes which pointers a walk through history wants."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.found: dict[str, TrackedFile] = {}
        """By oid of the pointer, in the order of history."""
        self._looked_at: set[str] = set()

    def __call__(self, path: str, oid: str) -> None:
        """Take note of a blob at a path."""
        if oid in self._looked_at:
            return
        self._looked_at.add(oid)
        file = tracked_blob(self._repository, path, oid)
        if file is not None:
            self.found[oid] = file


def export_all(
    repository: Repository,
    store: Store,
    objects: NewObjects,
    files: Iterable[TrackedFile],
    to_lfs: bool,
    report: Callable[[int], None],
) -> dict[str, str]:
    """Write the files that pointers stand for into git, or into Git LFS; return new blobs by those of pointers.

    Raises:
        ObjectMissingError, ObjectCorruptError: a file cannot be read; no ref has moved.
    """
    blobs: dict[str, str] = {}
    done_bytes = 0
    for file in files:
        manifest = store.get_manifest(file.manifest_digest)
        if to_lfs:
            with lfs.NewObject(repository) as new:
                store.write_file(manifest, file.manifest_digest, new.descriptor)
                blobs[file.oid] = objects.add("blob", lfs.render_pointer(new.keep()))
        else:
            blobs[file.oid] = _into_git(repository, store, file)
        done_bytes += manifest.file_bytes
        report(done_bytes)
    return blobs


def _into_git(repository: Repository, store: Store, file: TrackedFile) -> str:
    """Write a file as a blob. From a file on disk git makes a blob piece by piece, if it is large."""
    descriptor, path = tempfile.mkstemp(prefix="theta-", dir=repository.common_dir)
    try:
        store.write_file(store.get_manifest(file.manifest_digest), file.manifest_digest, descriptor)
        return repository.git("hash-object", "-w", "--no-filters", path).decode().strip()
    finally:
        os.close(descriptor)
        os.unlink(path)
