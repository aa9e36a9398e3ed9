"""Letting go of pins: what no ref of a Git repository reaches is marked, looked at again after a grace, and deleted.

The order of the steps is the protocol (docs/format/pins.md, "Letting go"); each rests on the one before it:

1. Sessions: those without a sign of life are revoked.
2. The refs of the Git repository are read, and what they need and no pin covers is pinned.
3. Pins are read. Those of commits that refs reach stay, young ones, and whatever one that stays leans on.
4. Of the others, those without a mark get one: from then on nobody leans on them. Marks are never taken back.
5. Those whose mark is older than the grace, and than every session, are deleted; after each, its mark.

A writer either saw the mark and did not lean on the pin, or has a session that began before it. In the second case it
has written its pin when the session ends, and step 3 sees what that leans on; or it finds out that it was revoked, and
looks again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from thetastore import sessions
from thetastore.backends import Backend
from thetastore.backends.clock import now_s
from thetastore.collecting.collect import SLACK_S
from thetastore.collecting.roots import pins_of, pins_that_stand
from thetastore.digest import Digest
from thetastore.errors import BackendError, MalformedError
from thetastore.packs.upkeep import MERGE_LOCK
from thetastore.pins import Pin, PinName, list_pins

_MOST_ROUNDS = 2


class Seen(NamedTuple):
    """What a look at the refs of a Git repository came to."""

    reached: Callable[[Iterable[str]], set[str]]
    """Which of some commits the refs reach."""
    unpinned: frozenset[Digest] = frozenset()
    """What they need and no pin names yet, because nothing was to be changed."""


Look = Callable[[], Seen]
"""Reads the refs as they are at the moment of the call, and pins what they need."""


def reaches_nothing() -> Seen:
    """Look at a repository that is gone for good."""
    return Seen(lambda commits: set())


class Unpinned(NamedTuple):
    """What became of the pins of one Git repository, or would."""

    pin_count: int
    kept_count: int
    """Of commits that refs reach, or that others lean on; without those of `young_count`."""
    young_count: int
    """Kept because they were written within the grace: the push may still be under way."""
    marked: tuple[Pin, ...]
    """Nobody leans on them from now on."""
    waiting: tuple[Pin, ...]
    """Marked before, and the grace is not over, or a session is older than the mark."""
    deleted: tuple[Pin, ...]
    manifest_count: int
    """Of all three, what no pin names that stays."""
    held_by: tuple[str, ...]
    """Sessions that pins wait for, though the grace is over."""
    next_s: float | None
    """In so many seconds the next step can be taken; None where none waits."""


def unpin(backend: Backend, repository: str, look: Look, grace_s: float, is_dry: bool = False) -> Unpinned:
    """Let go of pins of one Git repository, in two steps with a grace between them.

    Args:
        backend: of the store.
        repository: whose pins; those of others stay.
        look: what the repository needs; called after dead writers were revoked, in each round.
        grace_s: from being marked to being deleted.
        is_dry: change nothing.

    Raises:
        BackendError: the place does not answer; or another process merges, repacks or collects (`EAGAIN`).
        ThetaError: something is not understood, so nothing was let go of; and whatever `look` raises.
    """
    if is_dry:
        return _round(backend, repository, look, grace_s, is_dry)
    with backend.try_lock(MERGE_LOCK) as is_ours:
        if not is_ours:
            words = "another process is merging, repacking or collecting (in a bucket, one that was killed: for a day)"
            raise BackendError(errno.EAGAIN, words, backend.url)
        done = _round(backend, repository, look, grace_s, is_dry)
        for _ in range(_MOST_ROUNDS - 1):
            if not done.marked or done.held_by or done.next_s:
                break
            last = _round(backend, repository, look, grace_s, is_dry)
            done = last._replace(pin_count=done.pin_count, deleted=done.deleted + last.deleted)
        return done


class _Turn(Enum):
    """What a round does to a pin that is not kept."""

    MARK = "mark"
    WAIT = "wait"
    DELETE = "delete"


class _Step(NamedTuple):
    name: PinName
    turn: _Turn
    held_by: frozenset[str] = frozenset()
    """Sessions that it waits for."""
    next_s: float | None = None
    """In so many seconds its next step can be taken."""


def _round(backend: Backend, repository: str, look: Look, grace_s: float, is_dry: bool) -> Unpinned:
    time_s = now_s(backend)
    at_work = sessions.alive(backend, time_s, revokes=not is_dry)
    seen = look()
    everything = pins_of(backend)
    ours = {name: pin for name, pin in everything.items() if name.repository == repository}
    ages_s = _Ages(backend, time_s)
    named, young = _to_keep(ours, seen, ages_s, grace_s)
    kept = _with_what_is_leant_on([*named, *young], ours)
    steps = [_step(name, ages_s, at_work, grace_s) for name in sorted(ours.keys() - kept)]
    if not is_dry:
        for step in steps:
            _take(backend, step)
        _sweep_lone_marks(backend, repository)
    going = {step.name for step in steps}
    names_left = {digest for name, pin in everything.items() if name not in going for digest in pin.manifests}
    alone = {digest for name in going for digest in ours[name].manifests} - names_left - seen.unpinned
    next_s = [grace_s - ages_s.of(name.file_name) for name in young]
    return Unpinned(
        pin_count=len(ours),
        kept_count=len(kept) - len(young),
        young_count=len(young),
        marked=_pins_whose(_Turn.MARK, steps, ours),
        waiting=_pins_whose(_Turn.WAIT, steps, ours),
        deleted=_pins_whose(_Turn.DELETE, steps, ours),
        manifest_count=len(alone),
        held_by=tuple(sorted(frozenset[str]().union(*(step.held_by for step in steps)))),
        next_s=min((*next_s, *(step.next_s for step in steps if step.next_s is not None)), default=None),
    )


def _pins_whose(turn: _Turn, steps: Iterable[_Step], ours: Mapping[PinName, Pin]) -> tuple[Pin, ...]:
    return tuple(ours[step.name] for step in steps if step.turn is turn)


def _to_keep(
    ours: Mapping[PinName, Pin], seen: Seen, ages_s: _Ages, grace_s: float
) -> tuple[list[PinName], list[PinName]]:
    """Return the pins without a mark of commits that refs reach, and those of others that are young.

    One that leans on what is gone, since its writer slept while it was let go of, is neither where another one of its
    commit says what this one does not.
    """
    reached = seen.reached({name.commit for name in ours})
    standing = pins_that_stand(ours)
    replaced = {name.commit for name in standing if not name.is_going and not name.is_partial}
    unmarked = [name for name in ours if not name.is_going and (name in standing or name.commit not in replaced)]
    named = [name for name in unmarked if name.commit in reached]
    young = [name for name in unmarked if name.commit not in reached and ages_s.of(name.file_name) < grace_s]
    return named, young


def _step(name: PinName, ages_s: _Ages, at_work: Iterable[sessions.Known], grace_s: float) -> _Step:
    """Return what follows for a pin that is not kept."""
    if not name.is_going:
        return _Step(name, _Turn.MARK, next_s=grace_s)
    age_s = ages_s.of(name.mark_name)
    if age_s < grace_s:
        return _Step(name, _Turn.WAIT, next_s=grace_s - age_s)
    marked_s = ages_s.time_s - age_s
    older = frozenset(f"{sessions.DIRECTORY}/{one.id}" for one in at_work if one.begun_s <= marked_s + SLACK_S)
    return _Step(name, _Turn.WAIT, held_by=older) if older else _Step(name, _Turn.DELETE)


def _take(backend: Backend, step: _Step) -> None:
    if step.turn is _Turn.MARK:
        _mark(backend, step.name)
    elif step.turn is _Turn.DELETE:
        backend.delete(step.name.file_name)
        backend.delete(step.name.mark_name)


class _Ages:
    """How old files are, by the place's clock; each is asked for once."""

    def __init__(self, backend: Backend, time_s: float) -> None:
        self.time_s = time_s
        """What time it is there."""
        self._backend = backend
        self._known: dict[str, float] = {}

    def of(self, name: str) -> float:
        """Return the age in seconds; what is gone is as young as can be, so that nothing follows from it."""
        if name not in self._known:
            try:
                self._known[name] = self.time_s - self._backend.written_s(name)
            except FileNotFoundError:
                self._known[name] = 0.0
        return self._known[name]


def _with_what_is_leant_on(roots: Iterable[PinName], ours: Mapping[PinName, Pin]) -> set[PinName]:
    """Return pins and all that they lean on, marked or not.

    Raises:
        MalformedError: one leans on what is not there.
    """
    leanable: dict[str, list[PinName]] = {}
    for name in sorted(ours, key=lambda name: name.is_going):
        known = leanable.setdefault(name.commit, [])
        if not name.is_partial and not (known and name.is_going):  # a marked one only where no other is
            known.append(name)
    kept = set(roots)
    waiting = list(kept)
    while waiting:
        name = waiting.pop()
        for commit in ours[name].leans_on:
            others = leanable.get(commit, [])
            if not others:
                words = f"the pin of commit '{name.commit}' leans on '{commit}', of which there is none"
                raise MalformedError(f"{words}; from a clone that has the commit, run: git theta push --all")
            waiting += [other for other in others if other not in kept]
            kept.update(others)
    return kept


def _mark(backend: Backend, name: PinName) -> None:
    try:
        backend.create(name.mark_name, b"")
    except FileExistsError:
        pass  # somebody else was faster


def _sweep_lone_marks(backend: Backend, repository: str) -> None:
    """Delete the marks of pins that are gone: somebody was killed between the two."""
    for name in list_pins(backend).lone_marks:
        if name.split("/")[1] == repository:
            backend.delete(name)
