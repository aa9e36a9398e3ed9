"""From a file's bytes to the pointer that Git keeps.

An empty file stays empty, a pointer stays what it is, and everything else goes into the store. Clean is
stable: where Git holds a pointer to the same bytes at this path already, that very text is the answer, so that
a file does not look modified because a newer version would describe it otherwise.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from gitbridge.bases import NamedBases
from gitbridge.blobs import BlobsAtPaths, blob_oid
from gitbridge.errors import BridgeError, PointerError, PointerVersionError
from gitbridge.parts import MAX_MARK_BYTES, PartError, begins_as_part, parse_mark
from gitbridge.pointers import MAX_POINTER_BYTES, is_pointer, parse_pointer, render_pointer
from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.errors import ThetaError
from thetastore.pool import import_beside

if TYPE_CHECKING:
    from thetastore.store import Store

_HEAD_BYTES = 64


class Input(Protocol):
    """A file's bytes as they come in."""

    def read(self, max_bytes: int, /) -> bytes:
        """Return up to `max_bytes` bytes, fewer only at the end."""

    def readinto(self, target: memoryview, /) -> int:
        """Fill `target`; fewer bytes than it holds, and 0, only towards and at the end."""


class DamagedPointerError(BridgeError):
    """A file begins as a pointer and is none: somebody edited it, or a merge was left half done."""

    code = "damaged-pointer"


class Cleaner:
    """Cleans the files of one repository."""

    def __init__(self, repository: Repository, is_forkable: bool = False) -> None:
        """Clean files of a repository; see `Pool.allow_forks`."""
        self._repository = repository
        self._is_forkable = is_forkable
        self._store: Store | None = None
        self._blobs = BlobsAtPaths(repository)
        self._named_bases = NamedBases(repository)

    def clean(self, path: bytes, content: Input) -> bytes:
        """Store a file and return its pointer; empty for an empty file, the pointer itself for a pointer.

        Raises:
            DamagedPointerError: the file begins as a pointer and is none.
            BackendError: the store cannot be written.
        """
        head = content.read(_HEAD_BYTES)
        if is_pointer(head):
            return self._checked_pointer(path, head + content.read(MAX_POINTER_BYTES + 1 - len(head)))
        if not head:
            return b""
        if begins_as_part(head):
            head += content.read(MAX_MARK_BYTES - len(head))
            self._check_part(path, head)
        # Where the file before this one is, git is asked only if a difference from it may be worth something.
        stored = self.store().put_file(_Resumed(head, content), lambda: self._base(path))
        text = render_pointer(stored.manifest, stored.manifest_digest)
        return self._stable(path, text, stored.manifest.file_digest)

    def store(self, create: bool = True) -> Store:
        """Return the local store.

        Raises:
            StoreMissingError: there is none and `create` is False.
        """
        if self._store is None:
            self._store = self._repository.open_store(create)
            if self._is_forkable:
                self._store.pool.allow_forks()
        return self._store

    def close(self) -> None:
        """Make durable what was stored."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _base(self, path: bytes) -> Digest | None:
        """Return the manifest to take differences from, where anything names one or is at the path already."""
        named = self._named_bases
        return named.for_this_add(path) or self._parent(path) or named.usual(path)

    def _parent(self, path: bytes) -> Digest | None:
        """Return the manifest of what Git holds at a path already."""
        oid = self._blobs.oid(path)
        if oid is None:
            return None
        import_beside("numpy")  # for the difference: it takes 60 ms, and git some to start
        return self._blobs.manifest_digest(oid)

    def _check_part(self, path: bytes, head: bytes) -> None:
        """Refuse a part that we wrote of a file, where it would take the place of the whole."""
        mark = parse_mark(head)
        if mark is None or self._repository.config_bool("theta.allowPart", False):
            return
        if mark.path == os.fsdecode(path) or self._parent(path) == mark.manifest_digest:
            raise PartError(
                f"this file holds only some tensors of '{mark.path}', as git theta checkout --tensors wrote them: "
                "committed, they would replace the whole",
                "have it under another name, or get the whole back: git checkout HEAD -- <file>; "
                "if a part is what you want there: git -c theta.allowPart=true add <file>",
            )

    def _stable(self, path: bytes, text: bytes, file_digest: Digest) -> bytes:
        oid = self._blobs.oid(path)
        if oid is None or oid == blob_oid(text, self._repository.object_format):
            return text
        earlier = self._blobs.pointer_text(oid, file_digest)
        try:
            if earlier is not None and parse_pointer(earlier).file_digest == file_digest:
                self._check_against_manifest(earlier)  # or one that was staged by hunks would stay
                return earlier
        except PointerError:
            pass
        return text

    def _checked_pointer(self, path: bytes, text: bytes) -> bytes:
        """Return a pointer as it is. What Git holds at this path already is let through, whatever it says."""
        try:
            self._check_against_manifest(text)
        except PointerError as error:
            if self._blobs.oid(path) != blob_oid(text, self._repository.object_format):
                if isinstance(error, PointerVersionError):
                    raise
                raise DamagedPointerError(
                    f"the file begins as a pointer of git theta, but {error}",
                    "to get the last good version back: git checkout HEAD -- <file>",
                ) from None
        return text

    def _check_against_manifest(self, text: bytes) -> None:
        """Compare with the manifest, if it is here: a clone without weights has none."""
        pointer = parse_pointer(text)
        try:
            store = self.store(create=False)
            if not store.objects.contains(pointer.manifest_digest):
                return
            manifest = store.get_manifest(pointer.manifest_digest)
        except ThetaError:
            return
        if render_pointer(manifest, pointer.manifest_digest) != text:
            raise PointerError("it does not say what its manifest says")


class _Resumed:
    """The rest of an input, after a head that was read apart."""

    def __init__(self, head: bytes, rest: Input) -> None:
        self._head = head
        self._rest = rest

    def readinto(self, target: memoryview, /) -> int:
        """Fill `target`, the head first."""
        size = min(len(self._head), len(target))
        target[:size] = self._head[:size]
        self._head = self._head[size:]
        return size + self._rest.readinto(target[size:])
