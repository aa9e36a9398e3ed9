"""What Git LFS keeps: pointers in git, objects by their SHA-256 beside it.

Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from typing import NamedTuple

from gitbridge.errors import BridgeError
from gitbridge.repository import Repository

MAX_POINTER_BYTES = 1024
"""From here on git-lfs itself takes a blob for no pointer."""
_VERSIONS = (
    b"version https://git-lfs.github.com/spec/v1\n",
    b"version http://git-media.io/v/2\n",
    b"version https://hawser.github.com/spec/v1\n",
)
_POINTER = re.compile(
    rb"version [^\n]+\n(?P<extensions>(?:ext-\d-[^\n]+\n)*)oid sha256:(?P<oid>[0-9a-f]{64})\nsize (?P<size>\d{1,19})\n?"
)


class LfsPointer(NamedTuple):
    """A pointer of Git LFS."""

    oid: str
    """SHA-256 of the file, hexadecimal."""
    nbytes: int


class LfsObjectError(BridgeError):
    """An object of Git LFS is not here, or is not what its pointer says."""

    code = "lfs-object"


def parse_pointer(text: bytes) -> LfsPointer | None:
    """Read a pointer; None for any other text, and for pointers with extensions, which only git-lfs can undo."""
    if len(text) >= MAX_POINTER_BYTES or not text.startswith(_VERSIONS):
        return None
    found = _POINTER.fullmatch(text)
    return LfsPointer(found["oid"].decode(), int(found["size"])) if found and not found["extensions"] else None


def render_pointer(pointer: LfsPointer) -> bytes:
    """Return the text that Git LFS keeps in git."""
    return _VERSIONS[0] + b"oid sha256:%b\nsize %d\n" % (pointer.oid.encode(), pointer.nbytes)


def objects_directory(repository: Repository) -> str:
    """Return where the objects of Git LFS lie: `lfs.storage`, else `lfs` in the common git directory."""
    storage = os.path.expanduser(repository.config("lfs.storage") or "lfs")
    return os.path.join(repository.common_dir, storage, "objects")


def object_path(repository: Repository, oid: str) -> str:
    """Return where an object lies if it is here."""
    return os.path.join(objects_directory(repository), oid[:2], oid[2:4], oid)


def has_object(repository: Repository, pointer: LfsPointer) -> bool:
    """Tell whether an object is here, in its length."""
    try:
        return os.stat(object_path(repository, pointer.oid)).st_size == pointer.nbytes
    except OSError:
        return not pointer.nbytes


class ObjectStream:
    """The bytes of an object, checked against its name when the last one is read."""

    def __init__(self, repository: Repository, pointer: LfsPointer) -> None:
        self._pointer = pointer
        self._path = object_path(repository, pointer.oid)
        self._file = open(self._path if pointer.nbytes else os.devnull, "rb", buffering=0)  # noqa: SIM115
        self._hasher = hashlib.sha256()

    def readinto(self, target: memoryview, /) -> int:
        """Fill `target`; 0 at the end.

        Raises:
            LfsObjectError: the bytes are not those that the pointer names.
        """
        count = self._file.readinto(target) or 0
        self._hasher.update(target[:count])
        if not count and len(target) and self._hasher.hexdigest() != self._pointer.oid:
            raise LfsObjectError(
                f"the Git LFS object '{self._path}' is damaged: its SHA-256 is {self._hasher.hexdigest()}",
                "delete it and get it again: git lfs fetch --all",
            )
        return count

    def __enter__(self) -> ObjectStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class NewObject:
    """A file on its way into Git LFS: write to `descriptor`, then `keep`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        directory = objects_directory(repository)
        os.makedirs(directory, exist_ok=True)
        self.descriptor, self._path = tempfile.mkstemp(prefix="theta-", dir=directory)

    def keep(self) -> LfsPointer:
        """Name the file by what it holds; return its pointer."""
        with open(self._path, "rb") as stream:
            oid = hashlib.file_digest(stream, "sha256").hexdigest()
            pointer = LfsPointer(oid, os.fstat(stream.fileno()).st_size)
        path = object_path(self._repository, oid)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.fsync(self.descriptor)
        os.chmod(self._path, 0o644)
        os.replace(self._path, path)
        return pointer

    def __enter__(self) -> NewObject:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        if os.path.exists(self._path):
            os.unlink(self._path)
