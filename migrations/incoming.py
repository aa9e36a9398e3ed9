"""Files on their way in: what a blob stands for, whether all of it is here, and its bytes into the store.

A blob is converted once, however many commits have it, and its predecessor at the same path is the base of it. What
was converted is written down as soon as it is durable, so that a migration that was killed does not do it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from gitbridge.errors import BridgeError
from gitbridge.pointers import is_pointer, render_pointer
from gitbridge.repository import Repository
from migrations import git_theta, lfs
from migrations.git_objects import BlobStream, NewObjects
from migrations.landing import directory_of
from thetastore.checkpoints.compose import SafetensorsSource
from thetastore.digest import Digest
from thetastore.errors import MalformedError
from thetastore.store import Store

_SEAL_BYTES = 512 << 20
"""So much is done again at most after a kill."""
_HEAD_BYTES = lfs.MAX_POINTER_BYTES


class Wanted(NamedTuple):
    """A blob that is to become a pointer of ours."""

    oid: str
    path: str
    """The first path that a history has it at."""
    nbytes: int
    """Length of the file that it stands for."""
    lfs_pointer: lfs.LfsPointer | None
    is_git_theta: bool

    @property
    def new_path(self) -> str:
        """Where the file is afterwards: Git-Theta did not keep the file itself, only its tensors."""
        return git_theta.new_path(self.path) if self.is_git_theta else self.path


class Missing(NamedTuple):
    """A file of which something is not here."""

    path: str
    what: str


class Source(Protocol):
    """A stream of a file's bytes that is closed when it is left."""

    def readinto(self, target: memoryview, /) -> int:
        """Fill `target`; 0 at the end."""


class Finder:
    """Notes which blobs a walk through history wants. Reads a kilobyte of each, once."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.found: dict[str, Wanted] = {}
        """By oid, in the order of history."""
        self.missing: dict[Missing, None] = {}
        """In the order of history, each once."""
        self._lost: dict[str, list[str]] = {}
        self._looked_at: set[str] = set()

    def __call__(self, path: str, oid: str) -> None:
        """Take note of a blob at a path."""
        if oid not in self._looked_at:
            self._looked_at.add(oid)
            self._look_at(path, oid)
        for what in self._lost.get(oid, ()):
            self.missing[Missing(path, what)] = None

    def _look_at(self, path: str, oid: str) -> None:
        head = next(iter(self._repository.cat_file().read_heads([oid], _HEAD_BYTES)))
        if not head.size_bytes or is_pointer(head.head):
            return
        pointer = lfs.parse_pointer(head.head) if head.size_bytes < lfs.MAX_POINTER_BYTES else None
        wanted = Wanted(oid, path, pointer.nbytes if pointer else head.size_bytes, pointer, False)
        if pointer is not None and not lfs.has_object(self._repository, pointer):
            self._lost[oid] = [f"Git LFS object {pointer.oid}, {pointer.nbytes} bytes"]
            return
        if pointer is None and git_theta.may_be_metadata(head.head):
            described = git_theta.describe(self._repository, path, oid)
            if described is not None:
                if described.missing:
                    self._lost[oid] = described.missing
                    return
                wanted = wanted._replace(is_git_theta=True, nbytes=described.nbytes)
        self.found[oid] = wanted


class Converter:
    """Puts files into a store. For one thread."""

    def __init__(self, repository: Repository, store: Store, objects: NewObjects, remembers: bool = True) -> None:
        self._repository = repository
        self._store = store
        self._objects = objects
        self.pointers: dict[str, str] = {}
        """Oids of pointers by those of the blobs that they replace."""
        self._latest: dict[str, Digest] = {}
        self._unwritten: list[str] = []
        self._unsealed_bytes = 0
        self._log = os.path.join(directory_of(repository), "blobs") if remembers else None
        self._known = self._read_log() if remembers else {}

    def convert_all(self, wanted: Iterable[Wanted], report: Callable[[int], None]) -> None:
        """Convert blobs in the order of history; durable when this returns.

        Args:
            wanted: the blobs.
            report: called with the bytes done so far.

        Raises:
            BackendError: the disk is full or failing; what is done already is kept.
            LfsObjectError: an object is damaged.
        """
        done_bytes = 0
        for one in wanted:
            self.pointers[one.oid] = self._pointer(one)
            done_bytes += one.nbytes
            report(done_bytes)
            if self._unsealed_bytes >= _SEAL_BYTES:
                self._seal()
        self._seal()

    def _pointer(self, wanted: Wanted) -> str:
        known = self._known.get(wanted.oid)
        if known is not None and self._store.objects.contains(known[1]):
            self._latest[wanted.new_path] = known[1]
            return known[0]
        stored = None
        with self._source(wanted) as source:
            stored = self._store.put_file(source, self._latest.get(wanted.new_path))
        self._latest[wanted.new_path] = stored.manifest_digest
        self._unsealed_bytes += wanted.nbytes
        oid = self._objects.add("blob", render_pointer(stored.manifest, stored.manifest_digest))
        self._unwritten.append(f"{wanted.oid} {oid} {stored.manifest_digest}\n")
        return oid

    def _source(self, wanted: Wanted) -> BlobStream | lfs.ObjectStream | _Open:
        if wanted.lfs_pointer is not None:
            return lfs.ObjectStream(self._repository, wanted.lfs_pointer)
        if wanted.is_git_theta:
            return _Open(git_theta.source(self._repository, wanted.path, wanted.oid))
        return BlobStream(self._repository, wanted.oid)

    def _seal(self) -> None:
        self._store.seal()
        self._objects.flush()
        self._unsealed_bytes = 0
        if self._log is not None and self._unwritten:
            with open(self._log, "a", encoding="ascii") as stream:
                stream.write("".join(self._unwritten))
        self._unwritten.clear()

    def _read_log(self) -> dict[str, tuple[str, Digest]]:
        """Return what earlier migrations have converted: pointer and manifest by blob."""
        known: dict[str, tuple[str, Digest]] = {}
        try:
            with open(self._log or "", encoding="ascii") as stream:
                lines = [line.split() for line in stream if line.endswith("\n")]
        except FileNotFoundError:
            return known
        there = self._there({line[1] for line in lines if len(line) == 3})
        for line in lines:
            try:
                blob, pointer, manifest = line
                if pointer in there:
                    known[blob] = pointer, Digest.parse(manifest)
            except (ValueError, MalformedError):
                continue  # a torn line; its file is converted again
        return known

    def _there(self, oids: set[str]) -> set[str]:
        """Return those objects that git has: `git gc` may have taken the pointers of a migration that never landed."""
        asked = "".join(f"{oid}\n" for oid in oids).encode()
        answers = self._repository.git("cat-file", "--batch-check", input=asked).decode().splitlines()
        return {line.split()[0] for line in answers if not line.endswith(" missing")}


class _Open:
    """A stream that needs no closing."""

    def __init__(self, source: SafetensorsSource) -> None:
        self.readinto = source.readinto

    def __enter__(self) -> _Open:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


class ObjectsMissingError(BridgeError):
    """Something that a history needs is not here."""

    code = "migration-objects-missing"
