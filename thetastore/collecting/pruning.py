"""A store that keeps some of what another one has: what the other one proves to have, and is not needed here, goes.

Nothing waits for a grace here, since nothing is lost: whoever still wanted it fetches it again. So packs take the way
of those that a repack replaces: they go as soon as no writer is at work that may lean on them. What nothing names goes
only for who asks for that, and never beside a writer: nobody else would have what it relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from thetastore.collecting.marking import needed_by, read_tables, with_bases
from thetastore.collecting.roots import Root
from thetastore.collecting.tables import has, union, word_of, words_of
from thetastore.digest import Digest, Kind
from thetastore.errors import BackendError
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.packs.records import Entry
from thetastore.packs.retirement import Wanted, retire, sweep_locked
from thetastore.packs.upkeep import MERGE_LOCK, Upkeep

if TYPE_CHECKING:
    from thetastore.collecting.tables import Table, Words

_LEAST_GOING = 0.1
"""A pack is written anew without what goes if that is so much of it."""


class Prunable(NamedTuple):
    """What a store may let go of, and why it keeps the rest."""

    needed_bytes: int
    """Needed here and now, or as a base of what is."""
    only_here_bytes: int
    """Named by a history, and nowhere else."""
    nameless_bytes: int
    """Named by nothing, and nowhere else."""
    elsewhere_bytes: int
    """What another store has and is not needed here: it may go."""
    going_bytes: int
    """The part of that which goes: not what lies among much that stays, nor more than is asked for."""
    pack_bytes: int
    """All packs."""


class Pruned(NamedTuple):
    """What was done, or would be."""

    found: Prunable
    freed_bytes: int
    is_swept: bool
    """Whether the packs are gone; else they go when the processes that are writing have ended."""


def prune(
    objects: Objects,
    needed: Iterable[Root],
    named: Iterable[Root],
    is_elsewhere: Callable[[Digest], bool],
    *,
    drops_nameless: bool = False,
    most_bytes: int | None = None,
    used_s: Callable[[str], float] = lambda _: 0.0,
    is_dry: bool = False,
) -> Pruned:
    """Let go of what is not needed here and can be had from elsewhere.

    Args:
        objects: of the store.
        needed: files that are to stay whole.
        named: all files that any history names.
        is_elsewhere: asks another store for an object.
        drops_nameless: whether what nothing names goes although nobody else has it.
        most_bytes: let go of no more than is too much for this; None for all that may go.
        used_s: when a pack, by its file name, was last used: the oldest go first.
        is_dry: change nothing.

    Raises:
        BackendError: another process merges, repacks or collects, or it writes and `drops_nameless` (`EAGAIN`); or the
            disk is failing.
        ThetaError: something that is named is damaged.
    """
    import errno

    objects.count_only_durable()
    pruning = _Pruning(objects, needed, named, is_elsewhere, drops_nameless)
    going = pruning.choose(most_bytes, used_s)
    found = pruning.found(going)
    if is_dry or not going:
        return Pruned(found, found.going_bytes, True)
    upkeep = Upkeep(objects.backend, objects.catalog, objects.packs, objects.pack_bytes)
    with objects.backend.try_lock(MERGE_LOCK) as is_ours:
        if not is_ours:
            words = "another process is merging, repacking or collecting"
            raise BackendError(errno.EAGAIN, words, objects.backend.url)
        if drops_nameless and upkeep.settle([]):
            words = (
                "another process is storing weights, and may rely on what nothing names yet: prune when it has ended"
            )
            raise BackendError(errno.EAGAIN, words, objects.backend.url)
        wanted = pruning.wanted(going)
        there = going & objects.catalog.snapshot().packs
        retire(objects.backend, objects.catalog, objects.packs, upkeep, there, wanted=wanted)
        is_swept = sweep_locked(objects.backend, objects.catalog, objects.packs, upkeep, objects.code_alone)
    return Pruned(found, found.going_bytes, is_swept)


class _Pruning:
    """What is known of a store before anything goes."""

    def __init__(
        self,
        objects: Objects,
        needed: Iterable[Root],
        named: Iterable[Root],
        is_elsewhere: Callable[[Digest], bool],
        drops_nameless: bool,
    ) -> None:
        self._objects = objects
        roots = list(named)
        needed_words = needed_by(objects, needed, may_lack=True)
        self._named = needed_by(objects, roots, may_lack=True)
        objects.catalog.refresh(thorough=True)
        snapshot = objects.catalog.snapshot()
        self._tables: dict[str, Table] = read_tables(objects, snapshot.packs - snapshot.retired)
        tables = list(self._tables.values())
        self._elsewhere = self._proven(with_bases(needed_words, tables), is_elsewhere)
        everything = union(table.words for table in tables)
        self._needed = with_bases(needed_words, tables)
        may_go = self._elsewhere
        if drops_nameless:
            may_go = union([may_go, everything[~has(self._named, everything)]])
        staying = union([self._needed, self._of_what_is_not_whole(roots), everything[~has(may_go, everything)]])
        # What somebody's difference stands on stays with it, even if it is elsewhere as well.
        self._staying = with_bases(staying, tables)

    def _of_what_is_not_whole(self, named: Iterable[Root]) -> Words:
        """Return what files need of which no other store has all: without what they share with others they are lost."""
        safe = union([self._needed, self._elsewhere])
        if has(safe, self._named).all():
            return union([])
        parts = (needed_by(self._objects, [root], may_lack=True) for root in named)
        return union(words for words in parts if not has(safe, words).all())

    def _proven(self, needed: Words, is_elsewhere: Callable[[Digest], bool]) -> Words:
        """Return what another store was asked for, and has, by whole digests: no other object here has such a word."""
        found: set[Digest] = set()
        for digest in self._digests():
            if digest not in found and not has(needed, words_of([digest])).any() and is_elsewhere(digest):
                found.add(digest)
        words = words_of(found)
        alike = [digest for digest in self._digests() if digest not in found and has(words, words_of([digest])).any()]
        return words[~has(words_of(alike), words)]

    def _digests(self) -> Iterator[Digest]:
        """Yield what all packs hold, some of it more than once."""
        for name in sorted(self._tables):
            for record in records_of(self._objects.packs.get(name)):
                yield record.entry.digest

    def wanted(self, going: frozenset[str]) -> Wanted:
        """Return what has to stay of packs that are written anew, as far as the tables told that were read."""
        return Wanted(self._is_wanted, self._leaning_on(going), self._tables.keys())

    def _is_wanted(self, entry: Entry) -> bool:
        """Tell whether an object has to stay; one of a kind that this version does not know does."""
        word = word_of(entry.digest)
        at = int(self._staying.searchsorted(word))
        is_staying = at < len(self._staying) and int(self._staying[at]) == word
        return is_staying or entry.kind not in set(Kind)

    def _going_bytes(self, name: str) -> int:
        table = self._tables[name]
        return int(table.nbytes[~table.is_needed(self._staying)].sum())

    def choose(self, most_bytes: int | None, used_s: Callable[[str], float]) -> frozenset[str]:
        """Return the packs that are to be written anew without what goes, those used longest ago first."""
        sizes = {name: self._going_bytes(name) for name, table in self._tables.items() if table.is_whole}
        worth = [
            name
            for name, nbytes in sizes.items()
            if nbytes and nbytes >= _LEAST_GOING * int(self._tables[name].nbytes.sum())
        ]
        if most_bytes is None:
            return frozenset(worth)
        left = sum(self._objects.packs.get(name).size() for name in self._tables) - most_bytes
        going = set()
        for name in sorted(worth, key=used_s):
            if left <= 0:
                break
            going.add(name)
            left -= sizes[name]
        return frozenset(going)

    def _leaning_on(self, going: frozenset[str]) -> list[str]:
        """Return the packs that stay and in which something has its base in one that goes."""
        words = union(self._tables[name].words for name in going)
        staying = self._tables.keys() - going
        return [name for name in sorted(staying) if has(words, self._tables[name].edges.bases).any()]

    def found(self, going: frozenset[str]) -> Prunable:
        """Return the figures."""
        sums = dict.fromkeys(("needed", "only_here", "nameless", "elsewhere"), 0)
        for table in self._tables.values():
            is_needed = has(self._needed, table.words)
            is_elsewhere = has(self._elsewhere, table.words) & ~is_needed
            is_named = has(self._named, table.words) & ~is_needed & ~is_elsewhere
            masks = (is_needed, is_named, ~(is_needed | is_elsewhere | is_named), is_elsewhere)
            for key, mask in zip(sums, masks, strict=True):
                sums[key] += int(table.nbytes[mask].sum())
        return Prunable(
            sums["needed"],
            sums["only_here"],
            sums["nameless"],
            sums["elsewhere"],
            sum(self._going_bytes(name) for name in going),
            sum(self._objects.packs.get(name).size() for name in self._tables),
        )
