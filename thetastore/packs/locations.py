"""Where a far store's objects are, as far as the locators say that this process has read.

All of it is a hint. A place that turns out wrong is forgotten with all that stood in the same locator, and the index is
asked instead; what locators have of manifests and pages is proven.
"""

from __future__ import annotations

import _thread
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from thetastore.backends import Backend, Range
from thetastore.digest import Digest, Kind
from thetastore.errors import BackendError, MalformedError, UnsupportedError
from thetastore.packs.index import Place

if TYPE_CHECKING:  # it is imported where there is a locator: near stores have none
    from thetastore.packs.locator import Locator

FIRST_READ_BYTES = 8 << 20
"""What is asked of a locator at first: nobody knows its length yet."""
_FIRST_READ_OF_MANY_BYTES = 1 << 20
"""Of the locators of shards, each of which is shorter."""
_AT_ONCE = 256
"""Locators that are on their way together. Of 5 GB of weights one has some 200 kB."""
_MOST_AHEAD_BYTES = 56 << 20
"""For these, less than what a far backend holds."""
_MOST_KEPT_BYTES = 96 << 20


class Located(NamedTuple):
    """Where an object is said to be, and what decoding it needs."""

    place: Place
    bases: tuple[Digest, ...]


class Locations:
    """What some locators say. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._first_read_bytes = FIRST_READ_BYTES
        self._expected: list[Digest] = []
        self._begun_count = 0
        """How many of these are on their way, or here."""
        self._lock = _thread.allocate_lock()
        self._locators: dict[Digest, Locator | None] = {}
        self._objects: dict[Digest, Located] = {}
        """What they say together: of an object in several, what was read first."""
        self._pages: dict[Digest, bytes] = {}
        self._kept_bytes = 0

    def expect(self, manifest_digests: Sequence[Digest]) -> None:
        """Begin to fetch the locators of some manifests: of many, the next ones when the first are read."""
        self._expected, self._begun_count = list(dict.fromkeys(manifest_digests)), 0
        self._begin()

    def _begin(self) -> None:
        from thetastore.packs.locator import locator_name

        some = self._expected[self._begun_count : self._begun_count + _AT_ONCE]
        if len(self._expected) > 1:
            self._first_read_bytes = min(_FIRST_READ_OF_MANY_BYTES, _MOST_AHEAD_BYTES // len(some))
        self._begun_count += len(some)
        self._backend.expect(Range(locator_name(digest), 0, self._first_read_bytes) for digest in some)

    def load(self, manifest_digest: Digest) -> Locator | None:
        """Return the locator of a manifest; None where there is none, or none that can be read."""
        if manifest_digest not in self._locators:
            from thetastore.packs.locator import read_locator

            if self._begun_count < len(self._expected) and self._expected[self._begun_count] == manifest_digest:
                self._begin()
            found: Locator | None = None
            try:
                found = read_locator(self._backend, manifest_digest, self._first_read_bytes)
            except (FileNotFoundError, BackendError, MalformedError, UnsupportedError):
                pass
            with self._lock:
                self._keep(manifest_digest, found)
            return found
        return self._locators[manifest_digest]

    def raw(self, kind: Kind, digest: Digest) -> bytes | None:
        """Return the bytes of a manifest or page that a locator had, proven."""
        if kind is Kind.MANIFEST:
            locator = self._locators.get(digest)
            return None if locator is None else locator.manifest
        return self._pages.get(digest) if kind is Kind.PAGE else None

    def find(self, digest: Digest) -> Located | None:
        """Return where an object is said to be."""
        return self._objects.get(digest)

    def has(self, digest: Digest) -> bool:
        """Tell whether a locator has an object, or says where it is."""
        return self.find(digest) is not None or any(self.raw(kind, digest) for kind in (Kind.MANIFEST, Kind.PAGE))

    def distrust(self, place: Place) -> None:
        """Believe no place any more of a locator that names this one: it is not there, or holds something else."""
        with self._lock:
            self._keep_only(
                {
                    digest: locator._replace(objects={}) if locator is not None and locator.names(place) else locator
                    for digest, locator in self._locators.items()
                }
            )

    def _keep(self, manifest_digest: Digest, locator: Locator | None) -> None:
        if locator is not None and self._kept_bytes + locator.kept_bytes > _MOST_KEPT_BYTES:
            self._keep_only(_latest(self._locators, _MOST_KEPT_BYTES // 2))
        self._locators[manifest_digest] = locator
        if locator is not None:
            self._kept_bytes += locator.kept_bytes
            self._pages.update(locator.pages)
            for digest, located in locator.objects.items():
                self._objects.setdefault(digest, located)

    def _keep_only(self, locators: dict[Digest, Locator | None]) -> None:
        self._locators, self._objects, self._pages, self._kept_bytes = {}, {}, {}, 0
        for digest, locator in locators.items():
            self._keep(digest, locator)


def _latest(locators: dict[Digest, Locator | None], most_bytes: int) -> dict[Digest, Locator | None]:
    """Leave out the oldest where all together take too much memory."""
    kept: dict[Digest, Locator | None] = {}
    for digest, locator in reversed(locators.items()):
        most_bytes -= 0 if locator is None else locator.kept_bytes
        if most_bytes < 0:
            break
        kept[digest] = locator
    return dict(reversed(kept.items()))
