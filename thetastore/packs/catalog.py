"""What a store holds at the moment: its index runs, and the packs that no run covers.

A `Snapshot` never changes; `Catalog.refresh` replaces it by a later one. Names are listed in the order
in which a writer leaves them - `incoming/`, `index/`, `packs/` - so that a pack on its way is met at
least once; notes of packs that will go (`retired/`) come last. Nothing is lost to a damaged run: its
packs count as not covered, and their footers are read instead; a pack with a damaged footer is read
forwards.
"""

from __future__ import annotations

import _thread
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from thetastore.backends import Backend, Range
from thetastore.digest import Digest
from thetastore.errors import FileUnreadableError, MalformedError, ThetaError, UnsupportedError
from thetastore.packs.index import Place, Run, word_of
from thetastore.packs.locations import Located, Locations
from thetastore.packs.reader import Pack, Packs, Record
from thetastore.packs.records import Entry
from thetastore.packs.retirement_notes import DIRECTORY, RetirementNote, Stage, read_note, stage_of
from thetastore.packs.writer import Row, SealedPack, sealed_name

if TYPE_CHECKING:
    from thetastore.packs.locator import Locator

_SMALL_RUN_COUNT = 1 << 13
"""Runs of fewer digests are looked up together: their words make one set, 5 us a thousand."""


_MOST_LISTINGS = 20
"""How often a store is listed while files vanish from it; each time costs some 30 us."""


class Loose:
    """The records of a pack that no run covers."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self.places: dict[bytes, Place] = {}
        self.rows: list[Row] = []
        self.end = 0
        """Up to where the pack was read."""
        self.file_bytes = 0
        """How long a sealed pack is; kept, since another process may merge it away at any time."""

    def add(self, records: Iterable[Record]) -> None:
        """Take in more records of the pack."""
        for record in records:
            self.rows.append(Row(record.entry.digest, record.offset, record.nbytes))
            self.places.setdefault(record.entry.digest, Place(self.file_name, record.offset, record.nbytes))
            self.end = record.offset + record.nbytes


class Snapshot:
    """What a store held at one moment. Immutable; thread-safe."""

    def __init__(
        self,
        runs: tuple[Run, ...],
        loose: tuple[Loose, ...],
        packs: frozenset[str],
        incoming: frozenset[str],
        problems: tuple[tuple[str, ThetaError], ...],
        notes: tuple[RetirementNote, ...] = (),
    ) -> None:
        self.runs = runs
        self.loose = loose
        self.packs = packs
        """File names of the sealed packs, but for those in the trash."""
        self.incoming = incoming
        """File names of the packs in the making."""
        self.problems = problems
        """Packs and runs that could not be read at all, with the reason."""
        self.notes = notes
        """Which packs are about to go."""
        self.retired = packs.intersection(name for note in notes for name in note.file_names)
        """File names of packs that will go: to be read only where nothing else serves, and to be relied on never."""
        trash = (note for note in notes if note.stage is Stage.TRASH)
        self.in_trash = frozenset(name for note in trash for name in note.file_names)
        """File names of packs that nobody reads any more. A collector that was killed may leave them in the index."""
        near = [run for run in runs if not run.is_far]
        self.lost = frozenset(sealed_name(pack.id) for run in near for pack in run.packs) - packs
        """File names of packs that a run covers and that are not there; of long runs far away that is not known."""
        self._large = tuple((run.words, run.count) for run in near if run.count > _SMALL_RUN_COUNT)
        self._small = [run for run in near if run.count <= _SMALL_RUN_COUNT]
        self._far = [run for run in runs if run.is_far]
        self._small_words: frozenset[int] | None = None

    def find(self, digest: bytes) -> Iterator[Place]:
        """Yield every place where a representation of the digest is said to be; those in retired packs last."""
        if not self.retired:
            yield from self._find(digest)
            return
        places = list(self._find(digest))
        yield from (place for place in places if place.file_name not in self.retired)
        yield from (place for place in places if place.file_name in self.retired)

    def first(self, digest: bytes) -> Place | None:
        """Return the first place that `find` yields."""
        if not self.retired and not self._far:
            word = word_of(digest)
            for run in self.runs:
                for place in run.find(digest, word):
                    if place.file_name not in self.lost:
                        return place
        return next(self.find(digest), None)

    def notes_of(self, stage: Stage) -> list[RetirementNote]:
        """Return the notes of one stage, the oldest first."""
        return [note for note in self.notes if note.stage is stage]

    def _find(self, digest: bytes) -> Iterator[Place]:
        word = word_of(digest)
        self._look_up_far(digest)
        for run in self.runs:
            for place in run.find(digest, word):
                if place.file_name not in self.lost:
                    yield place
        for loose in self.loose:
            found = loose.places.get(digest)
            if found is not None:
                yield found

    def covering(self, located: Iterable[Located]) -> frozenset[str]:
        """Return the ids of the runs that cover the packs in which something is."""
        names = {one.place.file_name for one in located}
        return frozenset(
            id_of(run.name) for run in self.runs if any(sealed_name(pack.id) in names for pack in run.packs)
        )

    def _is_far_away(self, digest: bytes, word: int) -> bool:
        self._look_up_far(digest)
        return any(run.find(digest, word) for run in self._far)

    def _look_up_far(self, digest: bytes) -> None:
        """Ask all long runs at once, and not one after the other."""
        if self._far:
            from thetastore.packs.far_index import look_up_one

            look_up_one(self._far, digest)

    def contains(self, digest: bytes) -> bool:
        """Tell whether `find` yields anything that will not go."""
        small_words = self._small_words
        if small_words is None:
            small_words = self._small_words = frozenset(word for run in self._small for word in run.words)
        word = word_of(digest)
        if word not in small_words:
            for words, count in self._large:  # not a method of the run: the call would cost as much as the search
                at = bisect_left(words, word)
                if at < count and words[at] == word:
                    break
            else:
                if not any(digest in loose.places for loose in self.loose) and not self._is_far_away(digest, word):
                    return False
        place = self.first(digest)
        return place is not None and place.file_name not in self.retired


class Catalog:
    """The latest snapshot of a store. Thread-safe."""

    def __init__(self, backend: Backend, packs: Packs) -> None:
        self._backend = backend
        self._packs = packs
        self._lock = _thread.allocate_lock()
        self.generation = 0
        """How often a refresh has found something new."""
        self._names: tuple[frozenset[str], ...] | None = None
        self._runs: dict[str, Run | ThetaError] = {}
        self._notes: dict[str, RetirementNote | None] = {}
        self._loose: dict[str, Loose] = {}
        self._snapshot: Snapshot | None = None
        self._own_ids: set[str] = set()
        self.locations = Locations(backend)
        """Where a far store's objects are, as far as locators that were read tell."""
        self.heads: dict[Place, Entry] = {}
        """Heads of a far store's records, as far as tables of packs were read for them."""
        self._index_will_do = backend.is_remote
        """Whether a first look may be at the index alone: so for readers, which need nothing that it does not cover."""
        self._index_names: frozenset[str] | None = None
        self._is_index_expected = False

    def own(self, pack_id: str) -> None:
        """Leave out a pack of this process, whose records it knows, until a run covers it."""
        self._own_ids.add(pack_id)

    def forget(self) -> None:
        """Have the store listed again before anything more is said of it."""
        self._snapshot = None

    def snapshot(self) -> Snapshot:
        """Return the latest snapshot; the first call takes it."""
        while (snapshot := self._snapshot) is None:
            if not self._index_will_do or not self._look_at_index():
                self.refresh()
        return snapshot

    def rely(self) -> None:
        """Become strict: from now on all of the store is looked at, as writers must, and locators are not believed."""
        if self._index_will_do:
            self._index_will_do = False
            self._snapshot = None

    def contains(self, digest: Digest) -> bool:
        """Tell whether the store has an object; before that is denied, all of the store was looked at once."""
        if self.snapshot().contains(digest):
            return True
        if not self._index_will_do:
            return False
        self.rely()
        return self.snapshot().contains(digest)

    @property
    def believes_locators(self) -> bool:
        """Whether this is a far store that is only read, of which locators may tell what it has."""
        return self._index_will_do

    def is_retired(self, file_name: str) -> bool:
        """Tell whether a pack is about to go, as far as that matters: who only reads a far store does not ask."""
        return not self._index_will_do and file_name in self.snapshot().retired

    def is_located(self, digest: Digest) -> bool:
        """Tell whether a locator has an object, or says where it is, and may be believed."""
        return self._index_will_do and self.locations.has(digest)

    def locate(self, manifest_digest: Digest) -> Locator | None:
        """Return the locator of a far store's manifest, and take note of what it says; None where there is none."""
        locator = self.locations.load(manifest_digest)
        if locator is not None and self._index_will_do and self._snapshot is None and self._is_index_expected:
            names = self._index_names = self._index_names or self._list("index", ".run")
            if not locator.runs.issubset(map(id_of, names)):
                self._expect_runs(names)  # places may be out of date: the index comes while these are tried
        return locator

    def expect_manifests(self, manifest_digests: Sequence[Digest]) -> None:
        """Begin to fetch what tells where manifests and their chunks are. Only a hint, for far stores."""
        if self._backend.is_remote:
            self.locations.expect(manifest_digests)  # whatever is believed of places: they have the manifests
            if self._index_will_do and not self._is_index_expected:
                self._is_index_expected = True
                self._backend.expect_list("index")

    def _look_at_index(self) -> bool:
        """Take a snapshot from the index alone; False where that does not show all that is there."""
        with self._lock:
            for _ in range(_MOST_LISTINGS):
                names, self._index_names = self._index_names or self._list("index", ".run"), None
                self._open_runs(names)
                if names == self._runs.keys():
                    break  # else one was merged away since it was listed
            runs = tuple(run for _, run in sorted(self._runs.items()) if isinstance(run, Run))
            if not runs or len(runs) < len(names):
                self._index_will_do = False
                return False
            packs = frozenset(sealed_name(pack.id) for run in runs if not run.is_far for pack in run.packs)
            self._snapshot = Snapshot(runs, (), packs, frozenset(), ())
            return True

    def refresh(self, thorough: bool = False) -> bool:
        """List the store again; tell whether anything was found that the last snapshot did not have.

        With `thorough`, runs whose digests or places are damaged are found out and not believed.
        """
        with self._lock:
            before = self._mark(), self._names
            if thorough:
                self._distrust_damaged_runs()
            for _ in range(_MOST_LISTINGS):
                self._names = self._list_all()
                self._snapshot = self._take(*self._names)
                if self._backend.is_remote and self._names[1] <= self._runs.keys():
                    break  # nothing has vanished, and a listing is three requests
                later = self._list_all()
                if all(names <= still for names, still in zip(self._names, later, strict=True)):
                    break
                # What was merged away while we looked may be in files that were not listed yet.
            has_changed = (self._mark(), self._names) != before
            self.generation += has_changed
            return has_changed

    def _list_all(self) -> tuple[frozenset[str], ...]:
        # In a far store nobody sees what others have in the making.
        incoming: frozenset[str] = frozenset() if self._backend.is_remote else self._list("incoming", ".pack")
        if self._backend.is_remote:
            for directory in ("index", "packs", DIRECTORY):
                self._backend.expect_list(directory)
        runs, packs = self._list("index", ".run"), self._list("packs", ".pack")
        return incoming, runs, packs, frozenset(filter(stage_of, self._backend.list(DIRECTORY)))

    def _list(self, directory: str, suffix: str) -> frozenset[str]:
        """List the well-formed names in a directory; what else lies there is not ours."""
        length = len(directory) + 1 + 32 + len(suffix)
        return frozenset(
            name
            for name in self._backend.list(directory)
            if len(name) == length and name.endswith(suffix) and _HEXADECIMAL.issuperset(id_of(name))
        )

    def _mark(self) -> list[tuple[str, int]]:
        """What a refresh may change under unchanged names: packs in the making grow, runs turn out damaged."""
        ends = [(loose.file_name, loose.end) for loose in self._loose.values()]
        return ends + [(name, 0) for name, run in self._runs.items() if not isinstance(run, Run)]

    def _distrust_damaged_runs(self) -> None:
        for name, run in self._runs.items():
            if isinstance(run, Run) and not run.is_intact():
                self._runs[name] = MalformedError(f"'{name}' is malformed: its digests do not have their checksum")

    def _take(
        self, incoming: frozenset[str], index: frozenset[str], packs: frozenset[str], retired: frozenset[str]
    ) -> Snapshot:
        self._open_runs(index)
        self._notes = {name: self._notes.get(name) or read_note(self._backend, name) for name in sorted(retired)}
        notes = tuple(note for note in self._notes.values() if note is not None)
        packs -= {name for note in notes if note.stage is Stage.TRASH for name in note.file_names}
        self._packs.keep(incoming | packs)
        runs = tuple(run for _, run in sorted(self._runs.items()) if isinstance(run, Run))
        covered = {sealed_name(pack.id) for run in runs for pack in run.packs}
        on_their_way = {name for name in incoming if sealed_name(id_of(name)) not in packs}
        names = (packs - covered) | on_their_way
        problems = self._read_loose(sorted(name for name in names if id_of(name) not in self._own_ids))
        problems += [(name, run) for name, run in self._runs.items() if isinstance(run, UnsupportedError)]
        return Snapshot(runs, tuple(self._loose.values()), packs, incoming, tuple(problems), notes)

    def _open_runs(self, names: frozenset[str]) -> None:
        self._runs = {name: run for name, run in self._runs.items() if name in names}
        new = names - self._runs.keys()
        self._expect_runs(new)
        for name in new:
            try:
                self._runs[name] = open_run(self._backend, name)
            except FileNotFoundError:
                pass  # merged away since it was listed: its packs count as not covered
            except (MalformedError, UnsupportedError, FileUnreadableError) as error:
                self._runs[name] = error

    def _expect_runs(self, names: Iterable[str]) -> None:
        """Begin to fetch the runs of a far store, but for those of which single ranges are read."""
        if not self._backend.is_remote:
            return
        from thetastore.packs.far_index import LEAST_FAR_RUN_BYTES, ends_of

        for name in names:
            try:
                nbytes = self._backend.open(name).size()
            except FileNotFoundError:
                continue
            is_far = nbytes >= LEAST_FAR_RUN_BYTES
            self._backend.expect(ends_of(name, nbytes) if is_far else [Range(name, 0, nbytes)])

    def look_up(self, digests: Iterable[Digest]) -> None:
        """Look up digests together that will be asked for one by one: for the long runs of a far store."""
        if self._backend.is_remote and any(run.is_far for run in self.snapshot().runs):
            from thetastore.packs.far_index import FarRun, look_up

            look_up(self._backend, [run for run in self.snapshot().runs if isinstance(run, FarRun)], digests)

    def add_run(self, run: Run) -> None:
        """Take a run into the snapshot that this process has just written."""
        with self._lock:
            self._runs[run.name] = run
            before = self._snapshot
            if before is not None:
                covered = frozenset(sealed_name(pack.id) for pack in run.packs)
                loose = tuple(loose for loose in before.loose if loose.file_name not in covered)
                runs, packs = (*before.runs, run), before.packs | covered
                self._snapshot = Snapshot(runs, loose, packs, before.incoming, before.problems, before.notes)

    def _read_loose(self, names: list[str]) -> list[tuple[str, ThetaError]]:
        problems: list[tuple[str, ThetaError]] = []
        known, self._loose = self._loose, {}
        for name in names:
            try:
                self._loose[name] = read_loose(self._packs, name, known.get(name))
            except FileNotFoundError:
                pass  # sealed or merged away since it was listed; a miss lists again
            except MalformedError as error:
                if name.startswith("packs/"):  # one in the making may have nothing in it yet
                    problems.append((name, error))
            except (UnsupportedError, FileUnreadableError) as error:
                problems.append((name, error))
        return problems


def open_run(backend: Backend, name: str) -> Run:
    """Open a run: a long one far away so that ranges of it are read.

    Raises:
        FileNotFoundError: it is gone.
        MalformedError, UnsupportedError: as `Run`.
    """
    if backend.is_remote:
        from thetastore.packs.far_index import LEAST_FAR_RUN_BYTES, FarRun

        nbytes = backend.open(name).size()
        if nbytes >= LEAST_FAR_RUN_BYTES:
            return FarRun(backend, name, nbytes)
    return Run(backend.view(name), name)


def read_loose(packs: Packs, name: str, known: Loose | None = None) -> Loose:
    """Read what a pack holds, going on from what is known of it.

    Raises:
        FileNotFoundError: it is gone.
        MalformedError, UnsupportedError: its preamble; so a pack of which nothing is written yet is malformed.
    """
    pack = packs.get(name)
    if name.startswith("packs/"):
        if known is not None:
            return known
        loose = Loose(name)
        loose.add(records_of(pack))
        loose.file_bytes = pack.size()
        return loose
    loose = Loose(name)
    if known is not None:
        loose.places, loose.rows, loose.end = dict(known.places), list(known.rows), known.end
    loose.add(pack.records(loose.end) if loose.end else pack.records())
    return loose


def records_of(pack: Pack) -> list[Record]:
    """Return all records of a sealed pack: by its footer, or forwards where that is damaged."""
    try:
        return pack.table()
    except MalformedError:
        return list(pack.records())


def sealed_pack(loose: Loose) -> SealedPack:
    """Return what an index run needs to know of a sealed pack that none covers."""
    return SealedPack(id_of(loose.file_name), loose.file_bytes, loose.rows)


def id_of(name: str) -> str:
    """Return the id in the file name of a pack or run."""
    return name[name.index("/") + 1 : name.index(".")]


_HEXADECIMAL = frozenset("0123456789abcdef")
