"""Objects announced before they are read: what lies together comes together, from a store that is far away.

A near store is left alone. From a far one, windows of objects are announced, one while the one before it is worked on,
and with each object the bases that a locator tells. So a read of up to two windows waits for one round trip, and a
longer one makes about as many requests as it has blocks of 8 MiB. Where no locator tells, bases are announced when the
heads that name them have come; where one is out of date, the same window is announced again, from the index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from thetastore.digest import Digest
from thetastore.errors import ThetaError
from thetastore.objects import Objects
from thetastore.packs.whereabouts import ReadsBase

T = TypeVar("T")

WINDOW_OBJECTS = 4096
_STEP_OBJECTS = 32
"""Looked up together."""
WINDOW_BYTES = 24 << 20
"""Two windows are under way at once, and a far backend holds 64 MiB: what a longer one pushed out would come twice."""


def ahead(
    objects: Objects,
    items: Iterable[T],
    digest_of: Callable[[T], Digest | None],
    reads_base: ReadsBase | None = None,
) -> Iterator[T]:
    """Yield items in their order, the objects that they will ask for announced.

    Args:
        objects: where they will be read.
        items: asked for some time before they are yielded.
        digest_of: the object that an item will ask for; None where it will ask for none.
        reads_base: whether a base of what is asked for will be read, too; None: each will.
    """
    if not objects.backend.is_remote:
        yield from items
        return
    windows = _Windows(objects, items, digest_of, reads_base)
    window = windows.announced()
    while window:
        later = windows.announced()
        digests, next_digests = ([one for one in map(digest_of, some) if one is not None] for some in (window, later))
        if not objects.whereabouts.are_as_expected(digests):
            objects.whereabouts.expect([*digests, *next_digests], reads_base)
        _announce_bases(objects, digests, reads_base)
        yield from window
        window = later


class _Windows(Generic[T]):
    """Items, cut into windows of which a far backend holds two."""

    def __init__(
        self,
        objects: Objects,
        items: Iterable[T],
        digest_of: Callable[[T], Digest | None],
        reads_base: ReadsBase | None,
    ) -> None:
        self._whereabouts = objects.whereabouts
        self._rest = iter(items)
        self._digest_of = digest_of
        self._reads_base = reads_base
        self._looked_up: deque[T] = deque()

    def announced(self) -> list[T]:
        """Return the next items, announced; none at the end."""
        window: list[T] = []
        digests: list[Digest] = []
        nbytes = 0
        while len(window) < WINDOW_OBJECTS and self._has_more():
            digest = self._digest_of(self._looked_up[0])
            if digest is not None:
                nbytes += self._whereabouts.stored_length(digest, self._reads_base)
                if window and nbytes > WINDOW_BYTES:
                    break
                digests.append(digest)
            window.append(self._looked_up.popleft())
        self._whereabouts.expect(digests, self._reads_base)
        return window

    def _has_more(self) -> bool:
        if not self._looked_up:
            self._looked_up.extend(islice(self._rest, _STEP_OBJECTS))
            asked = (self._digest_of(item) for item in self._looked_up)
            self._whereabouts.look_up([digest for digest in asked if digest is not None])
        return bool(self._looked_up)


def _announce_bases(objects: Objects, digests: list[Digest], reads_base: ReadsBase | None) -> None:
    bases: dict[Digest, None] = {}
    for digest in digests:
        if objects.whereabouts.knows_bases(digest):
            continue  # they were announced with it
        try:
            bases.update(dict.fromkeys(objects.entry(digest).bases))
        except (ThetaError, FileNotFoundError):
            continue  # whoever reads it is told what is wrong
    announced = set(digests)
    wanted = (base for base in bases if base not in announced)
    objects.whereabouts.expect(base for base in wanted if reads_base is None or reads_base(base))
