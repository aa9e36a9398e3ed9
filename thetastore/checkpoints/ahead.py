"""Objects announced before they are read: what lies together comes together, from a store that is far away.

A near store is left alone. From a far one, windows of objects are announced, one while the one before it is worked on,
and with each object the bases that a locator tells. So a read of up to two windows waits for one round trip, and a
longer one makes about as many requests as it has blocks of 8 MiB. Where no locator tells, bases are announced when the
heads that name them have come; where one is out of date, the same window is announced again, from the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from thetastore.digest import Digest
from thetastore.errors import ThetaError
from thetastore.objects import Objects

T = TypeVar("T")

WINDOW_OBJECTS = 4096
_STEP_OBJECTS = 32
"""Looked up together; a window may be so much too long."""
WINDOW_BYTES = 24 << 20
"""Two windows are under way at once, and a far backend holds 64 MiB."""


def ahead(objects: Objects, items: Iterable[T], digest_of: Callable[[T], Digest | None]) -> Iterator[T]:
    """Yield items in their order, the objects that they will ask for announced.

    Args:
        objects: where they will be read.
        items: asked for some time before they are yielded.
        digest_of: the object that an item will ask for; None where it will ask for none.
    """
    if not objects.backend.is_remote:
        yield from items
        return
    rest = iter(items)
    window = _announced(objects, rest, digest_of)
    while window:
        later = _announced(objects, rest, digest_of)
        digests, next_digests = ([one for one in map(digest_of, some) if one is not None] for some in (window, later))
        if not objects.whereabouts.are_as_expected(digests):
            objects.whereabouts.expect([*digests, *next_digests])
        _announce_bases(objects, digests)
        yield from window
        window = later


def _announced(objects: Objects, rest: Iterator[T], digest_of: Callable[[T], Digest | None]) -> list[T]:
    window: list[T] = []
    digests: list[Digest] = []
    nbytes = 0
    while nbytes < WINDOW_BYTES and len(window) < WINDOW_OBJECTS:
        items = list(islice(rest, _STEP_OBJECTS))
        if not items:
            break
        window += items
        asked = [digest for digest in map(digest_of, items) if digest is not None]
        objects.whereabouts.look_up(asked)
        nbytes += sum(map(objects.whereabouts.stored_length, asked))
        digests += asked
    objects.whereabouts.expect(digests)
    return window


def _announce_bases(objects: Objects, digests: list[Digest]) -> None:
    bases: dict[Digest, None] = {}
    for digest in digests:
        if objects.whereabouts.knows_bases(digest):
            continue  # they were announced with it
        try:
            bases.update(dict.fromkeys(objects.entry(digest).bases))
        except (ThetaError, FileNotFoundError):
            continue  # whoever reads it is told what is wrong
    objects.whereabouts.expect(base for base in bases if base not in digests)
