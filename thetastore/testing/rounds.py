"""Round trips counted: a place that tells which requests had to wait for the answers to others.

Whoever is far from a bucket waits for as many round trips as there are requests of which each could only be made when
the one before it was answered; how many go at once does not matter. `Rounds` stands between a `RemoteBackend` and a
place. What the backend begins without waiting is held back until somebody waits for an answer; all that was begun by
then, and the request that is waited for, are one round. So nothing depends on time, and requests that happen to be made
one after the other by different threads are counted as if they had waited: the count is never too low.

    rounds = Rounds(MemoryRequests(files))
    with Store.at(rounds.backend(), expected=[digest]) as store:
        ...
    assert rounds.count <= 2
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeVar

from thetastore.backends.remote import RemoteBackend
from thetastore.backends.requests import Listed, Requests
from thetastore.digest import Buffer
from thetastore.pool import Pool

T = TypeVar("T")
R = TypeVar("R")


class Asked(NamedTuple):
    """One request."""

    round: int
    """From 1."""
    verb: str
    """`get`, `size`, `list`, `put_new`, ..."""
    name: str
    nbytes: int
    """Of the answer to a `get`, or of what was written."""


class Rounds:
    """A place whose requests are numbered by rounds. See `Requests`."""

    def __init__(self, inner: Requests) -> None:
        self.asked: list[Asked] = []
        """All requests, in the order in which they were answered."""
        self.count = 0
        """Rounds so far."""
        self.part_bytes = inner.part_bytes
        """See `Requests.part_bytes`."""
        self._inner = inner
        self._begun: list[Callable[[], None]] = []
        self._is_in_round = False
        self._lock = threading.RLock()

    def backend(self, url: str = "test://bucket") -> RemoteBackend:
        """Return a backend over this place."""
        return RemoteBackend(self, url, pause=lambda seconds: None, pool=lambda: _Deferring(self))

    def restart(self) -> None:
        """Count from nothing again."""
        self.asked.clear()
        self.count = 0

    @property
    def get_bytes(self) -> int:
        """Bytes that were read."""
        return sum(one.nbytes for one in self.asked if one.verb == "get")

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`."""
        return self._counted("get", name, lambda: self._inner.get(name, start, stop), len)

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        return self._counted("size", name, lambda: self._inner.size(name))

    def written_s(self, name: str) -> float:
        """See `Requests.written_s`."""
        return self._counted("written_s", name, lambda: self._inner.written_s(name))

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`."""
        return self._counted("list", prefix, lambda: iter([*self._inner.list(prefix)]))

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`."""
        nbytes = memoryview(stored).nbytes
        self._counted("put_new", name, lambda: self._inner.put_new(name, stored), lambda _: nbytes)

    def delete(self, name: str) -> None:
        """See `Requests.delete`."""
        self._counted("delete", name, lambda: self._inner.delete(name))

    def begin(self, name: str) -> str:
        """See `Requests.begin`."""
        return self._counted("begin", name, lambda: self._inner.begin(name))

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """See `Requests.put_part`."""
        return self._counted("put_part", name, lambda: self._inner.put_part(name, upload, number, offset, stored))

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """See `Requests.finish`."""
        self._counted("finish", name, lambda: self._inner.finish(name, upload, parts))

    def abandon(self, name: str, upload: str) -> None:
        """See `Requests.abandon`."""
        self._counted("abandon", name, lambda: self._inner.abandon(name, upload))

    def hold(self, act: Callable[[], None]) -> None:
        """Do something in the next round."""
        with self._lock:
            self._begun.append(act)

    def play(self) -> None:
        """Do all that was held back, as one round."""
        with self._lock:
            if self._begun:
                self._round(lambda: None)

    def _counted(self, verb: str, name: str, act: Callable[[], T], measure: Callable[[T], int] = lambda _: 0) -> T:
        with self._lock:
            return self._round(lambda: self._noted(verb, name, act, measure))

    def _noted(self, verb: str, name: str, act: Callable[[], T], measure: Callable[[T], int]) -> T:
        number = len(self.asked)
        self.asked.append(Asked(self.count, verb, name, 0))
        answer = act()
        self.asked[number] = self.asked[number]._replace(nbytes=measure(answer))
        return answer

    def _round(self, act: Callable[[], T]) -> T:
        """Do what was begun and `act` as one round; or `act` as a part of the round that is being played."""
        if self._is_in_round:
            return act()
        self._is_in_round = True
        self.count += 1
        try:
            begun, self._begun = self._begun, []
            for other in begun:
                other()
            return act()
        finally:
            self._is_in_round = False


class _Deferring(Pool):
    """Does nothing before somebody waits for it."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__(1)
        self._rounds = rounds

    def start(self, function: Callable[[T], R], item: T) -> Future[R]:
        waiting: _Waiting[R] = _Waiting(self._rounds)
        self._rounds.hold(lambda: waiting.settle(lambda: function(item)))
        return waiting


class _Waiting(Future[R]):
    """An answer that comes with the round in which it is waited for."""

    def __init__(self, rounds: Rounds) -> None:
        super().__init__()
        self._rounds = rounds

    def result(self, timeout: float | None = None) -> R:
        if not self.done():
            self._rounds.play()
        return super().result(timeout)

    def settle(self, act: Callable[[], R]) -> None:
        if self.set_running_or_notify_cancel():
            try:
                self.set_result(act())
            except Exception as error:
                self.set_exception(error)
