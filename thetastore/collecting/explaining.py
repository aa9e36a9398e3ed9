"""Why an object is kept, or what will become of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import NamedTuple

from thetastore.collecting.marking import needed_by
from thetastore.collecting.remembered import Remembered
from thetastore.collecting.roots import Root
from thetastore.collecting.tables import has, numbers, word_of
from thetastore.digest import Digest
from thetastore.errors import MalformedError, ThetaError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.packs.retirement_notes import Stage

_MOST_LEVELS = 10


class Explained(NamedTuple):
    """What is known of one object, or of all that a file or tensor is made of."""

    object_count: int
    missing_count: int
    """Objects that no pack has."""
    places: tuple[str, ...]
    """Packs that have them, with what is to become of these: `packs/….pack (condemned)`."""
    named_by: tuple[Root, ...]
    """Roots whose files need any of them."""
    base_of: tuple[Digest, ...]
    """Other objects of these files that lean on them, directly or by way of others."""

    @property
    def is_kept(self) -> bool:
        """Whether something needs any of them."""
        return bool(self.named_by)


def explain(objects: Objects, roots: Iterable[Root], digests: Sequence[Digest]) -> Explained:
    """Say which roots need some objects, for themselves or as bases, and where they are.

    Reads all manifests that are named, and the tables of all packs.

    Raises:
        ThetaError: something that is named cannot be read.
    """
    objects.count_only_durable()
    objects.catalog.refresh()
    asked = set(digests)
    leaning = _leaning_on(objects, asked)
    wanted = [*asked, *leaning]
    words = numbers(array("Q", map(word_of, wanted)))
    remembered = Remembered()
    needing: list[Root] = []
    leaning_and_needed: set[Digest] = set()
    known: dict[Digest, set[Digest]] = {}
    for root in roots:
        if root.manifest_digest not in known:
            needs = needed_by(objects, [root], remembered=remembered)
            known[root.manifest_digest] = set(compress(wanted, has(needs, words)))
        if known[root.manifest_digest]:
            needing.append(root)
            leaning_and_needed |= known[root.manifest_digest] - asked
    places = _places(objects, asked)
    missing_count = sum(not found for found in places.values())
    names = sorted({name for found in places.values() for name in found})
    return Explained(len(asked), missing_count, tuple(names), tuple(needing), tuple(sorted(leaning_and_needed)))


def _leaning_on(objects: Objects, digests: set[Digest]) -> set[Digest]:
    """Return all objects that lean on some, by way of others too."""
    leaning: dict[Digest, set[Digest]] = {}
    for name in sorted(objects.catalog.snapshot().packs):
        try:
            records = records_of(objects.packs.get(name))
        except (FileNotFoundError, MalformedError, UnsupportedError):
            continue
        for record in records:
            for base in record.entry.bases:
                leaning.setdefault(base, set()).add(record.entry.digest)
    found: set[Digest] = set()
    level = digests
    for _ in range(_MOST_LEVELS):
        level = {other for one in level for other in leaning.get(one, ())} - found
        found |= level
    return found - digests


def _places(objects: Objects, digests: set[Digest]) -> dict[Digest, set[str]]:
    snapshot = objects.catalog.snapshot()
    stages = {name: note.stage for note in snapshot.notes for name in note.file_names}
    words = {Stage.CONDEMNED: " (condemned)", Stage.TRASH: " (in the trash)", Stage.REPLACED: " (about to go)"}
    found: dict[Digest, set[str]] = {}
    for digest in digests:
        names = {place.file_name for place in snapshot.find(digest)}
        found[digest] = {name + (words[stages[name]] if name in stages else "") for name in names}
    for name in sorted(name for note in snapshot.notes_of(Stage.TRASH) for name in note.file_names):
        try:
            records = records_of(objects.packs.get(name))
        except (FileNotFoundError, ThetaError):
            continue
        for digest in digests.intersection(record.entry.digest for record in records):
            found[digest].add(f"{name} (in the trash)")
    return found
