"""Faults on demand: places that number every operation, and let chosen ones go wrong.

`FaultyRequests` stands between a `RemoteBackend` and a place, and does what networks and servers do: requests and
answers are lost, repeated, cut off, come from elsewhere in the file, or tell of yesterday. `FaultyBackend` wraps any
backend, and lets the system refuse a call (`ENOSPC`, `EIO`, `EMFILE`), or a file be one that cannot be read. To try
every fault at every place, run once without faults, count `operations`, and run again for each number:

    requests = FaultyRequests(MemoryRequests(files), {7: Fault.RESPONSE_LOST})
    backend = RemoteBackend(requests, "test://", pause=lambda seconds: None)
"""

from __future__ import annotations

import enum
import errno
import os
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from thetastore.backends import OF_ONE_FILE, Appender, Backend, Range, Reader
from thetastore.backends.requests import Listed, PassingError, Requests
from thetastore.digest import Buffer
from thetastore.errors import BackendError, FileUnreadableError

T = TypeVar("T")
_READING = frozenset({"open", "read", "view"})
_DELAY = 3
"""So many operations later a delayed one is done."""


class Fault(enum.Enum):
    """What happens to one operation."""

    REQUEST_LOST = "request lost"
    RESPONSE_LOST = "response lost after effect"
    DUPLICATED = "done twice"
    SERVER_ERROR = "answered with 500, 503 or 429"
    REFUSED = "refused for good"
    TRUNCATED = "body cut off"
    WRONG_RANGE = "another range of the file"
    STALE_LISTING = "listing without what was written last"
    DELAYED = "given up, and done later"
    DONE_BUT_REFUSED = "done, and answered with 412, as when somebody on the way repeats a request"
    CONFLICT = "answered with 409"
    DEAD = "this and everything after it lost"


class MemoryRequests:
    """A place in a dictionary, which may be shared: a bucket without a server."""

    def __init__(self, files: dict[str, bytes] | None = None, part_bytes: int = 0) -> None:
        self.files = {} if files is None else files
        self.part_bytes = part_bytes
        self.clock: Callable[[], float] = time.time
        self._written_s: dict[str, float] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`."""
        return self._file(name)[start:stop]

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        return len(self._file(name))

    def written_s(self, name: str) -> float:
        """See `Requests.written_s`."""
        self._file(name)
        return self._written_s.get(name, 0.0)

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`."""
        below = f"{prefix}/" if prefix else ""
        return iter([Listed(name, len(body)) for name, body in self.files.items() if name.startswith(below)])

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`."""
        body = bytes(stored)
        with self._lock:
            if self.files.setdefault(name, body) is not body:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self._written_s[name] = self.clock()

    def delete(self, name: str) -> None:
        """See `Requests.delete`."""
        self.files.pop(name, None)

    def begin(self, name: str) -> str:
        """See `Requests.begin`."""
        upload = os.urandom(8).hex()
        self._uploads[upload] = {}
        return upload

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """See `Requests.put_part`."""
        self._parts(upload)[number] = bytes(stored)
        return str(number)

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """See `Requests.finish`."""
        arrived = self._parts(upload)
        self.put_new(name, b"".join(arrived[int(part)] for part in parts))
        del self._uploads[upload]

    def abandon(self, name: str, upload: str) -> None:
        """See `Requests.abandon`."""
        self._uploads.pop(upload, None)

    def _file(self, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None

    def _parts(self, upload: str) -> dict[int, bytes]:
        try:
            return self._uploads[upload]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), upload) from None


class FaultyRequests:
    """A place in which chosen operations go wrong. They are numbered from 0, whichever thread they come from."""

    def __init__(self, inner: Requests, faults: Mapping[int, Fault] | None = None) -> None:
        self.operations: list[str] = []
        """What was asked, in order: `get packs/….pack`."""
        self._inner = inner
        self._faults = dict(faults or {})
        self._is_dead = False
        self._lock = threading.Lock()
        self._latest: dict[str, None] = {}
        self._delayed: list[tuple[int, Callable[[], object]]] = []

    def fail(self, number: int, fault: Fault) -> None:
        """Let one more operation go wrong."""
        self._faults[number] = fault

    def settle(self) -> None:
        """Let everything arrive that is on its way."""
        self._arrive(len(self.operations) + _DELAY)

    def _arrive(self, number: int) -> None:
        due = [act for at, act in self._delayed if at <= number]
        self._delayed = [(at, act) for at, act in self._delayed if at > number]
        for act in due:
            try:
                act()
            except (FileExistsError, FileNotFoundError):
                pass  # the answer comes to nobody

    @property
    def part_bytes(self) -> int:
        """See `Requests.part_bytes`."""
        return self._inner.part_bytes

    @part_bytes.setter
    def part_bytes(self, part_bytes: int) -> None:
        self._inner.part_bytes = part_bytes

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`."""
        fault, stored = self._done("get", name, lambda: self._inner.get(name, start, stop))
        if fault is Fault.TRUNCATED:
            return stored[: len(stored) // 2]
        if fault is Fault.WRONG_RANGE:
            other = self._inner.get(name, start + 1, stop + 1)
            return other + stored[len(other) :]
        return stored

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        return self._done("size", name, lambda: self._inner.size(name))[1]

    def written_s(self, name: str) -> float:
        """See `Requests.written_s`."""
        return self._done("written_s", name, lambda: self._inner.written_s(name))[1]

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`."""
        fault, listed = self._done("list", prefix, lambda: [*self._inner.list(prefix)])
        stale = list(self._latest)[-2:] if fault is Fault.STALE_LISTING else []
        return iter([found for found in listed if found.name not in stale])

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`."""
        self._latest[name] = None
        self._done("put_new", name, lambda: self._inner.put_new(name, stored))

    def delete(self, name: str) -> None:
        """See `Requests.delete`."""
        self._done("delete", name, lambda: self._inner.delete(name))

    def begin(self, name: str) -> str:
        """See `Requests.begin`."""
        return self._done("begin", name, lambda: self._inner.begin(name))[1]

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """See `Requests.put_part`."""
        return self._done("put_part", name, lambda: self._inner.put_part(name, upload, number, offset, stored))[1]

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """See `Requests.finish`."""
        self._latest[name] = None
        self._done("finish", name, lambda: self._inner.finish(name, upload, parts))

    def abandon(self, name: str, upload: str) -> None:
        """See `Requests.abandon`."""
        self._done("abandon", name, lambda: self._inner.abandon(name, upload))

    def _done(self, verb: str, name: str, act: Callable[[], T]) -> tuple[Fault | None, T]:
        """Number an operation and do it, as far as its fault lets it be done."""
        with self._lock:
            number = len(self.operations)
            fault = self._faults.get(number)
            self.operations.append(f"{verb} {name}")
            self._is_dead = self._is_dead or fault is Fault.DEAD
            self._arrive(number)
            if fault is Fault.DELAYED:
                self._delayed.append((number + _DELAY, act))
        if self._is_dead or fault in (Fault.REQUEST_LOST, Fault.SERVER_ERROR, Fault.DELAYED, Fault.CONFLICT):
            raise PassingError(errno.EIO, "an injected fault: nothing was done", name)
        if fault is Fault.REFUSED:
            raise BackendError(errno.EACCES, "an injected fault: refused", name)
        result = act()
        if fault is Fault.DUPLICATED:
            try:
                act()
            except (FileExistsError, FileNotFoundError):
                pass  # the answer to the second one comes to nobody
        if fault is Fault.DONE_BUT_REFUSED and verb in ("put_new", "finish"):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        if fault is Fault.RESPONSE_LOST:
            raise PassingError(errno.EIO, "an injected fault: the answer was lost", name)
        return fault, result


class FaultyBackend:
    """A backend of which the call with a chosen number fails as the system lets calls fail. See `Backend`."""

    def __init__(
        self,
        inner: Backend,
        fails_at: int | None = None,
        number: int = errno.ENOSPC,
        dies: bool = False,
        unreadable: Container[str] = (),
    ) -> None:
        """Wrap a backend.

        Args:
            inner: what does the work.
            fails_at: number of the call that fails, from 0; None for none.
            number: the `errno` it fails with.
            dies: whether nothing is done from that call on, as if the process had been killed in it: a write in
                which that happens is done in part.
            unreadable: names of files that are listed, and never given: to open them fails with `EACCES` if that is
                `number`; else it is reading that fails, with `number`, as of a disk with bad blocks.
        """
        self.operations: list[str] = []
        """What was asked, in order."""
        self.url = inner.url
        self.is_remote = inner.is_remote
        self._inner = inner
        self._fails_at = fails_at
        self._errno = number
        self._dies = dies
        self._unreadable = unreadable

    @property
    def is_dead(self) -> bool:
        """Whether the process that uses this was killed."""
        return self._dies and self._fails_at is not None and len(self.operations) > self._fails_at

    def count(self, verb: str, name: str) -> None:
        """Number a call, and fail if it is its turn."""
        self.operations.append(f"{verb} {name}")
        if len(self.operations) - 1 == self._fails_at or self.is_dead:
            raise self._refusal(verb in _READING, name)

    def give(self, name: str, is_opened: bool = False) -> None:
        """Fail if a file is one that cannot be read; or, where it is only opened, that may not be."""
        if name in self._unreadable and (not is_opened or self._errno == errno.EACCES):
            raise self._refusal(True, name)

    def _refusal(self, is_read: bool, name: str) -> BackendError:
        """Return what a place of this kind answers; see `Backend`."""
        is_of_one = is_read and not self.is_remote and self._errno in OF_ONE_FILE
        kind = FileUnreadableError if is_of_one else BackendError
        return kind(self._errno, os.strerror(self._errno), name)

    def read(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        """See `Backend.read`."""
        self.count("read", name)
        self.give(name)
        return self._inner.read(name, offset, nbytes)

    def open(self, name: str) -> Reader:
        """See `Backend.open`."""
        self.count("open", name)
        self.give(name, is_opened=True)
        return _FaultyReader(self, self._inner.open(name), name) if self._unreadable else self._inner.open(name)

    def view(self, name: str) -> memoryview:
        """See `Backend.view`."""
        self.count("view", name)
        self.give(name)
        return self._inner.view(name)

    def size(self, name: str) -> int:
        """See `Backend.size`."""
        self.count("size", name)
        return self._inner.size(name)

    def written_s(self, name: str) -> float:
        """See `Backend.written_s`."""
        self.count("written_s", name)
        return self._inner.written_s(name)

    def expect(self, ranges: Iterable[Range]) -> None:
        """See `Backend.expect`."""
        self._inner.expect(ranges)

    def expect_list(self, prefix: str) -> None:
        """See `Backend.expect_list`."""
        self._inner.expect_list(prefix)

    def list(self, prefix: str) -> Iterator[str]:
        """See `Backend.list`."""
        self.count("list", prefix)
        return self._inner.list(prefix)

    def create(self, name: str, stored: Buffer, durable: bool = True) -> None:
        """See `Backend.create`."""
        self.count("create", name)
        self._inner.create(name, stored, durable)

    def look_before_creating(self) -> None:
        """See `Backend.look_before_creating`."""
        self._inner.look_before_creating()

    def delete(self, name: str) -> None:
        """See `Backend.delete`."""
        self.count("delete", name)
        self._inner.delete(name)

    def move(self, name: str, new_name: str) -> None:
        """See `Backend.move`."""
        self.count("move", name)
        self._inner.move(name, new_name)

    def delete_litter(self, age_s: float) -> int:
        """See `Backend.delete_litter`."""
        self.count("delete_litter", "")
        return self._inner.delete_litter(age_s)

    def appender(self, name: str) -> Appender:
        """See `Backend.appender`."""
        self.count("appender", name)
        return _FaultyAppender(self, self._inner.appender(name))

    def reopen(self, name: str) -> Appender:
        """See `Backend.reopen`."""
        self.count("reopen", name)
        return _FaultyAppender(self, self._inner.reopen(name))

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """See `Backend.try_lock`."""
        self.count("try_lock", name)
        return self._inner.try_lock(name)


class _FaultyReader:
    def __init__(self, backend: FaultyBackend, inner: Reader, name: str) -> None:
        self._backend = backend
        self._inner = inner
        self._name = name

    def size(self) -> int:
        return self._inner.size()

    def read_into(self, offset: int, out: memoryview) -> int:
        self._backend.give(self._name)
        return self._inner.read_into(offset, out)


class _FaultyAppender:
    def __init__(self, backend: FaultyBackend, inner: Appender) -> None:
        self.name = inner.name
        self._backend = backend
        self._inner = inner

    def size(self) -> int:
        return self._inner.size()

    def write(self, *parts: Buffer) -> None:
        was_dead = self._backend.is_dead
        try:
            self._backend.count("write", self.name)
        except BackendError:
            if self._backend.is_dead and not was_dead:
                whole = b"".join(parts)
                self._inner.write(whole[: len(whole) * 2 // 3])
            raise
        self._inner.write(*parts)

    def truncate(self, keep_bytes: int) -> None:
        self._backend.count("truncate", self.name)
        self._inner.truncate(keep_bytes)

    def sync(self) -> None:
        self._backend.count("sync", self.name)
        self._inner.sync()

    def seal(self, name: str) -> None:
        self._backend.count("seal", name)
        self._inner.seal(name)

    def close(self) -> None:
        if not self._backend.is_dead:
            self._inner.close()

    def discard(self) -> None:
        if not self._backend.is_dead:
            self._inner.discard()
