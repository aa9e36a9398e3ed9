"""Where a far store's objects are, as far as the locators say that this process has read.

All of it is a hint. A place that turns out wrong is forgotten with all that stood in the same locator, and the index is
asked instead; what locators have of manifests and pages is proven.
"""

from __future__ import annotations

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
_MOST_KEPT_BYTES = 96 << 20


class Located(NamedTuple):
    """Where an object is said to be, and what decoding it needs."""

    place: Place
    bases: tuple[Digest, ...]


class Locations:
    """What some locators say. Thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._locators: dict[Digest, Locator | None] = {}
        self._first_read_bytes = FIRST_READ_BYTES

    def expect(self, manifest_digests: Sequence[Digest]) -> None:
        """Begin to fetch the locators of some manifests."""
        from thetastore.packs.locator import locator_name

        if len(manifest_digests) > 1:
            self._first_read_bytes = _FIRST_READ_OF_MANY_BYTES
        self._backend.expect(Range(locator_name(digest), 0, self._first_read_bytes) for digest in manifest_digests)

    def load(self, manifest_digest: Digest) -> Locator | None:
        """Return the locator of a manifest; None where there is none, or none that can be read."""
        if manifest_digest not in self._locators:
            from thetastore.packs.locator import read_locator

            found: Locator | None = None
            try:
                found = read_locator(self._backend, manifest_digest, self._first_read_bytes)
            except (FileNotFoundError, BackendError, MalformedError, UnsupportedError):
                pass
            self._locators = _bounded({**self._locators, manifest_digest: found})
            return found
        return self._locators[manifest_digest]

    def raw(self, kind: Kind, digest: Digest) -> bytes | None:
        """Return the bytes of a manifest or page that a locator had, proven."""
        if kind is Kind.MANIFEST:
            locator = self._locators.get(digest)
            return None if locator is None else locator.manifest
        for locator in self._locators.values():
            if kind is Kind.PAGE and locator is not None and digest in locator.pages:
                return locator.pages[digest]
        return None

    def find(self, digest: Digest) -> Located | None:
        """Return where an object is said to be."""
        for locator in self._locators.values():
            found = None if locator is None else locator.objects.get(digest)
            if found is not None:
                return found
        return None

    def has(self, digest: Digest) -> bool:
        """Tell whether a locator has an object, or says where it is."""
        return self.find(digest) is not None or any(self.raw(kind, digest) for kind in (Kind.MANIFEST, Kind.PAGE))

    def distrust(self, place: Place) -> None:
        """Believe no place any more of a locator that names this one: it is not there, or holds something else."""
        self._locators = {
            digest: locator._replace(objects={}) if locator is not None and locator.names(place) else locator
            for digest, locator in self._locators.items()
        }


def _bounded(locators: dict[Digest, Locator | None]) -> dict[Digest, Locator | None]:
    """Leave out the oldest where all together would take too much memory, but never the latest."""
    kept: dict[Digest, Locator | None] = {}
    kept_bytes = 0
    for digest, locator in reversed(locators.items()):
        kept_bytes += 0 if locator is None else locator.kept_bytes
        if not kept or kept_bytes <= _MOST_KEPT_BYTES:
            kept[digest] = locator
    return dict(reversed(kept.items()))
