"""A store repaired: damage set aside, the index made anew, and lost objects brought back from wherever they still are.

Everything that comes back is proven by its digest, so any source will do: another store, a remote, a clone, or a file
that somebody checked out, or copied, before. Nothing is deleted: what was damaged lies in `damaged/`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from thetastore.checking.check import LostFile, lost_files
from thetastore.checkpoints.ahead import ahead
from thetastore.digest import Digest, Kind, digest_of
from thetastore.errors import BackendError, ThetaError
from thetastore.store import Store
from thetastore.transfers.transfer import copy_objects
from thetastore.upkeep.losses import Hole, lost_objects
from thetastore.upkeep.mending import DAMAGED, SetAside, remember_lost, set_aside_damage
from thetastore.upkeep.verify import Finding, Level, Problem, verify


class Source(Protocol):
    """Where lost objects may still be."""

    name: str
    """For messages."""

    def bring(self, store: Store, lost: Sequence[Digest], holes: Sequence[Hole]) -> None:
        """Put into a store what is to be had here of lost objects, and of the holes that they leave in files.

        Raises:
            ThetaError, OSError: the source cannot be read; the store is as sound as before.
        """


class Brought(NamedTuple):
    """What one source gave."""

    source_name: str
    object_count: int
    failure: str
    """Why it could not be read, or not to its end; empty where it could."""


class Repaired(NamedTuple):
    """What a repair did."""

    set_aside: list[SetAside]
    brought: list[Brought]
    lost_count: int
    """Objects that are still lost."""
    lost: list[LostFile]
    """Files that are short of them."""


def repair(
    store: Store,
    findings: Iterable[Finding] | None,
    sources: Iterable[Source],
    also: Sequence[Digest] = (),
    whole: Sequence[Digest] = (),
) -> Repaired:
    """Set aside what is damaged, and bring back what is lost from the first source that has it.

    May be killed at any point, and done again.

    Args:
        store: the store.
        findings: what a check has found; None to read everything here.
        sources: asked one after the other, while anything is lost.
        also: manifests of files that the store may have; a lost one is told by name.
        whole: manifests of files that the store must have whole; whatever it lacks of them counts as lost.

    Raises:
        BackendError: the store cannot be written, or (`EAGAIN`) another process is merging its packs.
    """
    objects = store.objects
    # Of what is sound and stands on something lost, tables tell.
    found = list(verify(objects, Level.TABLES) if findings is None else findings)
    # A pack without a whole table is mended by its own records, one that is gone by nothing here.
    kinds = (Problem.PACK, Problem.RECORD)
    names = {finding.file_name for finding in found if finding.problem in kinds}
    set_aside = set_aside_damage(objects, None if findings is None else names)
    damaged = {finding.digest for finding in found if finding.digest is not None}
    damaged.update(digest for mended in set_aside for digest in mended.lost)
    damaged.update(digest for _, digest in store.missing_objects(whole))
    lost = lost_objects(objects, damaged)
    known = list(dict.fromkeys([*also, *whole]))
    brought = []
    for source in sources:
        if not lost:
            break
        got, lost = _bring(store, source, lost, known, whole)
        brought.append(got)
    remember_lost(objects, lost)
    return Repaired(set_aside, brought, len(lost), lost_files(store, lost, known) if lost else [])


def _bring(
    store: Store, source: Source, lost: set[Digest], also: Sequence[Digest], whole: Container[Digest]
) -> tuple[Brought, set[Digest]]:
    """Bring from one source; return what it gave, and what is lost now.

    What a manifest lists that has to be whole is known only once the manifest is back; then the source is asked again.
    """
    object_count, failure = 0, ""
    while lost and not failure:
        holes = [hole for file in lost_files(store, lost, also) for hole in file.holes]
        try:
            source.bring(store, sorted(lost), holes)
        except (ThetaError, OSError) as error:
            if isinstance(error, BackendError) and (error.filename or "").startswith(store.url):
                raise  # it is our own store that cannot be written to
            failure = str(error)
        store.seal()
        store.objects.catalog.refresh(thorough=True)
        left = lost_objects(store.objects, lost) & lost
        back = lost - left
        object_count += len(back)
        lost = left | _listed(store, [digest for digest in back if digest in whole])
        if not back:
            break
    return Brought(source.name, object_count, failure), lost


def _listed(store: Store, manifests: Iterable[Digest]) -> set[Digest]:
    """Return what some manifests list and the store lacks."""
    return {digest for _, digest in store.missing_objects(manifests)}


class StoreSource:
    """Another store: a remote's, a clone's."""

    def __init__(self, name: str, opener: Callable[[], Store | None]) -> None:
        """Bring from what `opener` opens, if it opens anything; it is not called before it is needed."""
        self.name = name
        self._opener = opener

    def bring(self, store: Store, lost: Sequence[Digest], holes: Sequence[Hole]) -> None:
        """See `Source`."""
        other = self._opener()
        if other is None:
            return
        with other:
            there = [digest for digest in lost if other.objects.contains(digest)]
            for digest in ahead(other.objects, there, lambda digest: digest):
                try:
                    copy_objects(other.objects, store.objects, [digest])
                except (ThetaError, OSError) as error:
                    if isinstance(error, BackendError):
                        raise
                    continue  # damaged there, too


class FileSource:
    """A file with weights in it: a checked-out one, or a copy from elsewhere, of any version."""

    def __init__(self, path: str, versions: Mapping[Digest, int] | None = None) -> None:
        """Bring from a file.

        Args:
            path: where it is.
            versions: manifests of what the file is, or was at some time, with its length then. None where that is not
                known: then pieces of every file are looked for, and if some are still lost, all of it is stored: so
                weights are found that lie elsewhere, in another format too.
        """
        self.name = path
        self._path = path
        self._versions = versions

    def bring(self, store: Store, lost: Sequence[Digest], holes: Sequence[Hole]) -> None:
        """See `Source`."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        with open(os.open(self._path, flags), "rb", buffering=0) as file:
            file_bytes = os.fstat(file.fileno()).st_size
            ours = [hole for hole in holes if self._versions is None or hole.manifest_digest in self._versions]
            back: set[Digest] = set()
            for hole in ours:
                is_inside = hole.offset + hole.raw_bytes <= file_bytes
                if hole.kind is Kind.CHUNK and is_inside and hole.digest not in back:
                    raw = os.pread(file.fileno(), hole.raw_bytes, hole.offset)
                    if digest_of(raw) == hole.digest:
                        back.add(store.objects.put(Kind.CHUNK, raw, hole.dtype))
            # Pages and manifests are made of the whole file, and come out the same.
            if self._versions is None:
                is_wanted = not back.issuperset(lost)
            else:
                lacking = {hole.manifest_digest for hole in ours if hole.kind is not Kind.CHUNK}
                is_wanted = any(self._versions[digest] == file_bytes for digest in lacking)
            if is_wanted:
                store.put_file(file)


def set_aside(store: Store) -> list[tuple[str, int]]:
    """Return what repairs have set aside so far, with lengths in bytes."""
    return [(name, store.backend.size(name)) for name in store.backend.list(DAMAGED)]


def delete_set_aside(store: Store) -> list[tuple[str, int]]:
    """Delete what repairs have set aside, for good; return what that was.

    Raises:
        BackendError: the place says no.
    """
    found = set_aside(store)
    for name, _ in found:
        store.backend.delete(name)
    return found
