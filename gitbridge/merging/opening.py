"""Checkpoints by name: a file of the work tree, a pointer in one, a directory, or `REV:PATH`."""

from __future__ import annotations

import os
from collections.abc import Callable

from gitbridge.errors import BridgeError
from gitbridge.fetching import fetch_manifests
from gitbridge.pointers import MAX_POINTER_BYTES, is_pointer, parse_pointer
from gitbridge.profile import EVERYTHING
from gitbridge.repository import Repository
from gitbridge.revisions import parse_name, tracked_file
from gitbridge.trees import TrackedFile
from thetastore.merging import MergeError
from thetastore.merging.checkpoints import Checkpoint, StoredCheckpoint, open_path
from thetastore.store import Store


def open_named(repository: Repository | None, store: Callable[[], Store], name: str, directory: str) -> Checkpoint:
    """Return the checkpoint that a name stands for.

    Args:
        repository: for pointers and revisions; None where there is none.
        store: gives the local store.
        name: a path, or `REV:PATH`; what exists as a file is one.
        directory: what relative paths count from.

    Raises:
        MergeError: it is no checkpoint.
        BridgeError: there is no such revision or file.
    """
    path = os.path.join(directory, name)
    if os.path.lexists(path):
        head = _pointer_text(path)
        if head is None:
            return open_path(path, name)
        return _stored(repository, store, head, name)
    if ":" not in name:
        raise MergeError(
            f"there is no file '{name}'", "a model is a file or directory here, or REV:PATH; none is downloaded"
        )
    if repository is None:
        raise MergeError(f"there is no file '{name}', and no repository here in which it could be REV:PATH")
    file = tracked_file(repository, parse_name(name), directory)
    return _fetched(repository, store(), file, name)


def importance_opener(repository: Repository, store: Store) -> Callable[[str], Checkpoint]:
    """Return what opens the checkpoints that a recipe names: files of the work tree below its top, or `REV:PATH`."""

    def opened(name: str) -> Checkpoint:
        top = repository.work_tree or repository.git_dir
        parts = name.split("/")
        if os.path.isabs(name) or ".." in parts:
            raise MergeError(f"a recipe may not name '{name}', which is outside of the work tree")
        try:
            return open_named(repository, lambda: store, name, top)
        except (BridgeError, OSError) as error:
            raise MergeError(f"the importances '{name}' cannot be read: {error}") from error

    return opened


def _pointer_text(path: str) -> bytes | None:
    if os.path.isdir(path):
        return None
    with open(path, "rb") as stream:
        head = stream.read(64)
        return head + stream.read(MAX_POINTER_BYTES) if is_pointer(head) else None


def _stored(repository: Repository | None, store: Callable[[], Store], text: bytes, name: str) -> Checkpoint:
    if repository is None:
        raise MergeError(f"'{name}' is a pointer, and its weights are looked for in a repository: there is none here")
    pointer = parse_pointer(text)
    file = TrackedFile(
        name, "", pointer.format, pointer.file_bytes, pointer.file_digest, pointer.manifest_digest, len(pointer.tensors)
    )
    return _fetched(repository, store(), file, name)


def _fetched(repository: Repository, store: Store, file: TrackedFile, name: str) -> Checkpoint:
    fetch_manifests(repository, store, [file], None, profile=EVERYTHING)
    return StoredCheckpoint(store, file.manifest_digest, name)
