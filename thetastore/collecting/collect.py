"""Garbage collection: what no root leads to is condemned, looked at again after a grace, put in the trash, and deleted.

The order of the steps is the protocol (docs/format/collecting.md); each rests on the one before it:

1. Sessions: those without a sign of life are revoked. What was condemned before a session began stays while it lives.
2. Roots are read, and all that they lead to. A writer whose session was revoked in step 1 and that writes a ref
   later than this finds out that it was revoked; one that has written it is seen here.
3. The tables of all packs are read: whatever the roots need is in them, or came back from the trash.
4. Condemned packs whose grace is over, and which no session or writer at work is older than, go into the trash; what is
   needed of them by now is copied first. What has lain there for long enough is deleted.
5. Packs in which enough is not needed are condemned; what is needed of them is copied first.

Everything may be killed at any point, and be done by two at once: what the one has decided is either still so, or some
third look comes in between.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from thetastore import sessions
from thetastore.backends import Backend
from thetastore.backends.clock import now_s
from thetastore.collecting.marking import needed_by, read_tables, with_bases
from thetastore.collecting.remembered import Remembered
from thetastore.collecting.roots import Root, Roots
from thetastore.collecting.sidecars import delete_sidecars
from thetastore.collecting.tables import Table, has, union, word_of, words_of
from thetastore.digest import Digest, Kind
from thetastore.errors import BackendError, MalformedError, ObjectMissingError
from thetastore.objects import Objects
from thetastore.packs.records import Entry
from thetastore.packs.retirement import Wanted, put_in_trash, retire, sweep_locked
from thetastore.packs.retirement_notes import RetirementNote, Stage
from thetastore.packs.upkeep import LITTER_AGE_S, MERGE_LOCK, Upkeep
from thetastore.packs.writer import incoming_name, sealed_name

if TYPE_CHECKING:
    from thetastore.collecting.tables import Words

NEAR_GRACE_S = 24 * 3600.0
FAR_GRACE_S = 7 * 24 * 3600.0
SLACK_S = 3600.0
"""So far may the clocks of the machines that a place is made of be from each other."""
_LEAST_DEAD_NEAR = 0.2
_LEAST_DEAD_FAR = 0.5
"""A pack goes if so much of it is not needed: the rest has to be copied, by way of the network in the second case."""
_MOST_ROUNDS = 3


class Terms(NamedTuple):
    """How long what is let go of can still come back."""

    grace_s: float
    """From being condemned to the trash."""
    trash_s: float
    """From the trash to being deleted."""


def usual_terms(backend: Backend) -> Terms:
    """Return what holds where nobody says otherwise."""
    grace_s = FAR_GRACE_S if backend.is_remote else NEAR_GRACE_S
    return Terms(grace_s, grace_s)


class Amount(NamedTuple):
    """Packs, and the bytes in them."""

    pack_count: int = 0
    nbytes: int = 0


class Collected(NamedTuple):
    """What a collection found, and did or would do."""

    root_count: int
    needed_count: int
    """Objects that roots lead to, and bases of these."""
    base_count: int
    """Those of them that are needed as bases only."""
    object_count: int
    """Objects in the packs that are in use."""
    needed_bytes: int
    unneeded_bytes: int
    """In the packs that are in use, without condemned ones."""
    staying_bytes: int
    """The part of these in packs of which too little is not needed, or that are too young."""
    condemned: Amount
    """Packs that are condemned now."""
    copied_bytes: int
    """What was needed of packs that go."""
    trashed: Amount
    """Packs that went into the trash."""
    deleted: Amount
    """Packs that are gone."""
    waiting: Amount
    """Condemned packs whose grace is not over, or that a session or a writer at work is older than."""
    in_trash: Amount
    """Packs that stay in the trash for the time being."""
    returned: Amount
    """Packs that came back from the trash, since they hold what is needed."""
    held_by: tuple[str, ...]
    """Sessions and writers at work that condemned packs wait for, though their grace is over."""
    next_s: float | None
    """In so many seconds the next step can be taken for some pack; None where none waits."""


def collect(
    objects: Objects,
    roots: Roots,
    terms: Terms | None = None,
    is_dry: bool = False,
    remembered: Remembered | None = None,
) -> Collected:
    """Do one round of garbage collection; more than one where nothing has to wait.

    Args:
        objects: of the store; nothing may have been added to it that is not sealed.
        roots: what has to be kept.
        terms: how long to wait; None for what is usual.
        is_dry: change nothing, and only say what would be done now.
        remembered: what earlier runs have read of the store; what this one has read is there for the next.

    Raises:
        BackendError: the place does not answer; or another process merges, repacks or collects (`EAGAIN`).
        ThetaError: something is unreadable or unknown that could be needed, so nothing was let go of.
    """
    terms = terms or usual_terms(objects.backend)
    remembered = remembered or Remembered()
    if is_dry:
        collected = _Round(objects, roots, terms, None, remembered).run()
        remembered.save()
        return collected
    upkeep = Upkeep(objects.backend, objects.catalog, objects.packs, objects.pack_bytes)
    with objects.backend.try_lock(MERGE_LOCK) as is_ours:
        if not is_ours:
            words = "another process is merging, repacking or collecting (in a bucket, one that was killed: for a day)"
            raise BackendError(errno.EAGAIN, words, objects.backend.url)
        objects.backend.delete_litter(LITTER_AGE_S)
        objects.count_only_durable()
        if not objects.backend.is_remote:
            sweep_locked(objects.backend, objects.catalog, objects.packs, upkeep, objects.code_alone)
        collected = _Round(objects, roots, terms, upkeep, remembered).run()
        for _ in range(_MOST_ROUNDS):
            if collected.held_by or collected.next_s is None or collected.next_s > 0:
                break
            collected = _sum(collected, _Round(objects, roots, terms, upkeep, remembered).run())
    remembered.save()
    return collected


def _sum(first: Collected, last: Collected) -> Collected:
    """Return what two rounds did together, and what the last one left."""
    return last._replace(
        condemned=_plus(first.condemned, last.condemned),
        trashed=_plus(first.trashed, last.trashed),
        deleted=_plus(first.deleted, last.deleted),
        returned=_plus(first.returned, last.returned),
        copied_bytes=first.copied_bytes + last.copied_bytes,
        unneeded_bytes=first.unneeded_bytes,
    )


def _plus(one: Amount, other: Amount) -> Amount:
    return Amount(one.pack_count + other.pack_count, one.nbytes + other.nbytes)


class _Round:
    """One look at everything, and what follows from it."""

    def __init__(
        self, objects: Objects, roots: Roots, terms: Terms, upkeep: Upkeep | None, remembered: Remembered
    ) -> None:
        self._objects = objects
        self._remembered = remembered
        self._backend = objects.backend
        self._roots = roots
        self._terms = terms
        self._upkeep = upkeep
        self._held_by: set[str] = set()
        self._next_s: float | None = None
        self._copied_bytes = 0
        self._returned = Amount()
        self._tables: dict[str, Table] = {}
        """By file name: of the packs that are read, and of those that came back from the trash."""

    def run(self) -> Collected:
        self._now_s = now_s(self._backend)
        self._at_work = self._whoever_is_at_work()
        roots = list(self._roots())
        named = self._named(roots)
        self._objects.catalog.refresh(thorough=True)
        self._tables.update(self._read_tables(self._objects.catalog.snapshot().packs))
        self._needed = with_bases(named, self._tables.values())
        if self._bring_back():
            self._needed = with_bases(named, self._tables.values())
        trashed, waiting = self._judge_condemned()
        deleted, in_trash = self._empty_trash()
        unneeded = self._unneeded()
        going = self._going(unneeded)
        condemned = self._condemn(going)
        in_use = self._in_use()
        return Collected(
            root_count=len({root.manifest_digest for root in roots}),
            needed_count=len(self._needed),
            base_count=len(self._needed) - len(named),
            object_count=len(union(self._tables[name].words for name in in_use)),
            needed_bytes=sum(int(self._tables[name].nbytes.sum()) for name in in_use) - sum(unneeded.values()),
            unneeded_bytes=sum(unneeded.values()),
            staying_bytes=sum(nbytes for name, nbytes in unneeded.items() if name not in going),
            condemned=condemned,
            copied_bytes=self._copied_bytes,
            trashed=trashed,
            deleted=deleted,
            waiting=waiting,
            in_trash=in_trash,
            returned=self._returned,
            held_by=tuple(sorted(self._held_by)),
            next_s=self._next_s,
        )

    # Who is at work

    def _whoever_is_at_work(self) -> dict[str, float]:
        """Return sessions and packs in the making that may rely on what is condemned, by when they began."""
        found = {
            f"{sessions.DIRECTORY}/{known.id}": known.begun_s
            for known in sessions.alive(self._backend, self._now_s, revokes=self._upkeep is not None)
        }
        if self._upkeep is not None and not self._backend.is_remote:
            for pack_id in self._upkeep.settle([]):
                try:
                    found[incoming_name(pack_id)] = self._backend.written_s(incoming_name(pack_id))
                except FileNotFoundError:
                    continue  # it was sealed, and is looked at with all others
        return found

    def _may_go_on(self, note: RetirementNote, wait_s: float) -> bool:
        """Tell whether packs have waited for long enough, and nobody is at work who may not have seen that they do."""
        noted_s = self._backend.written_s(note.name)
        left_s = noted_s + wait_s - self._now_s
        if left_s > 0:
            self._wait(left_s)
            return False
        older = [who for who, begun_s in self._at_work.items() if begun_s <= noted_s + SLACK_S]
        self._held_by.update(older)
        return not older

    def _wait(self, left_s: float) -> None:
        self._next_s = left_s if self._next_s is None else min(self._next_s, left_s)

    # What there is

    def _named(self, roots: list[Root]) -> Words:
        """Return what roots lead to, by manifests some of which may come back from the trash."""
        while True:
            try:
                return needed_by(self._objects, roots, remembered=self._remembered)
            except ObjectMissingError as error:
                missing = words_of([Digest.parse(error.digest)])
                if self._upkeep is None or len(self._take_back(missing)):
                    raise

    def _read_tables(self, names: Iterable[str]) -> dict[str, Table]:
        return read_tables(self._objects, names, self._remembered)

    def _bring_back(self) -> bool:
        """See to it that all that is needed is in packs that are read; tell whether some came back from the trash.

        Raises:
            MalformedError: something is nowhere.
        """
        missing = self._needed[~has(union(table.words for table in self._tables.values()), self._needed)]
        if not len(missing):
            return False
        missing = self._take_back(missing)
        if len(missing):
            words = f"{len(missing)} objects that are needed are not in the store: nothing is let go of"
            raise MalformedError(f"{words} (thetastore verify says what is wrong)")
        return True

    def _take_back(self, missing: Words) -> Words:
        """Take from the trash what has any of these objects; return those that are not there either."""
        self._objects.catalog.refresh()
        for note in self._objects.catalog.snapshot().notes_of(Stage.TRASH):
            tables = self._read_tables(note.file_names)
            there = union(table.words for table in tables.values())
            if not has(there, missing).any():
                continue
            self._returned = _plus(self._returned, self._amount(note.file_names))
            self._tables.update(tables)
            missing = missing[~has(there, missing)]
            if self._upkeep is not None:
                self._backend.delete(note.name)
        if self._upkeep is not None and self._returned.pack_count:
            self._objects.catalog.refresh()
            self._upkeep.settle([])
        return missing

    def _in_use(self) -> list[str]:
        snapshot = self._objects.catalog.snapshot()
        return sorted((snapshot.packs - snapshot.retired) & self._tables.keys())

    def _unneeded(self) -> dict[str, int]:
        """Return how many bytes of each pack are not needed, where there are any."""
        found = {}
        for name in self._in_use():
            table = self._tables[name]
            nbytes = int(table.nbytes[~table.is_needed(self._needed)].sum())
            if nbytes:
                found[name] = nbytes
        return found

    def _wanted(self, going: frozenset[str]) -> Wanted:
        """Return what has to stay of packs: what is needed, and bases of whatever stays, needed or not."""
        words = union(self._tables[name].words for name in going if name in self._tables)
        snapshot = self._objects.catalog.snapshot()
        staying = (snapshot.packs - snapshot.retired - going) & self._tables.keys()
        leaning = [name for name in sorted(staying) if has(words, self._tables[name].edges.bases).any()]
        return Wanted(self._is_wanted, leaning, self._tables.keys())

    def _is_wanted(self, entry: Entry) -> bool:
        if entry.kind not in set(Kind):
            return True
        word = word_of(entry.digest)
        at = int(self._needed.searchsorted(word))
        return at < len(self._needed) and int(self._needed[at]) == word

    def _amount(self, names: Iterable[str]) -> Amount:
        sizes = []
        for name in names:
            try:
                sizes.append(self._backend.size(name))
            except FileNotFoundError:
                continue
        return Amount(len(sizes), sum(sizes))

    # What becomes of it

    def _judge_condemned(self) -> tuple[Amount, Amount]:
        """Put what has waited for long enough into the trash; return that, and what has to wait on."""
        trashed, waiting = Amount(), Amount()
        for note in self._objects.catalog.snapshot().notes_of(Stage.CONDEMNED):
            amount = self._amount(note.file_names)
            try:
                may_go_on = self._may_go_on(note, self._terms.grace_s)
            except FileNotFoundError:
                continue  # somebody has pardoned it just now
            if not may_go_on:
                waiting = _plus(waiting, amount)
                continue
            trashed = _plus(trashed, amount)
            self._wait(self._terms.trash_s)
            if self._upkeep is not None:
                going = note.file_names & self._objects.catalog.snapshot().packs
                wanted = self._wanted(going)
                objects = self._objects
                self._copied_bytes += put_in_trash(
                    self._backend, objects.catalog, objects.packs, self._upkeep, note, wanted
                )
                self._read_new_tables()
        return trashed, waiting

    def _read_new_tables(self) -> None:
        names = self._objects.catalog.snapshot().packs - self._tables.keys()
        self._tables.update(self._read_tables(names))

    def _empty_trash(self) -> tuple[Amount, Amount]:
        """Delete what has lain in the trash for long enough; return that, and what stays."""
        deleted, in_trash = Amount(), Amount()
        for note in self._objects.catalog.snapshot().notes_of(Stage.TRASH):
            amount = self._amount(note.file_names)
            try:
                left_s = self._backend.written_s(note.name) + self._terms.trash_s - self._now_s
            except FileNotFoundError:
                continue  # somebody has brought it back just now
            if left_s > 0:
                self._wait(left_s)
                in_trash = _plus(in_trash, amount)
                continue
            deleted = _plus(deleted, amount)
            if self._upkeep is not None:
                self._delete(note)
        if deleted.pack_count and self._upkeep is not None:
            there = [table.words for table in self._tables.values()]
            for note in self._objects.catalog.snapshot().notes_of(Stage.TRASH):
                there += [table.words for table in self._read_tables(note.file_names).values()]
            delete_sidecars(self._backend, union(there), self._now_s - sessions.SESSION_S)
        return deleted, in_trash

    def _delete(self, note: RetirementNote) -> None:
        assert self._upkeep is not None
        # Killed while it put them into the trash, a collector may have left them in the index, or condemned besides.
        runs = self._objects.catalog.snapshot().runs
        if any(sealed_name(pack.id) in note.file_names for run in runs for pack in run.packs):
            self._upkeep.uncover(note.file_names, [])
        for name in sorted(note.file_names):
            self._backend.delete(name)
        self._backend.delete(note.name.removesuffix(Stage.TRASH.value) + Stage.CONDEMNED.value)
        self._backend.delete(note.name)

    def _going(self, unneeded: dict[str, int]) -> frozenset[str]:
        """Return the packs that are worth being condemned."""
        least = _LEAST_DEAD_FAR if self._backend.is_remote else _LEAST_DEAD_NEAR
        going = set()
        for name, nbytes in unneeded.items():
            table: Table = self._tables[name]
            if table.is_whole and nbytes >= least * int(table.nbytes.sum()) and self._is_old_enough(name):
                going.add(name)
        return frozenset(going)

    def _is_old_enough(self, name: str) -> bool:
        """Tell whether a pack's writer has had time to name what is in it: else it would only be stored again."""
        try:
            left_s = self._backend.written_s(name) + self._terms.grace_s - self._now_s
        except FileNotFoundError:
            return False
        if left_s > 0:
            self._wait(left_s)
        return left_s <= 0

    def _condemn(self, going: frozenset[str]) -> Amount:
        amount = self._amount(going)
        if going:
            self._wait(self._terms.grace_s)
        if going and self._upkeep is not None:
            objects = self._objects
            self._copied_bytes += retire(
                self._backend,
                objects.catalog,
                objects.packs,
                self._upkeep,
                going,
                wanted=self._wanted(going),
                stage=Stage.CONDEMNED,
            )
            self._read_new_tables()
        return amount
