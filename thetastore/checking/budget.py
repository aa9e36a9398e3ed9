"""How much of a check is done now, and where the last one stopped.

A round goes through the packs by age. Where it stopped is an empty file, `checks/<level>/<id>`: all packs up to this id
were looked at in the round under way. New packs have higher ids, and so do those that others are merged into, so a
round meets every record at least once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.errors import BackendError, MalformedError
from thetastore.packs.catalog import id_of

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
_SECONDS = {"s": 1, "min": 60, "h": 3600}


class Budget(NamedTuple):
    """What a check may take; None for no limit."""

    nbytes: int | None = None
    seconds: float | None = None


def parse_budget(text: str) -> Budget:
    """Return what a text like `10GB/10min`, `500MiB` or `2h` allows.

    Raises:
        MalformedError: it is none of these.
    """
    found: dict[str, float] = {}
    for part in text.split("/"):
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(?:([KMGT]?i?)B|(s|min|h))", part.strip())
        name = "seconds" if match is not None and match[3] else "nbytes"
        unit = 0.0 if match is None else _SECONDS[match[3]] if match[3] else _UNITS.get(match[2].upper(), 0)
        if match is None or not unit * float(match[1]) or name in found:
            raise MalformedError(f"'{text}' is no budget, expected something like 10GB/10min, 500MB or 2h")
        found[name] = float(match[1]) * unit
    return Budget(int(found["nbytes"]) if "nbytes" in found else None, found.get("seconds"))


class Spending:
    """One budget as it is spent. What is begun is finished, so at least one pack is always looked at."""

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._started = clock()
        self._spent_bytes = 0

    def allows(self, nbytes: int) -> bool:
        """Tell whether a pack may be begun, and count it."""
        is_first = not self._spent_bytes
        self._spent_bytes += max(nbytes, 1)
        if is_first:
            return True
        if self._budget.nbytes is not None and self._spent_bytes > self._budget.nbytes:
            return False
        return self._budget.seconds is None or self._clock() - self._started < self._budget.seconds


class Cursor:
    """Where the last check of a level stopped."""

    def __init__(self, backend: Backend, level_name: str) -> None:
        self._backend = backend
        self._directory = f"checks/{level_name}"
        self._names = [name for name in backend.list(self._directory) if _is_id(name.rpartition("/")[2])]

    def is_behind(self, pack_name: str) -> bool:
        """Tell whether a pack was looked at in the round under way."""
        return any(id_of(pack_name) <= name.rpartition("/")[2] for name in self._names)

    def move_to(self, pack_name: str | None) -> bool:
        """Remember that all packs up to one were looked at; None at the end of a round.

        Returns:
            Whether it is remembered: not where the store cannot be written to.
        """
        old = self._names
        try:
            if pack_name is not None:
                name = f"{self._directory}/{id_of(pack_name)}"
                self._names = [name]
                if name not in old:
                    self._backend.create(name, b"", durable=False)
            else:
                self._names = []
            for name in old:
                if name not in self._names:
                    self._backend.delete(name)
        except FileExistsError:
            pass  # by another check, at the same time
        except BackendError:
            return False
        return True


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None
