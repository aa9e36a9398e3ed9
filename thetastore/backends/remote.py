"""A store far away, made of single requests (`thetastore.backends.requests`).

What is done here is done for every kind of place: requests that may succeed later are tried again, after a time that
grows and is left to chance; answers are compared with the length that was asked for; files longer than a request go in
parts; ranges that were announced come together. A bounded number of requests is under way at once, and they hold a
bounded number of bytes.

When an answer is lost nobody knows whether the request had its effect. Reading and deleting are repeated without harm.
Creating is not: "it is there already" may mean that the first try came through. So after a lost answer, and only then,
the file is read back: if it is what was to be written, it was written.
"""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from thetastore.backends import Range, check_name
from thetastore.backends.lease import Lease
from thetastore.backends.ranges import MAX_BLOCK_BYTES, Held
from thetastore.backends.requests import NO_BUCKET, Listed, PassingError, Requests
from thetastore.backends.spool import Spool
from thetastore.digest import Buffer
from thetastore.errors import BackendError, MalformedError
from thetastore.pool import Pool, briefly

if TYPE_CHECKING:
    from concurrent.futures import Future

    from thetastore.backends import Appender, Reader

T = TypeVar("T")

MOST_TRIES = 6
_FIRST_TRIES = 3
"""Of a place that has not answered yet: without a network, whoever waits is told after a second or two."""
_SILENT_TRIES = 3
"""Of what took too long: minutes each."""
_FIRST_PAUSE_S = 0.4
_LONGEST_PAUSE_S = 20.0
"""The tries of one request are spread over some 12 seconds: as long as a server takes to restart."""
PARALLEL_REQUESTS = 16
"""2 % of a model may lie in a dozen places; with 8 at once these would take two round trips' time."""
_KEPT_BYTES = 8 << 20
_LONGEST_KEPT_BYTES = 256 << 10
"""Short reads are remembered: manifests are read by each step of a fetch, and files never change."""
_UNKNOWN_READ_BYTES = MAX_BLOCK_BYTES

_READ, _LIST, _WRITE, _DELETE = "read files", "list files", "write files", "delete files"
"""What a place may allow or not; docs/remotes.md says who needs which."""


class RemoteBackend:
    """See `Backend`."""

    is_remote = True

    def __init__(
        self,
        requests: Requests,
        url: str,
        pause: Callable[[float], None] = time.sleep,
        pool: Callable[[], Pool] = lambda: Pool(PARALLEL_REQUESTS),
    ) -> None:
        """Use a place.

        Args:
            requests: the place.
            url: for messages, without secrets.
            pause: waits so many seconds before a request is tried again.
            pool: makes what does several requests at once.
        """
        self.url = url
        self.requests = requests
        self._looks_before_creating = False
        self._was_reached = False
        self._pause = pause
        self._new_pool = pool
        self._pool = pool()
        self._spools: dict[str, Spool] = {}
        self._sizes: dict[str, int] = {}
        self._kept: OrderedDict[Range, bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._held = Held(lambda wanted: self._pool.start(self._fetch_expected, wanted))
        self._listed: dict[str, Future[Sequence[Listed]]] = {}

    def read(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        """See `Backend.read`."""
        check_name(name)
        if name in self._spools:
            out = memoryview(bytearray(max(0, self._spools[name].size() - offset)))
            return bytes(out[: self._spools[name].read_into(offset, out)][:nbytes])
        if nbytes is not None and 0 < nbytes <= _UNKNOWN_READ_BYTES:
            nbytes = self._there(name, offset, nbytes)
            if not nbytes:
                return b""
            found = self._held.find(name, offset, offset + nbytes)
            return bytes(found) if found is not None else self._get(name, offset, offset + nbytes)
        out = self._room(max(0, min(self.size(name) - offset, (1 << 62) if nbytes is None else nbytes)), name)
        self.fill(name, offset, out)
        return bytes(out)

    def open(self, name: str) -> Reader:
        """See `Backend.open`: no request, so whether it is there turns out when it is read."""
        check_name(name)
        return self._spools[name] if name in self._spools else _File(self, name)

    def view(self, name: str) -> memoryview:
        """See `Backend.view`: all of it, in memory."""
        out = self._room(self.known_size(name), name)
        self.fill(name, 0, out)
        return out.toreadonly()

    def size(self, name: str) -> int:
        """See `Backend.size`."""
        check_name(name)
        if name in self._spools:
            return self._spools[name].size()
        self._sizes[name] = size = self._patiently(_READ, lambda: self.requests.size(name))
        return size

    def written_s(self, name: str) -> float:
        """See `Backend.written_s`."""
        check_name(name)
        return self._patiently(_READ, lambda: self.requests.written_s(name))

    def expect(self, ranges: Iterable[Range]) -> None:
        """See `Backend.expect`."""
        cut = (Range(name, offset, self._there(name, offset, nbytes)) for name, offset, nbytes in ranges)
        self._held.expect(wanted for wanted in cut if wanted.nbytes)

    def _there(self, name: str, offset: int, nbytes: int) -> int:
        """Return how many of these bytes a file has, as far as its length is known."""
        return max(0, min(nbytes, self._sizes.get(name, 1 << 62) - offset))

    def expect_list(self, prefix: str) -> None:
        """See `Backend.expect_list`."""
        check_name(prefix)
        self._listed[prefix] = self._pool.start(self._list, prefix)

    def list(self, prefix: str) -> Iterator[str]:
        """See `Backend.list`. A place may list what is no name of ours: that is left out."""
        if prefix:
            check_name(prefix)
        below = f"{prefix}/" if prefix else ""
        names = []
        begun = self._listed.pop(prefix, None)
        for name, file_bytes in self._list(prefix) if begun is None else begun.result():
            if not name.startswith(below):
                continue
            try:
                check_name(name)
            except MalformedError:
                continue
            if file_bytes is not None:
                self._sizes[name] = file_bytes
            names.append(name)
        return iter(names)

    def create(self, name: str, stored: Buffer, durable: bool = True) -> None:
        """See `Backend.create`: always durable."""
        check_name(name)
        for prefix in [prefix for prefix in self._listed if name.startswith(f"{prefix}/")]:
            self._listed.pop(prefix, None)  # it may lack this one
        view = memoryview(stored).cast("B")
        if self._looks_before_creating and self._is_there(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        part_bytes = self.requests.part_bytes
        if part_bytes and view.nbytes > part_bytes:
            self.create_in_parts(name, view, part_bytes)
        else:
            self._create(name, view, lambda: self.requests.put_new(name, view))

    def create_in_parts(self, name: str, view: memoryview, part_bytes: int) -> None:
        """Create a file by parts of a length that the place takes. Raises as `create` does."""
        upload = self._patiently(_WRITE, lambda: self.requests.begin(name))

        def put(number: int) -> str:
            offset = number * part_bytes
            part = view[offset : offset + part_bytes]
            return self._patiently(_WRITE, lambda: self.requests.put_part(name, upload, number, offset, part))

        try:
            with self._pool_for_this_call() as pool:
                pool.window = 4  # parts are held in memory while they are sent
                parts = list(pool.map_bounded(put, range(-(-view.nbytes // part_bytes)), lambda _: False))
            self._create(name, view, lambda: self.requests.finish(name, upload, parts))
        except BaseException:
            briefly(lambda: self.requests.abandon(name, upload))  # or it is litter: what is wrong is on its way already
            raise

    def look_before_creating(self) -> None:
        """See `Backend.look_before_creating`."""
        self._looks_before_creating = True

    def move(self, name: str, new_name: str) -> None:
        """See `Backend.move`: what is copied is held in memory, and packs of far stores are short."""
        self.create(new_name, self.view(name))
        self.delete(name)

    def delete_litter(self, age_s: float) -> int:
        """See `Backend.delete_litter`: uploads that were broken off are the place's own business."""
        return 0

    def delete(self, name: str) -> None:
        """See `Backend.delete`."""
        check_name(name)
        self._sizes.pop(name, None)
        try:
            self._patiently(_DELETE, lambda: self.requests.delete(name))
        except FileNotFoundError:  # nor is what it would lie in
            pass

    def appender(self, name: str) -> Appender:
        """See `Backend.appender`."""
        check_name(name)
        if name in self._spools:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._spools[name] = spool = Spool(name, self.create, lambda name: self._spools.__delitem__(name))
        return spool

    def reopen(self, name: str) -> Appender:
        """See `Backend.reopen`: what a dead process had in the making is gone."""
        check_name(name)
        if name in self._spools:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), name)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def try_lock(self, name: str) -> Lease:
        """See `Backend.try_lock`."""
        check_name(name)
        return Lease(self, name)

    def fill(self, name: str, offset: int, out: memoryview) -> None:
        """Fill `out` from a file that has so many bytes, by as many requests as it takes, several at once.

        Raises:
            FileNotFoundError: it is gone.
            BackendError: it cannot be read, or is shorter.
        """
        if self._held.take(name, offset, out):
            return
        starts = range(0, out.nbytes, MAX_BLOCK_BYTES)
        if len(starts) == 1:
            out[:] = self._fetch(Range(name, offset, out.nbytes))
            return
        with self._pool_for_this_call() as pool:
            wanted = (Range(name, offset + at, min(MAX_BLOCK_BYTES, out.nbytes - at)) for at in starts)
            for at, stored in zip(starts, pool.map_bounded(self._fetch, wanted, lambda _: False), strict=True):
                out[at : at + len(stored)] = stored

    def fill_as_far_as_it_goes(self, name: str, offset: int, out: memoryview) -> int:
        """Fill `out` from a file that may end before; return how many bytes were there.

        Raises as `fill` does.
        """
        wanted = out[: max(0, self._sizes.get(name, 1 << 62) - offset)]
        if not wanted.nbytes:
            return 0
        try:
            self._fill_remembering(name, offset, wanted)
        except _TooShortError:  # it ends there, or the answer was cut off
            self.size(name)
            return self.fill_as_far_as_it_goes(name, offset, out)
        return wanted.nbytes

    def _fill_remembering(self, name: str, offset: int, out: memoryview) -> None:
        if out.nbytes <= _LONGEST_KEPT_BYTES:
            out[:] = self._kept_range(Range(name, offset, out.nbytes))
        else:
            self.fill(name, offset, out)

    def _kept_range(self, wanted: Range) -> bytes:
        """Return a short range of a file, remembered if it was read lately. Raises as `fill` does."""
        with self._lock:
            if wanted in self._kept:
                self._kept.move_to_end(wanted)
                return self._kept[wanted]
        out = bytearray(wanted.nbytes)
        self.fill(wanted.name, wanted.offset, memoryview(out))
        stored = bytes(out)
        with self._lock:
            self._kept_bytes += len(stored) if wanted not in self._kept else 0
            self._kept[wanted] = stored
            while self._kept_bytes > _KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return stored

    def _room(self, nbytes: int, name: str) -> memoryview:
        """Return memory for a file that is as long as the place says; it is not touched before bytes come."""
        try:
            return memoryview(bytearray(nbytes))
        except (MemoryError, OverflowError):
            raise BackendError(errno.EFBIG, f"it is said to have {nbytes} bytes", f"{self.url}/{name}") from None

    def _pool_for_this_call(self) -> Pool:
        return self._new_pool()  # the other one's order of work is `expect`'s

    def _fetch(self, wanted: Range) -> bytes:
        """Return exactly the bytes of a range."""
        is_known = wanted.name in self._sizes
        stored = self._get(wanted.name, wanted.offset, wanted.offset + wanted.nbytes, is_exact=is_known)
        if len(stored) != wanted.nbytes:
            raise _TooShortError
        return stored

    def _fetch_expected(self, wanted: Range) -> bytes:
        """Return the bytes of a range that somebody announced; fewer where a file of unknown length ends before."""
        is_known = wanted.name in self._sizes
        return self._get(wanted.name, wanted.offset, wanted.offset + wanted.nbytes, is_exact=is_known)

    def _list(self, prefix: str) -> Sequence[Listed]:
        return self._patiently(_LIST, lambda: list(self.requests.list(prefix)))

    def _get(self, name: str, start: int, stop: int, is_exact: bool = False) -> bytes:
        def get() -> bytes:
            stored = self.requests.get(name, start, stop)
            if len(stored) > stop - start:
                raise BackendError(
                    errno.EPROTO,
                    f"{len(stored)} bytes came where {stop - start} were asked for: does the server know ranges?",
                    f"{self.url}/{name}",
                )
            if is_exact and len(stored) < stop - start:
                raise PassingError(errno.EIO, f"only {len(stored)} of {stop - start} bytes came", f"{self.url}/{name}")
            return stored

        return self._patiently(_READ, get)

    def _create(self, name: str, view: memoryview, act: Callable[[], None]) -> None:
        """Write a file; after a lost answer, find out whether it was this one that is there."""
        was_lost = False

        def once() -> None:
            nonlocal was_lost
            try:
                act()
            except PassingError:
                was_lost = True
                raise
            except (FileExistsError, FileNotFoundError):  # not there: an upload that was finished
                if was_lost and self._holds(name, view):
                    return
                raise

        try:
            self._patiently(_WRITE, once)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        except FileNotFoundError:
            raise BackendError(errno.ENOENT, NO_BUCKET, self.url) from None
        self._sizes[name] = view.nbytes

    def _holds(self, name: str, view: memoryview) -> bool:
        """Tell whether a file has exactly these bytes."""
        try:
            if self.size(name) != view.nbytes:
                return False
            for start in range(0, view.nbytes, MAX_BLOCK_BYTES):
                stop = min(start + MAX_BLOCK_BYTES, view.nbytes)
                if self._fetch(Range(name, start, stop - start)) != view[start:stop]:
                    return False
        except FileNotFoundError:
            return False
        return True

    def _is_there(self, name: str) -> bool:
        try:
            self.size(name)
            return True
        except FileNotFoundError:
            return False

    def known_size(self, name: str) -> int:
        """Return the length of a file: without a request, if a listing told it."""
        known = self._sizes.get(name)
        return self.size(name) if known is None else known

    def _patiently(self, right: str, act: Callable[[], T]) -> T:
        """Do a request until it is done, for which a `right` is needed; see `MOST_TRIES`."""
        for tried in range(MOST_TRIES):
            try:
                result = act()
            except PassingError as error:
                if tried + 1 >= self._most_tries(error):
                    raise
            except (FileNotFoundError, FileExistsError):
                self._was_reached = True
                raise
            except BackendError as error:
                if error.errno != errno.EACCES:
                    raise
                words = f"we may not {right} there: {error.strerror}"
                raise BackendError(errno.EACCES, words, self.url) from error
            else:
                self._was_reached = True
                return result
            longest_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**tried)
            self._pause(random.uniform(longest_s / 2, longest_s))
        raise AssertionError("the last try returns or raises")

    def _most_tries(self, error: PassingError) -> int:
        """Return how often to try what failed so; less where each try takes as long as may be."""
        if error.errno == errno.ETIMEDOUT:
            return _SILENT_TRIES if self._was_reached else 1
        return MOST_TRIES if self._was_reached else _FIRST_TRIES


class _TooShortError(Exception):
    """A file of unknown length ended before the range that was asked for did."""


class _File:
    """See `Reader`."""

    def __init__(self, backend: RemoteBackend, name: str) -> None:
        self._backend = backend
        self._name = name

    def size(self) -> int:
        return self._backend.known_size(self._name)

    def read_into(self, offset: int, out: memoryview) -> int:
        return self._backend.fill_as_far_as_it_goes(self._name, offset, out.cast("B"))
