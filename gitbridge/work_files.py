"""Files of the work tree, reached without following a link.

Paths come from git, contents from anybody: a repository may hold a symlink where a directory was, so that a
path leads out of the work tree. Every directory is opened by name below the one before it with O_NOFOLLOW, and
every file by name in its directory.
"""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Self

from gitbridge.errors import BridgeError
from gitbridge.exchange import exchange
from gitbridge.journal import TEMPORARY_MARK, Identity, Placement, is_safe_path
from thetastore.digest import Digest, digest_of

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MAX_NAME_BYTES = 255
_SECOND_NS = 10**9


class UnsafePathError(BridgeError):
    """A path that git would not check out, or that leads out of the work tree."""

    code = "unsafe-path"


class WorkFiles:
    """Opens and replaces files below one directory. Remembers the last directory; use it for one batch."""

    def __init__(self, root: str) -> None:
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent: tuple[bytes, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget_parent()
        os.close(self._root_fd)

    def parent(self, path: bytes) -> int:
        """Return a descriptor of the directory that holds `path`, valid until the next call.

        Raises:
            UnsafePathError: the path leads out of the work tree by its spelling.
            OSError: a directory is missing, is a symlink, or cannot be read.
        """
        if not is_safe_path(path):
            raise UnsafePathError(f"'{os.fsdecode(path)}' is not a path in a work tree")
        directory, slash, _ = path.rpartition(b"/")
        if not slash:
            return self._root_fd
        if self._parent is None or self._parent[0] != directory:
            self._forget_parent()
            self._parent = (directory, self._open_directory(directory))
        return self._parent[1]

    def _open_directory(self, directory: bytes) -> int:
        fd = os.dup(self._root_fd)
        for part in directory.split(b"/"):
            try:
                below = os.open(part, _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def open(self, path: bytes) -> int:
        """Open a file for reading.

        Raises:
            UnsafePathError: see `parent`.
            OSError: it is not there, or is a symlink.
        """
        return os.open(_name(path), os.O_RDONLY | _FILE, dir_fd=self.parent(path))

    def stat_of(self, path: bytes) -> os.stat_result | None:
        """Look at what lies at a path, not through it; None where nothing does."""
        try:
            return os.stat(_name(path), dir_fd=self.parent(path), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def pointer_at(self, path: bytes, pointer_bytes: int, pointer_digest: Digest) -> os.stat_result | None:
        """Return the stat of the file at a path if it is exactly the pointer; None for anything else.

        Raises:
            OSError: it cannot be told, since the file cannot be read.
        """
        try:
            fd = self.open(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError:
            if self._is_link(path):
                return None
            raise
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_size != pointer_bytes:
                return None
            return found if digest_of(_read_whole(fd, pointer_bytes)) == pointer_digest else None
        finally:
            os.close(fd)

    def _is_link(self, path: bytes) -> bool:
        found = self.stat_of(path)
        return found is not None and stat.S_ISLNK(found.st_mode)

    def create_temporary(self, path: bytes, temporary: bytes) -> int:
        """Make a temporary file beside a path, open for reading and writing."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE
        return os.open(temporary, flags, 0o600, dir_fd=self.parent(path))

    def remove_temporary(self, path: bytes, temporary: bytes) -> None:
        """Delete a temporary file; one that is not there is no error."""
        try:
            os.unlink(temporary, dir_fd=self.parent(path))
        except (FileNotFoundError, NotADirectoryError):
            pass

    def place(self, placement: Placement) -> os.stat_result | None:
        """Put a ready file where its pointer is; return its stat, or None where something else is there now.

        A file that another process of ours has put there already counts as placed. The file takes over the
        pointer's permissions, which git made from the mode in the tree and from the umask.

        Raises:
            OSError: it cannot be placed; the pointer and the temporary file are still there.
        """
        pointer = self.pointer_at(placement.path, placement.pointer_bytes, placement.pointer_digest)
        if pointer is not None and self._take_over_mode(placement, pointer.st_mode):
            self._swap_in(placement)
        found = self.stat_of(placement.path)
        return found if found is not None and Identity.of(found) == placement.identity else None

    def _swap_in(self, placement: Placement) -> None:
        """Exchange the pointer for the ready file, and delete the pointer.

        A rename over the pointer would do. But ext4 writes a file back that replaces another one (150 ms for 400
        MB), and a file put there since we looked would be lost; where files can change names, neither happens.
        """
        directory, name = self.parent(placement.path), _name(placement.path)
        if not exchange(directory, placement.temporary, name):
            os.rename(placement.temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
        aside = placement.path[: len(placement.path) - len(name)] + placement.temporary
        if self.pointer_at(aside, placement.pointer_bytes, placement.pointer_digest) is None:
            exchange(directory, placement.temporary, name)
        else:
            os.unlink(placement.temporary, dir_fd=directory)

    def _take_over_mode(self, placement: Placement, mode: int) -> bool:
        """Set the temporary file's permissions; tell whether it is the file that was made ready."""
        try:
            fd = os.open(placement.temporary, os.O_RDONLY | _FILE, dir_fd=self.parent(placement.path))
        except FileNotFoundError:
            return False
        try:
            if Identity.of(os.fstat(fd)) != placement.identity:
                return False
            os.fchmod(fd, stat.S_IMODE(mode))
            return True
        finally:
            os.close(fd)


def temporary_name(path: bytes) -> bytes:
    """Return a new name for a temporary file beside a path."""
    suffix = TEMPORARY_MARK + os.urandom(8).hex().encode()
    name = _name(path)
    if len(name) + len(suffix) >= _MAX_NAME_BYTES:
        name = b""
    return b"." + name + suffix


def set_time_before_index(fd: int) -> None:
    """Set a file's modification time to the end of the second before now, by the file system's own clock.

    Git compares the content of files that are not older than the index ("racy" entries), in whole seconds
    in most builds. With this time a file is older than an index written at any later moment.
    """
    os.utime(fd)
    now_ns = os.fstat(fd).st_mtime_ns
    os.utime(fd, ns=(now_ns, now_ns // _SECOND_NS * _SECOND_NS - 1))


def _name(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _read_whole(fd: int, nbytes: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < nbytes and (piece := os.read(fd, nbytes - len(pieces))):
        pieces += piece
    return bytes(pieces)
