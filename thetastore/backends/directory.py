"""A store in a local directory, on `os.*` alone (3 us a range read, where fsspec takes 26).

A file appears under its name by `os.link` from a temporary file in the same directory: linking fails
where the name exists, on every POSIX file system, so exactly one of several creators wins and no
reader sees half a file. Temporary names start with `~`, which no name of the store may contain; what
a killed process leaves under one is never listed.

Files in the making are locked with `flock`, which ends with the process, however it dies.

A directory that its group may write to, and that hands its group on (mode `g+ws`, as git makes those of a shared
repository), is shared: what is made in it lets the group in as well, whatever the umask says. Otherwise the umask says
who may do what.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from thetastore.backends import OF_ONE_FILE, Range, check_name
from thetastore.digest import Buffer
from thetastore.errors import BackendError, FileUnreadableError
from thetastore.sharing import share_as_above

# A store may be hostile: a link would lead out of it, and opening a pipe would wait for ever.
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_sync_data = getattr(os, "fdatasync", os.fsync)
"""macOS has only the other."""
_NEW_FILE_MODE = 0o666
_TEMPORARY_LENGTH = 25


class DirectoryBackend:
    """A directory of this machine. Directories are made as they are needed."""

    is_remote = False

    def __init__(self, path: str) -> None:
        self.url = os.path.abspath(path)

    def read(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        """See `Backend.read`."""
        file = self.open(name)
        out = bytearray(max(0, min(file.size() - offset, (1 << 62) if nbytes is None else nbytes)))
        return bytes(memoryview(out)[: file.read_into(offset, memoryview(out))])

    def open(self, name: str) -> _File:
        """See `Backend.open`."""
        return _File(self._path(name))

    def view(self, name: str) -> memoryview:
        """See `Backend.view`."""
        file = self.open(name)
        if not file.size():
            return memoryview(b"")  # an empty file cannot be mapped
        with _Refusals(self._path(name), FileUnreadableError):
            return memoryview(mmap.mmap(file.fd, 0, prot=mmap.PROT_READ))

    def size(self, name: str) -> int:
        """See `Backend.size`."""
        with _Refusals(self._path(name)):
            return os.lstat(self._path(name)).st_size

    def written_s(self, name: str) -> float:
        """See `Backend.written_s`."""
        with _Refusals(self._path(name)):
            return os.stat(self._path(name), follow_symlinks=False).st_mtime

    def expect(self, ranges: Iterable[Range]) -> None:
        """See `Backend.expect`: the system reads ahead by itself."""

    def expect_list(self, prefix: str) -> None:
        """See `Backend.expect_list`."""

    def list(self, prefix: str) -> Iterator[str]:
        """See `Backend.list`."""
        if prefix:
            check_name(prefix)
        directories = [prefix]
        while directories:
            directory = directories.pop()
            path = os.path.join(self.url, directory)
            try:
                with _Refusals(path), os.scandir(path) as entries:
                    found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            except FileNotFoundError:
                continue
            for part, is_directory in found:
                if "~" in part:
                    continue
                name = f"{directory}/{part}" if directory else part
                if is_directory:
                    directories.append(name)
                else:
                    yield name

    def create(self, name: str, stored: Buffer, durable: bool = True) -> None:
        """See `Backend.create`."""
        path = self._path(name)
        directory = os.path.dirname(path)
        temporary = os.path.join(directory, _temporary_name())
        with _Refusals(self._path(name)):
            fd = _create(temporary)
            try:
                _write_all(fd, (stored,), 0)
                if durable:
                    os.fsync(fd)
                os.link(temporary, path)
            finally:
                os.close(fd)
                os.unlink(temporary)
            if durable:
                _sync_directory(directory)

    def look_before_creating(self) -> None:
        """See `Backend.look_before_creating`: no need."""

    def delete(self, name: str) -> None:
        """See `Backend.delete`."""
        try:
            with _Refusals(self._path(name)):
                os.unlink(self._path(name))
        except FileNotFoundError:
            pass

    def move(self, name: str, new_name: str) -> None:
        """See `Backend.move`: whatever it is, links, pipes and directories too."""
        path, new_path = self._path(name), self._path(new_name)
        if os.path.lexists(new_path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
        directory, new_directory = os.path.dirname(path), os.path.dirname(new_path)
        with _Refusals(path):
            if not os.path.isdir(new_directory):
                _make_directory(new_directory)
            os.rename(path, new_path)
            _sync_directory(new_directory)
            _sync_directory(directory)

    def delete_litter(self, age_s: float) -> int:
        """See `Backend.delete_litter`: temporary files of `create`."""
        count = 0
        latest: float | None = None
        for directory, _, names in os.walk(self.url):
            for name in names:
                if name.startswith("~") and len(name) == _TEMPORARY_LENGTH:
                    latest = self._now() - age_s if latest is None else latest
                    count += _delete_if_older(os.path.join(directory, name), latest)
        return count

    def _now(self) -> float:
        """Return the time by the clock of the file system, which may be another machine's."""
        path = os.path.join(self.url, _temporary_name())
        with _Refusals(path):
            fd = _create(path)
            try:
                return os.fstat(fd).st_mtime
            finally:
                os.close(fd)
                os.unlink(path)

    def appender(self, name: str) -> _Appender:
        """See `Backend.appender`."""
        path = self._path(name)
        with _Refusals(self._path(name)):
            fd = _create(path)
        try:
            return _Appender(self, name, path, fd)
        except (BlockingIOError, FileNotFoundError):
            # Between our creating and our locking it, somebody took the empty file for a dead writer's.
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None

    def reopen(self, name: str) -> _Appender:
        """See `Backend.reopen`."""
        path = self._path(name)
        with _Refusals(self._path(name), FileUnreadableError):
            fd = os.open(path, _WRITE_FLAGS)
        return _Appender(self, name, path, fd)

    def try_lock(self, name: str) -> _Lock:
        """See `Backend.try_lock`."""
        return _Lock(self._path(name))

    def _path(self, name: str) -> str:
        check_name(name)
        return f"{self.url}/{name}"


class _File:
    """An open file; closed when nobody refers to it, so that no thread's read meets a closed descriptor."""

    fd = -1

    def __init__(self, path: str) -> None:
        self._path = path
        with _Refusals(path, FileUnreadableError):
            try:
                self.fd = os.open(path, _READ_FLAGS)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise FileUnreadableError(errno.ELOOP, "not a regular file, but a link", path) from error
                raise
            if not stat.S_ISREG(os.fstat(self.fd).st_mode):
                raise FileUnreadableError(errno.EINVAL, "not a regular file", path)

    def size(self) -> int:
        with _Refusals(self._path, FileUnreadableError):
            return os.fstat(self.fd).st_size

    def read_into(self, offset: int, out: memoryview) -> int:
        done = 0
        with _Refusals(self._path, FileUnreadableError):
            while done < out.nbytes:
                count = os.preadv(self.fd, [out[done:] if done else out], offset + done)
                if not count:
                    break
                done += count
        return done

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Appender:
    """See `Appender`. The file lies at `incoming` until it is linked to its final place."""

    _fd = -1

    def __init__(self, backend: DirectoryBackend, name: str, path: str, fd: int) -> None:
        self.name = name
        self._backend = backend
        self._path = path
        self._fd = fd
        self._sealed = False
        self._failure: OSError | None = None
        try:
            with _Refusals(self._path):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.stat(path), os.fstat(fd)):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
                self._end = os.fstat(fd).st_size
        except OSError:
            self.close()
            raise

    def size(self) -> int:
        return self._end

    def write(self, *parts: Buffer) -> None:
        self._check()
        try:
            self._end += _write_all(self._fd, parts, self._end)
        except OSError as error:
            self._cut(self._end)
            raise BackendError(error.errno, error.strerror, self._path) from error
        except BaseException:  # an interrupt: what was written of it must not lie behind what is written next
            self._cut(self._end)
            raise

    def truncate(self, keep_bytes: int) -> None:
        with _Refusals(self._path):
            os.ftruncate(self._fd, keep_bytes)
            self._end = keep_bytes

    def sync(self) -> None:
        self._synced(_sync_data)

    def seal(self, name: str) -> None:
        self._check()
        path = self._backend._path(name)
        self._synced(os.fsync)
        with _Refusals(self._path):
            try:
                os.link(self._path, path)
            except FileNotFoundError:
                _make_directory(os.path.dirname(path))
                os.link(self._path, path)
            _sync_directory(os.path.dirname(path))
        self._sealed = True

    def close(self) -> None:
        if self._fd < 0:
            return
        try:
            if self._sealed:
                self._backend.delete(self.name)
        finally:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def discard(self) -> None:
        self._backend.delete(self.name)  # before the lock goes, or another would adopt it
        self.close()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def _cut(self, keep_bytes: int) -> None:
        try:
            os.ftruncate(self._fd, keep_bytes)
        except OSError as error:
            self._failure = error

    def _synced(self, sync: Callable[[int], None]) -> None:
        try:
            sync(self._fd)
        except OSError as error:
            # Linux reports a failed write-back once; a second fsync would say that all is well.
            self._failure = error
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise BackendError(self._failure.errno, self._failure.strerror, self._path) from self._failure


class _Lock:
    """An advisory lock on a file that is made for it and stays."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> bool:
        with _Refusals(self._path):
            try:
                self._fd = os.open(self._path, _WRITE_FLAGS | os.O_CREAT, _NEW_FILE_MODE)
            except FileNotFoundError:
                _make_directory(os.path.dirname(self._path))
                self._fd = os.open(self._path, _WRITE_FLAGS | os.O_CREAT, _NEW_FILE_MODE)
            share_as_above(self._path, self._fd)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._fd)


class _Refusals:
    """Turn what the operating system refuses into `BackendError`, but for the errors that callers act on."""

    __slots__ = ("_of_one_file", "_path")

    def __init__(self, path: str, of_one_file: type[BackendError] = BackendError) -> None:
        """Act on a path; `of_one_file` is what to raise where it is about this file alone, as when it is read."""
        self._path = path
        self._of_one_file = of_one_file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, OSError) and not isinstance(
            error, (FileNotFoundError, FileExistsError, BlockingIOError, BackendError)
        ):
            kind = self._of_one_file if error.errno in OF_ONE_FILE else BackendError
            raise kind(error.errno, error.strerror, self._path) from error


def _temporary_name() -> str:
    return f"~{os.urandom(12).hex()}"


def _delete_if_older(path: str, latest: float) -> bool:
    try:
        if os.lstat(path).st_mtime > latest:
            return False
        os.unlink(path)
        return True
    except OSError:
        return False  # its process lives, or another one was faster


def _create(path: str) -> int:
    flags = _WRITE_FLAGS | os.O_CREAT | os.O_EXCL
    try:
        fd = os.open(path, flags, _NEW_FILE_MODE)
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))
        fd = os.open(path, flags, _NEW_FILE_MODE)
    share_as_above(path, fd)
    return fd


def _make_directory(path: str) -> None:
    """Make a directory and those above it, durably."""
    parent = os.path.dirname(path)
    try:
        _make_directory_in(parent, path)
    except FileNotFoundError:
        if not os.path.isdir(parent):  # else another process has just made it
            _make_directory(parent)
        _make_directory_in(parent, path)


def _make_directory_in(parent: str, path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    share_as_above(path)
    _sync_directory(parent)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, parts: tuple[Buffer, ...], offset: int) -> int:
    """Write the parts at `offset`, in one call unless the system takes less; return their length."""
    total = sum(memoryview(part).nbytes for part in parts)
    done = os.pwritev(fd, parts, offset) if total else 0
    while done < total:
        rest = _after(parts, done)
        done += os.pwritev(fd, rest, offset + done)
    return total


def _after(parts: tuple[Buffer, ...], skip: int) -> list[memoryview]:
    rest = []
    for part in parts:
        view = memoryview(part).cast("B")
        rest.append(view[skip:])
        skip = max(0, skip - view.nbytes)
    return rest
