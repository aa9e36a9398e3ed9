"""Where `git theta fsck` finds what it has to repair, and what people call it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from gitbridge import usage
from gitbridge.errors import BridgeError, RemoteError, RepositoryMissingError
from gitbridge.profile import profile_of
from gitbridge.remotes import Place, is_store, open_place_if_there, places, remote_names
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_in_index
from thetastore.backends.urls import is_url
from thetastore.checking.check import Named
from thetastore.checking.repair import FileSource, Source, StoreSource
from thetastore.digest import Digest
from thetastore.errors import FileUnreadableError, ObjectCorruptError, StoreMissingError
from thetastore.store import Store


class Known:
    """The files that a history and the index know, by manifest."""

    def __init__(self, repository: Repository) -> None:
        """Read the history of all refs and the index."""
        self._names: dict[Digest, list[str]] = {}
        self.versions: dict[str, dict[Digest, int]] = {}
        """By path: the manifests of all that was there, with the length of the file then."""
        self.index: list[TrackedFile] = tracked_in_index(repository) if repository.work_tree else []
        counted = usage.of_history(repository)
        for group in counted.files:
            self.versions[group.name] = {file.manifest_digest: file.file_bytes for file in group.files}
        paths: dict[Digest, list[str]] = {}
        for path, manifests in self.versions.items():
            for manifest in manifests:
                paths.setdefault(manifest, []).append(path)
        for commit in counted.commits:
            label = counted.labels.get(commit.name, commit.name)
            for file in commit.files:
                for path in paths.get(file.manifest_digest, []):
                    self._names.setdefault(file.manifest_digest, []).append(f"'{path}' of commit {label}")
        for tracked in self.index:
            self._names.setdefault(tracked.manifest_digest, []).append(f"'{tracked.path}' as it is in the index")
            self.versions.setdefault(tracked.path, {})[tracked.manifest_digest] = tracked.file_bytes

    @property
    def manifests(self) -> list[Digest]:
        """All of them."""
        return list(self._names)

    def named(self) -> list[Named]:
        """Return all of them with one name each."""
        return [Named(digest, names[0]) for digest, names in self._names.items()]

    def named_in_index(self) -> list[Named]:
        """Return those of the index."""
        return [Named(file.manifest_digest, f"'{file.path}' as it is in the index") for file in self.index]

    def names(self, manifest_digest: Digest) -> list[str]:
        """Return what people call a file: its path, and which revision it is of."""
        found = list(dict.fromkeys(self._names.get(manifest_digest, [])))
        return found or [f"a file that no revision has, manifest {manifest_digest}"]


def sources(repository: Repository, known: Known, named: list[str], without: Place | None) -> Iterator[Source]:
    """Yield where lost objects may be: the work tree, what the user names, the local store, the remote ones.

    Args:
        repository: whose they are.
        known: its files.
        named: URLs, directories, clones and files, as the user wrote them.
        without: the store that is repaired; None for the local one.
    """
    if repository.work_tree is not None:
        for file in known.index:
            path = os.path.join(repository.work_tree, file.path)
            if os.path.isfile(path) and not os.path.islink(path):
                yield FileSource(path, known.versions[file.path])
    for text in named:
        yield _named_source(repository, text)
    if without is not None:
        yield StoreSource("the local store", partial(_local_store, repository))
    for place in _places_of_all(repository):
        if without is None or place.location != without.location:
            yield StoreSource(place.url, partial(open_place_if_there, place))


def needed_here(
    repository: Repository, store: Store, known: Known, is_all_wanted: bool = False
) -> tuple[list[Named], list[str]]:
    """Return the files that the local store has to have whole, and why no other store can be asked for them.

    Where no other is known, that is the whole history. Where none answers, it is what is checked out: older versions
    need never have been here.

    Args:
        repository: whose it is.
        store: the local store.
        known: the files of the repository.
        is_all_wanted: look for the whole history where no other store answers.
    """
    if not places(repository, None):
        return known.named(), []
    checked_out = known.named_in_index() if profile_of(repository).is_whole else []
    needed = known.named() if is_all_wanted else checked_out
    if _has_all(store, needed):
        return [], []
    silent = _silent_stores(repository)
    return (needed, silent) if silent else ([], [])


def _has_all(store: Store, files: list[Named]) -> bool:
    """Tell whether a store lacks nothing of files; not where lists cannot be read: the check tells of these."""
    try:
        return not store.missing_objects([file.manifest_digest for file in files])
    except (ObjectCorruptError, FileUnreadableError):
        return False


def _silent_stores(repository: Repository) -> list[str]:
    """Return why the stores of all remotes cannot be asked; nothing if one of them can."""
    silent = []
    for place in _places_of_all(repository):
        try:
            other = open_place_if_there(place)
        except RemoteError as error:
            silent.append(str(error))
            continue
        if other is not None:
            other.close()
            return []
        silent.append(f"there is no store at '{place.url}' (from {place.source})")
    return silent


def _places_of_all(repository: Repository) -> list[Place]:
    """Return the places of all remotes, each once."""
    found = (place for remote in [None, *remote_names(repository)] for place in places(repository, remote))
    return list({place.location: place for place in found}.values())


def _local_store(repository: Repository) -> Store | None:
    try:
        return repository.open_store(create=False)
    except StoreMissingError:
        return None


def _named_source(repository: Repository, text: str) -> Source:
    """Return what the user names: a file, a clone, or a store by its directory or URL."""
    if not is_url(text):
        if os.path.isfile(text):
            return FileSource(text)
        if not is_store(text):
            return StoreSource(text, partial(_store_of_clone, text))
    from gitbridge.store_options import options_for
    from thetastore.backends.urls import SCHEMES, parse_url

    options = None
    if is_url(text) and text.partition("://")[0].lower() in SCHEMES:
        settings = {name: repository.config_all(name) for name in repository.config_names()}
        options = options_for(parse_url(text), settings)
    return StoreSource(text, partial(Store.open, text, options=options))


def _store_of_clone(path: str) -> Store:
    try:
        with Repository.at(path) as clone:
            return clone.open_store(create=False)
    except (RepositoryMissingError, StoreMissingError):
        raise RemoteError(
            f"'{path}' is no file, store, or clone with a store", "git theta fsck --from PLACE names one"
        ) from None
    except BridgeError as error:
        raise RemoteError(f"'{path}': {error}") from None
