"""A diff by layers and by kinds of modules: sums over the tensors whose names say that they belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from gitbridge.anatomy import Place, place_of
from gitbridge.diffing import FileDiff
from thetastore.comparing.changes import ADDED, REMOVED, Entry
from thetastore.comparing.comparison import Measured


class Group(NamedTuple):
    """What changed in a layer, or in all modules of one name."""

    label: str
    tensor_count: int
    changed_count: int
    element_count: int
    changed_elements: int
    change_norm: float
    before_norm: float
    """Of what was read of the changed tensors."""
    is_bound: bool
    """Not all of them was read: with the rest, the relative change is less."""

    @property
    def relative(self) -> float | None:
        """Norm of the change over that of what was read; None where nothing was."""
        return self.change_norm / self.before_norm if self.before_norm else None


def by_layer(diff: FileDiff) -> list[Group]:
    """Return the figures of each layer, in the order of the model."""
    return _grouped(diff, lambda place: place.layer or "(no layer)", lambda place: place.layer_order)


def by_module(diff: FileDiff) -> list[Group]:
    """Return the figures of each kind of module."""
    return _grouped(diff, lambda place: place.module, lambda place: (not place.layer, place.module))


def by_place(diff: FileDiff) -> dict[Place, Group]:
    """Return the figures of each module of each layer."""
    rows: dict[Place, list[tuple[Entry, Measured | None]]] = {}
    for entry, measured in _rows(diff):
        rows.setdefault(place_of(entry.name), []).append((entry, measured))
    return {place: _group(place.module, of_place) for place, of_place in rows.items()}


def _grouped(diff: FileDiff, label: Callable[[Place], str], order: Callable[[Place], tuple[Any, ...]]) -> list[Group]:
    rows: dict[str, list[tuple[Entry, Measured | None]]] = {}
    orders: dict[str, tuple[Any, ...]] = {}
    for entry, measured in _rows(diff):
        place = place_of(entry.name)
        rows.setdefault(label(place), []).append((entry, measured))
        orders.setdefault(label(place), order(place))
    return [_group(name, rows[name]) for name in sorted(rows, key=lambda name: orders[name])]


def _rows(diff: FileDiff) -> Iterator[tuple[Entry, Measured | None]]:
    for entry in diff.unchanged:
        yield entry, None
    for measured in diff.changes:
        entry_now = measured.change.after or measured.change.before
        assert entry_now is not None, "a change has a side"
        yield entry_now, measured


def _group(label: str, rows: Sequence[tuple[Entry, Measured | None]]) -> Group:
    changed = [measured for _, measured in rows if measured is not None]
    return Group(
        label,
        len(rows),
        len(changed),
        sum(entry.element_count for entry, _ in rows),
        sum(elements_changed(measured) for measured in changed),
        math.hypot(*(one.moments.change_norm for one in changed if one.moments)),
        math.hypot(*(one.moments.before_norm for one in changed if one.moments)),
        any(one.moments is not None and not one.moments.has_read_all for one in changed),
    )


def elements_changed(measured: Measured) -> int:
    """Return how many elements of a tensor changed; all of one that came or went; 0 where that is not known."""
    change = measured.change
    if change.kind in (ADDED, REMOVED):
        entry = change.after or change.before
        assert entry is not None, "a change has a side"
        return entry.element_count
    return measured.changed if measured.moments else 0
