"""Models in Git: `gitbridge.open("path/to/repository", "v1.2")["lm_head.weight"][:128]`.

Which files a model is made of is settled when it is opened, so that a handle always means the same bytes, in whatever
process; what the local store lacks is fetched when it is read.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.clones import clone_of, is_url
from gitbridge.errors import PathMissingError, PointerInPlaceError, RepositoryMissingError, RevisionError
from gitbridge.fetching import fetch_manifests
from gitbridge.joining import (
    ModelFiles,
    find_elsewhere,
    model_at,
    open_joined,
    ranges_in,
    revision_of,
)
from gitbridge.pointers import is_pointer
from gitbridge.repository import Repository
from gitbridge.revisions import FileName, path_from_top
from thetastore.checkpoints.tensors import TensorReader
from thetastore.models import Handle, Model, Session
from thetastore.store import Store

if TYPE_CHECKING:
    from gitbridge.history import Commit


class GitOrigin(NamedTuple):
    """Files of a repository at a revision."""

    root: str
    """Absolute path of the work tree's top, or of the git directory."""
    model: ModelFiles

    @property
    def revision(self) -> str:
        """Oid of the commit; empty for the index."""
        return self.model.revision

    @property
    def path(self) -> str:
        """Path of the file, or of the one that names the others."""
        return self.model.path

    def open(self) -> Session:
        """Open the local store in this process, and fetch the manifests if need be."""
        return _GitSession(self)

    def __str__(self) -> str:
        return f"{self.root}@{self.revision[:12] or 'index'}:{self.path}"


class _GitSession:
    def __init__(self, origin: GitOrigin) -> None:
        self._origin = origin
        self._lock = _thread.allocate_lock()
        model = origin.model
        with Repository.at(origin.root) as repository:
            find_elsewhere(repository, model.files, origin.revision)
            store = repository.open_store()
            self.readers: Sequence[TensorReader] = open_joined(repository, store, model)
        store.seal()
        self._store = store
        self.remedy = f"git -C {quote(origin.root)} theta fsck --repair sets it aside and brings back what it can"

    def bring(self, names: Mapping[int, Sequence[str]]) -> None:
        """Fetch the chunks of some tensors of files into the local store, all at once."""
        wants = ranges_in((self.readers[number], names[number]) for number in names)
        with self._lock:
            if not self._store.missing_objects(wants, wants):
                return
            # What git keeps itself was put there whole.
            wanted = [file for file in self._origin.model.files if file.manifest_digest in wants]
            # A store of its own: the other one is being read by other threads.
            with Repository.at(self._origin.root) as repository, Store.open(self._store.url) as target:
                fetch_manifests(repository, target, wanted, None, self._origin.revision or None, wants=wants)


class GitModel(Model):
    """A model of a repository."""

    origin: GitOrigin

    def __init__(self, origin: GitOrigin, handle: Handle | None = None, names: Sequence[str] | None = None) -> None:
        """Open a model; see `open`."""
        super().__init__(origin, handle, names)

    @property
    def revision(self) -> str:
        """Oid of the commit that it is of; empty for the index."""
        return self.origin.revision

    @property
    def path(self) -> str:
        """Path of its file, or of the list of its shards, from the top of the work tree."""
        return self.origin.path

    def pin(self) -> str:
        """Return a name that `open` takes and that will always mean these bytes: a commit, not a branch.

        Raises:
            RevisionError: the model is of the index, which has no name yet: commit it.
        """
        if not self.revision:
            raise RevisionError("a model of the index has no revision yet", "commit it, and open it by its revision")
        return f"{self.origin.root}@{self.revision}:{self.path}"

    def log(self) -> list[Commit]:
        """Return the commits that changed the file, the newest first."""
        from gitbridge.history import History

        with Repository.at(self.origin.root) as repository:
            return list(History(repository, self.revision or "HEAD", self.path).commits)

    def tags(self) -> dict[str, str]:
        """Return the tags of the repository, each with the oid of its commit."""
        return tags(self.origin.root)


def open(
    path_or_url: str | os.PathLike[str],
    revision: str | None = None,
    path: str | None = None,
    cache_dir: str | None = None,
) -> GitModel:
    """Open a model of a Git repository.

    Args:
        path_or_url: a repository, a directory or a file in its work tree (a pointer will do), a URL of a repository
            elsewhere, or what `GitModel.pin` returned.
        revision: branch, tag or commit; None for the index of a work tree, and for HEAD elsewhere.
        path: of the file, from the top, where `path_or_url` is a repository with several models.
        cache_dir: where clones of other machines' repositories are kept; None for the user's cache.

    Raises:
        RepositoryMissingError: a `FileNotFoundError`: there is no repository.
        RevisionError: a `LookupError`: it has no such revision.
        PathMissingError: a `FileNotFoundError`: the revision has no such file, or several, and which is not said.
        PointerInPlaceError: a `FileNotFoundError`: a pointer lies outside of any repository.
        RemoteError: the pointers are here, and no store that can be reached has the weights.
    """
    text = os.fspath(path_or_url)
    if is_url(text):
        repository, revision = clone_of(text, revision, cache_dir)
        start = path or ""
    else:
        text, revision, path = _unpinned(text, revision, path)
        repository, start = _at(text, path)
    with repository:
        oid = revision_of(repository, revision)
        try:
            model = model_at(repository, oid, start, revision or "")
        except PathMissingError:
            if os.path.isfile(text) and _begins_as_pointer(text):
                raise PointerInPlaceError(
                    f"'{text}' is only a pointer, and there is none of its path in {oid[:12] or 'the index'}",
                    "git add it; then it names its weights, and git theta pull brings them",
                ) from None
            raise
        root = repository.work_tree or repository.git_dir
        return GitModel(GitOrigin(root, model))


def tags(path: str | os.PathLike[str] = ".") -> dict[str, str]:
    """Return the tags of a repository, each with the oid of its commit, in the order of their names."""
    with _at(os.fspath(path), None)[0] as repository:
        form = "--format=%(refname:strip=2)%00%(objecttype)%00%(objectname)%00%(*objecttype)%00%(*objectname)"
        rows = repository.git("for-each-ref", form, "refs/tags").decode("utf-8", "surrogateescape").splitlines()
    found = {}
    for name, kind, oid, inner_kind, inner in (row.split("\0") for row in rows):
        if "commit" in (kind, inner_kind):
            found[name] = inner or oid
    return found


def _unpinned(text: str, revision: str | None, path: str | None) -> tuple[str, str | None, str | None]:
    """Take apart what `pin` returned."""
    root, at, rest = text.rpartition("@")
    oid, colon, name = rest.partition(":")
    if at and colon and revision is None and path is None and len(oid) in (40, 64) and not os.path.lexists(text):
        return root, oid, name
    return text, revision, path


def _at(text: str, path: str | None) -> tuple[Repository, str]:
    """Return the repository of a path, and the path in it; empty for the whole."""
    there = os.path.abspath(text)
    directory = there if os.path.isdir(there) else os.path.dirname(there)
    if not os.path.isdir(directory):
        raise RepositoryMissingError(f"there is no '{text}', and so no Git repository")
    try:
        repository = Repository.at(directory) if _is_top(directory) else Repository.discover(directory)
    except RepositoryMissingError:
        if os.path.isfile(there) and _begins_as_pointer(there):
            raise PointerInPlaceError(
                f"'{text}' is only a pointer, and in no Git repository that would know where its weights are",
                "open it where it was committed, or clone that repository and run git theta pull",
            ) from None
        raise RepositoryMissingError(f"'{text}' is in no Git repository") from None
    if path is not None or repository.work_tree is None:
        return repository, path or ""
    inside = path_from_top(repository, FileName(None, there), None)
    return repository, "" if inside == "." else inside


def _is_top(directory: str) -> bool:
    try:
        Repository.at(directory).close()
    except RepositoryMissingError:
        return False
    return True


def _begins_as_pointer(path: str) -> bool:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
        return is_pointer(stream.read(64))
