"""Fetching what a clone keeps, by the names that people have for tensors: those of manifests, or where one file names
tensors that lie in others (ONNX with external data, TensorFlow checkpoints, distributed ones of torch), its names.

The bytes of such files are chosen by path: what a table says of the file beside it holds for each version of that file
that is fetched with it. Tables are fetched whole, first: they are small, and without them nobody can tell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from gitbridge.fetching import (
    Arrival,
    Fetched,
    Found,
    HasManifest,
    Report,
    fetch_what_there_is,
    incomplete,
    look_for_manifests,
    sum_of,
)
from gitbridge.trees import TrackedFile, index_entries, tracked_in_index, tracked_in_tree, tree_entries
from thetastore.checkpoints.joining import (
    Places,
    named_outside,
    names_others,
    tensors_outside,
    tensors_told,
    wanted_outside,
)
from thetastore.errors import MalformedError, ObjectCorruptError, ObjectMissingError
from thetastore.selection import NameTest, Ranges, Wants
from thetastore.store import Store

if TYPE_CHECKING:
    from gitbridge.profile import Profile
    from gitbridge.repository import Repository
    from thetastore.digest import Digest
    from thetastore.manifest import Tensor

TABLE_SUFFIXES = (".index", ".onnx", ".metadata")
"""End the names of files that name tensors in others, where git keeps them itself; tracked ones say what they are."""
MAX_PLAIN_BYTES = 64 << 20
"""Length of the longest file of git's own that is read for the names of tensors."""


class HasPath(HasManifest, Protocol):
    """A tracked file, or what stands for one."""

    @property
    def path(self) -> str:
        """From the top of the work tree."""


class Told:
    """What tables say of the tensors in other files."""

    def __init__(self, tables: Iterable[Digest], told: Sequence[Places]) -> None:
        """Take the manifests of the tables that are tracked, and what each table says."""
        self._tables = tuple(tables)
        self._told = told

    @property
    def names(self) -> set[str]:
        """Names of all tensors told of."""
        return {tensor.name for places in self._told for tensor in named_outside(places)}

    @property
    def paths(self) -> set[str]:
        """Paths of the files in which they lie: the tensors of these have no other names."""
        return {path for places in self._told for path in places}

    def wants(self, files: Iterable[HasPath], names: NameTest) -> Wants:
        """Return what is wanted of files: by their own names of tensors, unless a table has others for them."""
        lying: dict[str, list[Tensor]] = {}
        for places in self._told:
            for path, tensors in wanted_outside(places, names).items():
                lying.setdefault(path, []).extend(tensors)
        found: dict[Digest, NameTest | Ranges] = {}
        in_file: dict[Digest, list[Tensor]] = {}
        for file in files:
            if file.path in lying:
                in_file.setdefault(file.manifest_digest, []).extend(lying[file.path])
            else:
                found[file.manifest_digest] = names
        found |= {digest: Ranges(tensors, lambda _: True) for digest, tensors in in_file.items()}
        return found | dict.fromkeys(self._tables, Ranges.whole())


def fetch_kept(
    repository: Repository,
    local: Store,
    files: Sequence[HasPath],
    remote: str | None,
    trees: Sequence[str],
    profile: Profile,
    report: Report | None = None,
    treeish: str | None = None,
) -> Fetched:
    """Bring what is kept of files into the local store, and tell what could not be had.

    Args:
        repository: whose remotes are asked.
        local: the local store.
        files: some files of the trees.
        remote: the Git remote whose stores are asked; None is the one that `git fetch` would use.
        trees: revisions, empty for the index: where tables are looked for.
        profile: which files and tensors.
        report: see `fetching.Report`.
        treeish: the tree being checked out, where it is known.
    """
    kept = [file for file in files if profile.wants_path(file.path)]
    names = profile.wants()
    if names is None or not kept:
        return fetch_what_there_is(repository, local, kept, remote, treeish, report, profile)
    tables = Tables(repository, kept, trees)
    fetched = tables.fetch(local, remote, treeish)
    told = tables.read(local)
    then = fetch_what_there_is(repository, local, kept, remote, treeish, report, wants=told.wants(kept, names))
    return then._replace(arrivals=_together(fetched.arrivals + then.arrivals), brought=fetched.brought | then.brought)


def look_for_kept(
    repository: Repository,
    local: Store | None,
    files: Sequence[HasPath],
    remote: str | None,
    trees: Sequence[str],
    profile: Profile,
) -> Found:
    """Find out where `fetch_kept` would bring what from; for the arguments see there."""
    names = profile.wants()
    if names is None or not files:
        return look_for_manifests(repository, local, files, remote, profile)
    told = tell_names(repository, local, files, remote, trees)
    return look_for_manifests(repository, local, files, remote, profile, told.wants(files, names))


def tell_names(
    repository: Repository, local: Store | None, files: Sequence[HasPath], remote: str | None, trees: Sequence[str]
) -> Told:
    """Return what tables say of files; those that are not here are fetched into a store that goes again."""
    tables = Tables(repository, files, trees)
    if local is not None and not incomplete(local, tables.manifests):
        return tables.read(local)
    with tempfile.TemporaryDirectory(prefix="theta-") as directory, Store.open(directory, create=True) as trial:
        tables.fetch(trial, remote)
        return tables.read(trial)


class Tables:
    """The files that name tensors in others: those among some files, and those of some trees."""

    def __init__(self, repository: Repository, files: Iterable[HasPath], trees: Sequence[str]) -> None:
        """Find them; for the arguments see `fetch_kept`."""
        self._repository = repository
        self._plain: dict[str, str] = {}
        tracked = {file.oid: file for file in files if isinstance(file, TrackedFile)}
        for tree in trees:
            here = tracked_in_tree(repository, tree) if tree else tracked_in_index(repository)
            tracked |= {file.oid: file for file in here}
            entries = tree_entries(repository, tree) if tree else index_entries(repository)
            self._plain |= {oid: path for path, oid in entries if path.endswith(TABLE_SUFFIXES)}
        self._tracked = [file for file in tracked.values() if names_others(file.format, file.path)]
        for oid in tracked:
            self._plain.pop(oid, None)

    @property
    def manifests(self) -> list[Digest]:
        """Of those that are tracked."""
        return [file.manifest_digest for file in self._tracked]

    def fetch(self, local: Store, remote: str | None, treeish: str | None = None) -> Fetched:
        """Bring those that are tracked, whole."""
        wants = dict.fromkeys(self.manifests, Ranges.whole())
        return fetch_what_there_is(self._repository, local, self._tracked, remote, treeish, wants=wants)

    def read(self, local: Store) -> Told:
        """Return what they say; one that is not here, or is damaged, says nothing."""
        told = [_told_by(local, file) for file in self._tracked]
        for oid, path in self._plain.items():
            if int(self._repository.git("cat-file", "-s", oid)) <= MAX_PLAIN_BYTES:
                told.append(tensors_told(self._repository.read_object(oid), path))
        return Told(self.manifests, told)


def _told_by(local: Store, file: TrackedFile) -> Places:
    try:
        manifest = local.get_manifest(file.manifest_digest)
        return tensors_outside(local.tensors(manifest, file.manifest_digest), file.path)
    except (MalformedError, ObjectMissingError, ObjectCorruptError):
        return {}


def _together(arrivals: Sequence[Arrival]) -> tuple[Arrival, ...]:
    """Return one arrival for each place."""
    found: dict[str, Arrival] = {}
    for place, copied in arrivals:
        before = found.get(place.url)
        found[place.url] = Arrival(place, sum_of(before.copied, copied) if before else copied)
    return tuple(found.values())
