"""What Git holds at a path already: in the index, else in HEAD.

Clean asks for every file, so the index is read once for as long as it does not change, and HEAD one directory
at a time. Nothing that is found here decides what is stored; a stale answer costs a different spelling of the
same pointer at worst.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gitbridge.errors import GitError, RevisionError
from gitbridge.index_file import OID_BYTES, IndexLookup, IndexUnsupportedError, read_index
from gitbridge.pointers import MAX_POINTER_BYTES, is_pointer
from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.errors import MalformedError

if TYPE_CHECKING:
    from gitbridge.cat_file import BlobHead

_HEAD_BYTES = 2048
"""Holds all of a pointer but its tensors."""
_REGULAR_MODES = (b"100644", b"100755")


def blob_oid(content: bytes, object_format: str) -> bytes:
    """Return the oid that git gives to a blob."""
    import hashlib

    hasher = hashlib.new(object_format, b"blob %d\0" % len(content), usedforsecurity=False)
    hasher.update(content)
    return hasher.digest()


class BlobsAtPaths:
    """Finds the blob that Git holds at a path."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._index: tuple[tuple[int, ...], IndexLookup | None] | None = None
        self._directories: dict[bytes, dict[bytes, bytes]] = {}
        self._last_head: tuple[bytes, BlobHead | None] | None = None

    def oid(self, path: bytes) -> bytes | None:
        """Return the oid at a path: of the index at stage 0, else 2, else of HEAD; None where there is none."""
        index = self._current_index()
        found = index.oid(path) if index is not None else None
        return found or self._in_head(path)

    def pointer_text(self, oid: bytes, file_digest: Digest) -> bytes | None:
        """Return a blob if it is a pointer to these bytes; a large file that Git holds itself is not kept in memory.

        One exchange with git where the answer is no, as it is for every file that has changed.
        """
        head = self._pointer_head(oid)
        if head is None or b"\ndigest %b\n" % str(file_digest).encode() not in head.head:
            return None
        try:
            return head.head if head.size_bytes <= _HEAD_BYTES else self._repository.read_object(oid.hex())
        except (RevisionError, GitError):
            return None

    def manifest_digest(self, oid: bytes) -> Digest | None:
        """Return the manifest that a blob names if it is a pointer, at the cost of one exchange with git."""
        head = self._pointer_head(oid)
        if head is None:
            return None
        try:
            return Digest.parse(head.head.partition(b"\nmanifest ")[2][:64])
        except MalformedError:
            return None

    def _pointer_head(self, oid: bytes) -> BlobHead | None:
        """Return how a blob begins if it is a pointer; the last answer is kept, since clean asks twice."""
        if self._last_head is None or self._last_head[0] != oid:
            self._last_head = (oid, self._read_pointer_head(oid))
        return self._last_head[1]

    def _read_pointer_head(self, oid: bytes) -> BlobHead | None:
        try:
            head = next(iter(self._repository.cat_file().read_heads([oid.hex()], _HEAD_BYTES)))
        except (RevisionError, GitError):
            return None
        return head if is_pointer(head.head) and head.size_bytes <= MAX_POINTER_BYTES else None

    def _current_index(self) -> IndexLookup | None:
        path = self._repository.index_path
        try:
            stat = os.stat(path)
        except OSError:
            return None
        version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._index is None or self._index[0] != version:
            self._index = (version, _lookup(path, self._repository.object_format))
        return self._index[1]

    def _in_head(self, path: bytes) -> bytes | None:
        directory, _, name = path.rpartition(b"/")
        if directory not in self._directories:
            self._directories[directory] = self._read_directory(directory)
        return self._directories[directory].get(name)

    def _read_directory(self, directory: bytes) -> dict[bytes, bytes]:
        """Read one directory of HEAD's tree; one that is not there is empty."""
        try:
            tree = self._repository.cat_file().read("HEAD:" + directory.decode("utf-8", "surrogateescape"))
        except (RevisionError, GitError):
            return {}
        if tree.type != "tree":
            return {}
        return _files_of_tree(tree.content, OID_BYTES[self._repository.object_format])


def _lookup(path: str, object_format: str) -> IndexLookup | None:
    try:
        return IndexLookup(read_index(path), object_format)
    except (IndexUnsupportedError, OSError):
        return None


def _files_of_tree(tree: bytes, oid_bytes: int) -> dict[bytes, bytes]:
    files: dict[bytes, bytes] = {}
    start = 0
    while start < len(tree):
        end = tree.index(b"\0", start)
        mode, _, name = tree[start:end].partition(b" ")
        start = end + 1 + oid_bytes
        if mode in _REGULAR_MODES:
            files[name] = tree[end + 1 : start]
    return files
