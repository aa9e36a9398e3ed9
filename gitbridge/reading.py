"""Tensors of tracked files, out of the local store, and what it lacks of them out of a remote one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gitbridge.blobs import blob_oid
from gitbridge.errors import PointerError
from gitbridge.fetching import Report, fetch_manifests
from gitbridge.pointers import render_pointer
from thetastore.errors import NoSuchTensorError
from thetastore.selection import Wants, glob_wants, is_glob, named_wants

if TYPE_CHECKING:
    from gitbridge.repository import Repository
    from gitbridge.trees import TrackedFile
    from thetastore.checkpoints.tensors import TensorReader
    from thetastore.store import Store


def open_reader(
    repository: Repository,
    store: Store,
    file: TrackedFile,
    wants: Wants | None = None,
    treeish: str | None = None,
    report: Report | None = None,
) -> TensorReader:
    """Return what reads the tensors of a tracked file, after fetching the chunks that hold some of them.

    Args:
        repository: whose remotes are asked for what the local store lacks.
        store: the local store.
        file: whose tensors.
        wants: tells which tensors are wanted; None fetches the manifest only.
        treeish: the commit that the file is of, which may say where its weights are.
        report: see `fetching.Report`.

    Raises:
        RemoteError: a chunk is in no store that was asked.
        PointerError: the pointer does not say what its manifest says.
    """
    fetch_manifests(repository, store, [file], None, treeish, report, wants=wants or named_wants(()))
    return reader_of(repository, store, file)


def reader_of(repository: Repository, store: Store, file: TrackedFile) -> TensorReader:
    """Return what reads the tensors of a tracked file, of which the local store has the manifest.

    Raises:
        ObjectMissingError, ObjectCorruptError: it has not.
        PointerError: the pointer does not say what its manifest says.
    """
    manifest = store.get_manifest(file.manifest_digest)
    text = render_pointer(manifest, file.manifest_digest)
    if blob_oid(text, repository.object_format).hex() != file.oid:
        raise PointerError(f"the pointer '{file.path}' was edited: it does not say what its manifest says")
    return store.tensors(manifest, file.manifest_digest)


def select_names(names: Sequence[str], globs: Iterable[str]) -> list[str]:
    """Return the names that any of some globs match, in their order.

    Raises:
        NoSuchTensorError: a glob matches none; says which names are near.
    """
    chosen: set[str] = set()
    for glob in globs:
        # A name may hold what is special in globs.
        found = [glob] if glob in names else list(filter(glob_wants([glob]), names))
        if not found:
            raise NoSuchTensorError(glob, names, is_glob(glob))
        chosen.update(found)
    return [name for name in names if name in chosen]
