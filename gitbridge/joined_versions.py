"""Models of several files as versions: what their tensors are at a revision, in the index, or in the work tree.

A tensor that another file names has no digest that a manifest would know. Which chunks it lies in tells of most that
they are the same in two versions; the others are read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.errors import BridgeError, PathMissingError, RemoteError
from gitbridge.joining import ModelFiles, candidate_paths, files_of, may_be_several, open_joined, tracked_files
from gitbridge.pointers import MAX_POINTER_BYTES, is_pointer, parse_pointer
from gitbridge.trees import TrackedFile
from thetastore.checkpoints.joining import joined, tensors_outside
from thetastore.comparing.changes import Entry
from thetastore.comparing.sides import JoinedSide, StoredSide
from thetastore.digest import Digest
from thetastore.errors import MalformedError, ObjectMissingError
from thetastore.store import Store

if TYPE_CHECKING:
    from gitbridge.repository import Repository
    from thetastore.checkpoints.tensors import TensorReader

_MOST_HEAD = 256


class Opened(NamedTuple):
    """A model of several files whose manifests are here."""

    path: str
    where: str
    """What a person calls the version."""
    format: str
    file_bytes: int
    readers: dict[str, TensorReader]
    """Of each tensor."""
    side: JoinedSide

    def entries(self, digests: dict[str, Digest]) -> tuple[Entry, ...]:
        """Return the table of tensors, in the order of their names, with these digests."""
        tensors = [self.readers[name].tensor(name) for name in sorted(self.readers)]
        return tuple(Entry(one.name, one.dtype, one.shape, digests[one.name]) for one in tensors)


class JoinedModels:
    """Opens the models of several files of a repository. A context manager: it holds stores open."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._open = ExitStack()
        self._store: Store | None = None
        self._trial: Store | None = None
        self._known: dict[str, dict[str, ModelFiles]] = {}

    def __enter__(self) -> JoinedModels:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def at(self, revision: str) -> dict[str, ModelFiles]:
        """Return the models that are joined, by their paths; one of which a file is missing is none.

        Args:
            revision: oid of a commit or tree; empty for the index.
        """
        if revision not in self._known:
            self._known[revision] = {model.path: model for model in self._found(revision)}
        return self._known[revision]

    def named(self, revision: str, path: str) -> ModelFiles | None:
        """Return the joined model at a path, or the only one below it; None where there is none."""
        tracked = tracked_files(self._repository, revision)
        if path in tracked and not may_be_several(path, tracked[path]):
            return None
        models = self.at(revision)
        below = [models[one] for one in models if path == "." or one.startswith(path + "/")]
        return models.get(path) or (below[0] if len(below) == 1 else None)

    def _found(self, revision: str) -> Iterator[ModelFiles]:
        tracked = tracked_files(self._repository, revision)
        for path in candidate_paths(self._repository, revision, tracked):
            try:
                model = files_of(self._repository, revision, path, tracked)
            except (BridgeError, MalformedError):
                continue
            if model is not None and model.outside:
                yield model

    def open(self, model: ModelFiles, where: str) -> Opened | None:
        """Open a version; None where the files do not belong together.

        Raises:
            RemoteError: its manifests are in no store that can be reached.
        """
        try:
            readers = open_joined(self._repository, self._opened_store(), model)
        except MalformedError:
            return None
        return self._opened(model.path, where, [file.format for file in model.files], readers)

    def open_on_disk(self, model: ModelFiles, where: str) -> Opened | None:
        """Open what lies in the work tree where the index has a model; None where it is none.

        Files are put into a store that lasts as long as this.
        """
        tracked = tracked_files(self._repository, "")
        try:
            paths = [model.path]
            readers = [self._on_disk(model.path, tracked)]
            paths += sorted(set(tensors_outside(readers[0], model.path)) - {model.path})
            readers += [self._on_disk(path, tracked) for path in paths[1:]]
            return self._opened(model.path, where, [file.format for file in model.files], joined(readers, paths))
        except (MalformedError, PathMissingError, OSError):
            return None

    def _on_disk(self, path: str, tracked: dict[str, TrackedFile]) -> TensorReader:
        top = self._repository.work_tree
        assert top is not None, "there is a work tree"
        with open(os.path.join(top, path), "rb") as stream:
            head = stream.read(_MOST_HEAD)
            if is_pointer(head):
                digest = parse_pointer(head + stream.read(MAX_POINTER_BYTES)).manifest_digest
                store = self._opened_store()
                return store.tensors(store.get_manifest(digest), digest)
            stream.seek(0)
            if self._trial is None:
                directory = self._open.enter_context(tempfile.TemporaryDirectory(prefix="theta-"))
                self._trial = self._open.enter_context(Store.open(directory, create=True))
            digest, manifest = self._trial.put_file(stream)
            return self._trial.tensors(manifest, digest)

    def _opened(self, path: str, where: str, formats: Sequence[str], readers: Sequence[TensorReader]) -> Opened:
        found = {tensor.name: reader for reader in reversed(readers) for tensor in reader.manifest.tensors}
        sides = {id(reader): StoredSide(reader.objects, reader) for reader in readers}
        side = JoinedSide({name: sides[id(reader)] for name, reader in found.items()})
        file_bytes = sum(reader.manifest.file_bytes for reader in readers)
        return Opened(path, where, formats[0], file_bytes, found, side)

    def _opened_store(self) -> Store:
        if self._store is None:
            self._store = self._open.enter_context(self._repository.open_store())
        return self._store


def settled(versions: Sequence[Opened | None]) -> list[tuple[Entry, ...]]:
    """Return the tables of versions, whose digests tell which tensors are the same.

    A digest is empty where the manifests do not know it and all versions have the same. Others are read.

    Raises:
        RemoteError: a tensor would have to be read that is not here; says what to fetch.
    """
    marks = [{name: one.readers[name].mark(name) for name in one.readers} if one else {} for one in versions]
    known: dict[Digest, Digest] = {}
    tables = []
    for number, one in enumerate(versions):
        digests: dict[str, Digest] = {}
        for name, reader in (one.readers if one else {}).items():
            tensor, mark = reader.tensor(name), marks[number][name]
            is_same = all(other.get(name, mark) == mark for other in marks)
            if not tensor.digest and not is_same and mark not in known:
                assert one is not None, "it has a reader"
                known[mark] = _read(one, name)
            digests[name] = tensor.digest or known.get(mark, Digest())
        tables.append(one.entries(digests) if one else ())
    return tables


def _read(version: Opened, name: str) -> Digest:
    try:
        return version.readers[name].digest(name)
    except ObjectMissingError:
        raise RemoteError(
            f"not all weights of '{version.path}' in '{version.where}' are in the local store: without them '{name}' "
            "cannot be compared, whose file does not know its digest",
            f"git theta fetch --all  (or git theta fetch origin {version.where})",
        ) from None
