"""What is wrong with a store and what it has lost, pack by pack, by any executor, in one run or in several."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

from thetastore.checking.budget import Budget, Cursor, Spending
from thetastore.digest import Digest
from thetastore.errors import FileUnreadableError, ObjectCorruptError, ThetaError
from thetastore.pins import list_pins, read_pin
from thetastore.pool import spread
from thetastore.refs import Refs
from thetastore.store import Opener, Store
from thetastore.upkeep.losses import Hole, LostPart, holes_of, lost_objects, manifests_of, parts_lost
from thetastore.upkeep.verify import Finding, Level, Problem, packs_to_verify, verify_listing, verify_pack


class Named(NamedTuple):
    """A file that a ref or a pin of the store names, so that it has to be there whole."""

    manifest_digest: Digest
    name: str
    """For people."""


Report = Callable[[int, int], None]
"""Called with how many bytes of packs were looked at, and how many there are to look at."""


class LostFile(NamedTuple):
    """A file of which something is lost."""

    manifest_digest: Digest
    parts: tuple[LostPart, ...]
    holes: tuple[Hole, ...]

    @property
    def raw_bytes(self) -> int:
        """Bytes of the file that cannot be had; 0 where that is not known."""
        return sum(hole.raw_bytes for hole in self.holes)


class Check:
    """One check of a store, or the part of one that a budget allows. Nothing of what is stored is changed."""

    def __init__(
        self,
        store: Store,
        level: Level,
        budget: Budget | None = None,
        executor: Executor | None = None,
        report: Report | None = None,
    ) -> None:
        """Prepare to look at a store.

        Args:
            store: the store.
            level: how deep.
            budget: what this run may take; the next one with a budget goes on where it stops. None for all at once.
            executor: who reads the packs; None for this thread.
            report: see `Report`.
        """
        self.level = level
        self.found: list[Finding] = []
        """What was found so far."""
        self.done_count = 0
        """Packs that were looked at."""
        self.pack_count = 0
        """Packs there are to look at in the round, those that earlier runs have looked at included."""
        self.skipped_count = 0
        """Packs that earlier runs of this round have looked at."""
        self.named: list[Named] = []
        """Files that have to be there whole."""
        self.is_remembered = True
        """Whether the next run will know where this one stopped."""
        self._store = store
        self._budget = budget
        self._executor = executor
        self._report = report

    @property
    def is_whole(self) -> bool:
        """Whether the round came to its end."""
        return self.skipped_count + self.done_count == self.pack_count

    def findings(self) -> Iterator[Finding]:
        """Look, and yield what is wrong as it is found."""
        objects = self._store.objects
        for finding in verify_listing(objects, self.level):
            self.found.append(finding)
            yield finding
        if self.level == Level.LISTING:
            return
        cursor = Cursor(objects.backend, self.level.name.lower())
        names = packs_to_verify(objects)
        self.pack_count = len(names)
        if self._budget is not None:
            names = [name for name in names if not cursor.is_behind(name)]
        self.skipped_count = self.pack_count - len(names)
        last = None
        for name, findings in self._looked_at(names):
            last = name
            self.done_count += 1
            findings = [finding for finding in findings if not self._is_told(finding)]
            self.found += findings
            yield from findings
        if self._budget is not None or self.is_whole:
            self.is_remembered = cursor.move_to(None if self.is_whole else last)
        self.named = list(named_files(self._store))
        yield from self.missing(self.named)

    def _is_told(self, finding: Finding) -> bool:
        """Tell whether the listing has said already that a pack is none at all."""
        return finding.problem is Problem.PACK and any(
            found.file_name == finding.file_name for found in self.found if found.problem is Problem.PACK
        )

    def missing(self, named: Iterable[Named]) -> Iterator[Finding]:
        """Yield what is not there of files that have to be there whole."""
        for file in named:
            for finding in self._missing_of(file):
                self.found.append(finding)
                yield finding

    def _missing_of(self, file: Named) -> Iterator[Finding]:
        try:
            missing = self._store.missing_objects([file.manifest_digest])
        except ObjectCorruptError as error:  # a manifest or a page: what it lists is not known then
            damaged = Digest.parse(error.digest)
            if not any(finding.digest == damaged for finding in self.found):
                yield Finding(error.place, damaged, f"{error.reason}; {file.name} needs it", Problem.RECORD)
            return
        except FileUnreadableError as error:
            where, why = error.filename or "packs", error.strerror or "it cannot be read"
            if not any(finding.problem is Problem.PACK and where.endswith(finding.file_name) for finding in self.found):
                yield Finding(where, file.manifest_digest, f"{why}; {file.name} needs it", Problem.RECORD)
            return
        for _, digest in missing:
            yield Finding("packs", digest, f"it is not there, and {file.name} needs it", Problem.MISSING)

    def _looked_at(self, names: list[str]) -> Iterator[tuple[str, list[Finding]]]:
        sizes = {name: self._size(name) for name in names}
        begun = self._affordable(names, sizes)
        if self._executor is None:
            look = partial(_look, self._store, self.level)
        else:
            look = partial(_look_elsewhere, self._store.opener, self.level)
        done_bytes, total_bytes = 0, sum(sizes.values())
        for name, findings in spread(self._executor, look, begun):
            done_bytes += sizes[name]
            if self._report is not None:
                self._report(done_bytes, total_bytes)
            yield name, findings

    def _affordable(self, names: list[str], sizes: dict[str, int]) -> Iterator[str]:
        spending = Spending(self._budget or Budget())
        for name in names:
            if not spending.allows(sizes[name]):
                return
            yield name

    def _size(self, name: str) -> int:
        try:
            return self._store.backend.open(name).size()
        except (FileNotFoundError, ThetaError):
            return 0  # gone, or damaged, which looking at it will tell

    def lost_files(self, also: Iterable[Digest] = ()) -> list[LostFile]:
        """Return which files have lost what, by all that was found and is remembered.

        Args:
            also: manifests of files that the store should have, besides those that it has.
        """
        damaged = (finding.digest for finding in self.found if finding.digest is not None)
        torn = {finding.file_name for finding in self.found if finding.problem is Problem.PACK}
        lost = lost_objects(self._store.objects, damaged, torn)
        return lost_files(self._store, lost, also) if lost else []


def named_files(store: Store) -> Iterator[Named]:
    """Yield the files that refs and pins name.

    Raises:
        MalformedError, UnsupportedError: a ref or pin cannot be read.
    """
    for entry in Refs(store.backend).live():
        for file in entry.files:
            yield Named(file.manifest_digest, f"'{file.path}' of {entry.name} number {entry.number}")
    for name in list_pins(store.backend).names:
        for digest in read_pin(store.backend, name).manifests:
            yield Named(digest, f"a file that was pushed up to commit {name.commit}")


def lost_files(store: Store, lost: Collection[Digest], also: Iterable[Digest] = ()) -> list[LostFile]:
    """Return which files are short of lost objects."""
    files = []
    for manifest_digest in dict.fromkeys([*manifests_of(store.objects), *also]):
        holes = tuple(holes_of(store.objects, manifest_digest, lost))
        if holes:
            files.append(LostFile(manifest_digest, tuple(_parts(store, manifest_digest, holes)), holes))
    return files


def _parts(store: Store, manifest_digest: Digest, holes: tuple[Hole, ...]) -> list[LostPart]:
    try:
        tensors = store.get_manifest(manifest_digest).tensors
    except ThetaError:
        return [LostPart(manifest_digest, None, 0, 0, 0, 0)]
    return parts_lost(tensors, holes)


def _look(store: Store, level: Level, name: str) -> tuple[str, list[Finding]]:
    return name, verify_pack(store.objects, name, level)


def _look_elsewhere(opener: Opener, level: Level, name: str) -> tuple[str, list[Finding]]:
    with opener() as store:
        return _look(store, level, name)
