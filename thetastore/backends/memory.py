"""A store in memory: for tests, for models of protocols, and for scratch space.

Several stores opened over one `MemoryBackend` behave like processes that share a directory: `crash`
ends the life of all files in the making, as the death of their processes would.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from thetastore.backends import Range, check_name
from thetastore.digest import Buffer
from thetastore.errors import BackendError


class MemoryBackend:
    """Files in a dictionary."""

    is_remote = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Make an empty place, whose clock may be any."""
        self.url = "memory:"
        self._clock = clock
        self._files: dict[str, bytearray] = {}
        self._written_s: dict[str, float] = {}
        self._locked: set[str] = set()
        self._mutex = threading.Lock()

    def read(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        """See `Backend.read`."""
        return bytes(self._file(name)[offset : None if nbytes is None else offset + nbytes])

    def open(self, name: str) -> _File:
        """See `Backend.open`."""
        return _File(self._file(name))

    def view(self, name: str) -> memoryview:
        """See `Backend.view`."""
        return memoryview(bytes(self._file(name)))  # a copy: a file in the making could not grow under a view

    def size(self, name: str) -> int:
        """See `Backend.size`."""
        return len(self._file(name))

    def written_s(self, name: str) -> float:
        """See `Backend.written_s`."""
        self._file(name)
        return self._written_s[name]

    def expect(self, ranges: Iterable[Range]) -> None:
        """See `Backend.expect`: nothing is nearer than memory."""

    def expect_list(self, prefix: str) -> None:
        """See `Backend.expect_list`."""

    def list(self, prefix: str) -> Iterator[str]:
        """See `Backend.list`."""
        if prefix:
            check_name(prefix)
        below = f"{prefix}/" if prefix else ""
        with self._mutex:
            names = [name for name in self._files if name.startswith(below)]
        return iter(names)

    def create(self, name: str, stored: Buffer, durable: bool = True) -> None:
        """See `Backend.create`."""
        self._link(name, bytearray(stored))

    def look_before_creating(self) -> None:
        """See `Backend.look_before_creating`: no need."""

    def delete(self, name: str) -> None:
        """See `Backend.delete`."""
        check_name(name)
        with self._mutex:
            self._files.pop(name, None)

    def move(self, name: str, new_name: str) -> None:
        """See `Backend.move`."""
        self._link(new_name, self._file(name))
        self.delete(name)

    def delete_litter(self, age_s: float) -> int:
        """See `Backend.delete_litter`: there is none."""
        return 0

    def appender(self, name: str) -> _Appender:
        """See `Backend.appender`."""
        content = bytearray()
        self._link(name, content)
        self._locked.add(name)
        return _Appender(self, name, content)

    def reopen(self, name: str) -> _Appender:
        """See `Backend.reopen`."""
        content = self._file(name)
        with self._mutex:
            if name in self._locked:
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), name)
            self._locked.add(name)
        return _Appender(self, name, content)

    def try_lock(self, name: str) -> _Lock:
        """See `Backend.try_lock`."""
        check_name(name)
        return _Lock(self, name)

    def crash(self) -> None:
        """Give up every lock, as if every process that holds one had been killed."""
        with self._mutex:
            self._locked.clear()  # the dead see that they have lost their locks
            self._locked = set()

    def _file(self, name: str) -> bytearray:
        check_name(name)
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None

    def _link(self, name: str, content: bytearray) -> None:
        check_name(name)
        with self._mutex:
            if self._files.setdefault(name, content) is not content:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self._written_s[name] = self._clock()


class _File:
    def __init__(self, content: bytearray) -> None:
        self._content = content

    def size(self) -> int:
        return len(self._content)

    def read_into(self, offset: int, out: memoryview) -> int:
        found = self._content[offset : offset + out.nbytes]
        out.cast("B")[: len(found)] = found
        return len(found)


class _Appender:
    def __init__(self, backend: MemoryBackend, name: str, content: bytearray) -> None:
        self.name = name
        self._backend = backend
        self._content = content
        self._sealed = False
        self._locks = backend._locked  # `crash` replaces the set: a dead appender unlocks nothing of an heir's

    def size(self) -> int:
        return len(self._content)

    def write(self, *parts: Buffer) -> None:
        self._check()
        self._content += b"".join(parts)

    def truncate(self, keep_bytes: int) -> None:
        self._check()
        del self._content[keep_bytes:]

    def sync(self) -> None:
        self._check()

    def seal(self, name: str) -> None:
        self._check()
        self._backend._link(name, self._content)
        self._sealed = True

    def close(self) -> None:
        if self._sealed and self.name in self._locks:
            self._backend.delete(self.name)
        self._locks.discard(self.name)

    def discard(self) -> None:
        self._backend.delete(self.name)
        self.close()

    def _check(self) -> None:
        if self.name not in self._locks:
            raise BackendError(errno.EBADF, "the file is closed", self.name)


class _Lock:
    def __init__(self, backend: MemoryBackend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._got = False

    def __enter__(self) -> bool:
        with self._backend._mutex:
            self._locks = self._backend._locked
            self._got = self._name not in self._locks
            if self._got:
                self._locks.add(self._name)
        return self._got

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._got:
            self._locks.discard(self._name)
