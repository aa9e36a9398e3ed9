"""Which runs of a table to merge, so that there are few of them and each row is copied about log(n) times in all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Counted(Protocol):
    """A run, of whatever."""

    @property
    def count(self) -> int:
        """How many rows it has."""


Run = TypeVar("Run", bound=Counted)


def of_one_size(runs: Iterable[Run], count: int = 0, least: int = 1, most: int | None = None) -> list[Run]:
    """Return the smallest runs, as long as the next one is no larger than twice all before it.

    Args:
        runs: in any order.
        count: rows that are merged anyway.
        least: how many runs are taken whatever their sizes.
        most: how many rows there may be in all.
    """
    chosen: list[Run] = []
    for run in sorted(runs, key=lambda run: run.count):
        is_larger = count > 0 and len(chosen) >= least and run.count > 2 * count
        if is_larger or (most is not None and count + run.count > most):
            break
        chosen.append(run)
        count += run.count
    return chosen
