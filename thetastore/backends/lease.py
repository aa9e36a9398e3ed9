"""A lock where only create-if-absent is to be had: numbered files, of which the highest counts.

`<name>/<n>` is held, until `<name>/<n>.free` is there as well or it is older than `LEASE_S`: a dead holder's lock is
free again after a week, the grace that deletions in a bucket have, too. Numbers only rise, and the highest is never
deleted; whoever has created one lists again, and has the lock only if none is higher. So of two that find the same
lock free, or old, one wins, and a late one cannot take a number that was there before.

The clock is the one of whoever takes the lock; an hour more or less does not matter.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thetastore.backends import Backend

LEASE_S = 7 * 24 * 3600
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
        try:
            self._backend.create(mine, f"{time.time_ns() // 1_000_000_000}\n".encode())
        except FileExistsError:
            return False
        if self._latest()[0] != latest + 1:
            return False
        self._held = mine
        self._delete_older(latest + 1)
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._held is not None:
            self._backend.create(f"{self._held}.free", b"")

    def _latest(self) -> tuple[int, bool]:
        """Return the highest number (0 for none), and whether its lock can be had."""
        names = {name.rpartition("/")[2] for name in self._backend.list(self._name)}
        latest = max((name for name in names if len(name) == 12 and _DIGITS.issuperset(name)), default="0")
        is_free = latest == "0" or f"{latest}.free" in names or self._is_old(f"{self._name}/{latest}")
        return int(latest), is_free

    def _is_old(self, name: str) -> bool:
        try:
            since_s = int(self._backend.read(name, 0, 20))
        except (FileNotFoundError, ValueError):
            return False
        return time.time_ns() // 1_000_000_000 - since_s > LEASE_S

    def _delete_older(self, number: int) -> None:
        for name in list(self._backend.list(self._name)):
            last = name.rpartition("/")[2].removesuffix(".free")
            if len(last) == 12 and _DIGITS.issuperset(last) and int(last) < number:
                self._backend.delete(name)
