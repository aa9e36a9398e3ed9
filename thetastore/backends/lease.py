"""A lock where only create-if-absent is to be had: numbered files, of which the highest counts.

`<name>/<n>` is held, until `<name>/<n>.free` is there as well or it is older than `LEASE_S`: a dead holder's lock is
free again after a day. Numbers only rise, and the highest is never
deleted; whoever has created one lists again, and has the lock only if none is higher. So of two that find the same
lock free, or old, one wins, and a late one cannot take a number that was there before.

The clock is the place's own, where it tells the time of its files: one of a machine that is wrong by weeks would take
a lock from under a living holder. Where it does not, it is the clock of whoever takes the lock.
"""

from __future__ import annotations

import errno
import os
import time
from types import TracebackType
from typing import TYPE_CHECKING

from thetastore.backends.clock import now_s
from thetastore.errors import BackendError

if TYPE_CHECKING:
    from thetastore.backends import Backend

LEASE_S = 24 * 3600
"""Two at once only do things twice, and lose nothing: `tests/collect/test_exploring.py`."""
_DIGITS = frozenset("0123456789")


class Lease:
    """See `Backend.try_lock`."""

    def __init__(self, backend: Backend, name: str) -> None:
        self._backend = backend
        self._name = name
        self._held: str | None = None

    def __enter__(self) -> bool:
        latest, is_free = self._latest()
        if not is_free:
            return False
        mine = f"{self._name}/{latest + 1:012d}"
        text = f"{time.time_ns() // 1_000_000_000}\n{os.urandom(16).hex()}\n".encode()
        try:
            self._backend.create(mine, text)
        except FileExistsError:
            # Somebody else's; or ours, if somebody on the way has repeated the request.
            if not self._is_there(mine, text):
                return False
        try:
            if self._latest()[0] > latest + 1:  # a late listing may not have ours
                return False
            self._delete_older(latest + 1)
        except BaseException:
            self._let_go(mine)  # else nobody would hold it, and nobody get it for a day
            raise
        self._held = mine
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._held is not None:
            self._let_go(self._held)

    def _is_there(self, name: str, text: bytes) -> bool:
        try:
            return self._backend.read(name, 0, len(text) + 1) == text
        except FileNotFoundError:
            return False

    def _let_go(self, held: str) -> None:
        """Free a lock; where that cannot be said, it is free in a day, and what was done under it is done."""
        try:
            self._backend.create(f"{held}.free", b"")
        except (FileExistsError, BackendError):
            pass

    def _latest(self) -> tuple[int, bool]:
        """Return the highest number (0 for none), and whether its lock can be had."""
        names = {name.rpartition("/")[2] for name in self._backend.list(self._name)}
        latest = max((name for name in names if len(name) == 12 and _DIGITS.issuperset(name)), default="0")
        is_free = latest == "0" or f"{latest}.free" in names or self._is_old(f"{self._name}/{latest}")
        return int(latest), is_free

    def _is_old(self, name: str) -> bool:
        try:
            return self._age_s(name) > LEASE_S
        except (FileNotFoundError, ValueError):
            return False

    def _age_s(self, name: str) -> float:
        try:
            return now_s(self._backend) - self._backend.written_s(name)
        except BackendError as error:
            if error.errno != errno.ENOTSUP:
                raise
            return time.time_ns() // 1_000_000_000 - int(self._backend.read(name, 0, 20).partition(b"\n")[0])

    def _delete_older(self, number: int) -> None:
        for name in list(self._backend.list(self._name)):
            last = name.rpartition("/")[2].removesuffix(".free")
            if len(last) == 12 and _DIGITS.issuperset(last) and int(last) < number:
                self._backend.delete(name)
