"""Where objects are, each with the bases that it needs; and what is announced of them to a store that is far away.

What this process wrote it knows; locators tell of what they were made for; the index tells of the rest, but not of
bases: these are in the heads of records, of which the tables of packs are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from thetastore.backends import Backend, Range
from thetastore.digest import Digest
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.packs.catalog import Catalog, records_of
from thetastore.packs.index import Place
from thetastore.packs.locations import Located
from thetastore.packs.preamble import PREAMBLE_BYTES
from thetastore.packs.reader import SUFFIX_BYTES, Packs
from thetastore.packs.records import MAX_HEAD_BYTES

_MOST_BASES = 64
"""Announced with one object: bases of bases, as far as a hostile locator names them."""
_MANY = 4
"""Heads of a pack for which its whole table is read."""
ReadsBase = Callable[[Digest], bool]
_UNREADABLE = (FileNotFoundError, MalformedError, UnsupportedError)


class Whereabouts:
    """The places of a store's objects. Thread-safe."""

    def __init__(
        self, backend: Backend, catalog: Catalog, packs: Packs, own: Callable[[Digest], Located | None]
    ) -> None:
        """Tell of the packs of a catalog; `own` tells of what this process wrote."""
        self._backend = backend
        self._catalog = catalog
        self._packs = packs
        self._own = own

    def expect_manifests(self, manifest_digests: Iterable[Digest]) -> None:
        """Announce files of which something will be read, before anything else is asked of a far store."""
        self._catalog.expect_manifests(list(manifest_digests))

    def expect(self, digests: Iterable[Digest], reads_base: ReadsBase | None = None) -> None:
        """Announce what will be read soon, for a backend to which requests are dear. Only a hint.

        With each object come its bases, where a locator tells which these are; of these, only those that `reads_base`
        says yes to, if it is given.
        """
        if not self._backend.is_remote:
            return
        places = [place for digest in digests for place in self._likely(digest, reads_base)]
        preambles = {place.file_name for place in places}
        self._backend.expect(
            [Range(name, 0, PREAMBLE_BYTES) for name in preambles]
            + [Range(place.file_name, place.offset, place.nbytes) for place in places]
        )

    def are_as_expected(self, digests: Iterable[Digest]) -> bool:
        """Wait for what was announced; tell whether the packs are there that locators speak of, and doubt these if not.

        Then the same should be announced again, since other places are known for it now.
        """
        places = {place.file_name: place for digest in digests for place in self._located(digest)}
        for name, place in places.items():
            try:
                self._packs.get(name)
            except _UNREADABLE:
                self._catalog.locations.distrust(place)
                return False
        return True

    def look_up(self, digests: Iterable[Digest]) -> None:
        """Look up objects in the index together that will be asked for one by one. Only a hint."""
        unknown = [digest for digest in digests if not self._catalog.locations.has(digest)]
        if unknown:
            self._catalog.look_up(unknown)

    def stored_length(self, digest: Digest, reads_base: ReadsBase | None = None) -> int:
        """Return how many bytes the records of an object and its bases take, as far as that is known; see `expect`."""
        return sum(place.nbytes for place in self._likely(digest, reads_base))

    def knows_bases(self, digest: Digest) -> bool:
        """Tell whether a locator has an object itself, or says what bases it has."""
        return self._catalog.locations.has(digest)

    def _likely(self, digest: Digest, reads_base: ReadsBase | None) -> list[Place]:
        """Return where an object will be read from, and its bases if a locator tells them."""
        if self._catalog.locations.has(digest):
            return self._located(digest, reads_base)
        place = self._catalog.snapshot().first(digest)
        return [] if place is None else [place]

    def _located(self, digest: Digest, reads_base: ReadsBase | None = None) -> list[Place]:
        """Return where a locator has an object, its bases, and the bases of these."""
        found: dict[Digest, Place] = {}
        waiting = [digest]
        while waiting and len(found) <= _MOST_BASES:
            one = waiting.pop()
            located = self._catalog.locations.find(one) if one not in found else None
            if located is not None:
                found[one] = located.place
                waiting += (base for base in located.bases if reads_base is None or reads_base(base))
        return list(found.values())

    def collect(self, digests: Iterable[Digest]) -> Mapping[Digest, Located]:
        """Return where objects are, and all bases that they need; what cannot be told is left out.

        Of what was not written here, and no locator tells, the tables of the packs are read.
        """
        found: dict[Digest, Located] = {}
        waiting = list(dict.fromkeys(digests))
        while waiting:
            places = {digest: self._catalog.snapshot().first(digest) for digest in waiting}
            unknown: dict[str, set[Digest]] = {}
            for digest, place in places.items():
                located = self._told(digest, place)
                if located is not None:
                    found[digest] = located
                elif place is not None:
                    unknown.setdefault(place.file_name, set()).add(digest)
            found.update(self._from_tables(unknown))
            bases = (base for digest in waiting if digest in found for base in found[digest].bases)
            waiting = [base for base in dict.fromkeys(bases) if base not in found]
        return found

    def expect_tables(self, names: Iterable[str]) -> None:
        """Announce that the tables of packs will be read."""
        if not self._backend.is_remote:
            return
        ranges = []
        for name in names:
            try:
                nbytes = self._backend.open(name).size()
            except FileNotFoundError:
                continue
            start = max(PREAMBLE_BYTES, nbytes - SUFFIX_BYTES)
            ranges += [Range(name, 0, PREAMBLE_BYTES), Range(name, start, min(nbytes - start, SUFFIX_BYTES))]
        self._backend.expect(ranges)

    def _told(self, digest: Digest, place: Place | None) -> Located | None:
        """Return what is known of an object without reading; a locator counts only where the index says the same."""
        own = self._own(digest)
        if own is not None:
            return own
        if place is not None and place in self._catalog.heads:
            return Located(place, self._catalog.heads[place].bases)
        located = self._catalog.locations.find(digest)
        return located if located is not None and located.place == place else None

    def expect_heads(self, digests: Iterable[Digest]) -> None:
        """Learn what records of a far store say of themselves, from the tables of their packs, all at once.

        For many: to ask for each head by itself takes as many round trips.
        """
        if self._backend.is_remote:
            unknown: dict[str, dict[Digest, Place]] = {}
            for digest in dict.fromkeys(digests):
                for place in self._catalog.snapshot().find(digest):
                    if place not in self._catalog.heads:
                        unknown.setdefault(place.file_name, {})[digest] = place
            few = [place for wanted in unknown.values() if len(wanted) < _MANY for place in wanted.values()]
            self._backend.expect(Range(name, at, min(nbytes, MAX_HEAD_BYTES)) for name, at, nbytes in few)
            self._from_tables({name: set(wanted) for name, wanted in unknown.items() if len(wanted) >= _MANY})

    def _from_tables(self, unknown: Mapping[str, set[Digest]]) -> dict[Digest, Located]:
        found: dict[Digest, Located] = {}
        self.expect_tables(unknown)
        for name, wanted in unknown.items():
            try:
                records = records_of(self._packs.get(name))
            except _UNREADABLE:
                continue
            for offset, nbytes, entry in records:
                if entry.digest in wanted:
                    place = Place(name, offset, nbytes)
                    found.setdefault(entry.digest, Located(place, entry.bases))
                    self._catalog.heads[place] = entry
        return found
