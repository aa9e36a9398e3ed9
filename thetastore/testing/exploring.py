"""Every way in which processes can come between each other's steps, tried with the real code.

Processes run in threads (`stepping`), over one `MemoryBackend`, and exactly one of them takes a step at a time: a step
is one operation that others can see (create, delete, list, seal, take over, lock), and what the process does until its
next one. At each step something else may happen than that the process goes on: another one goes on instead, it is
killed, or the operation takes place and its answer is lost. `explore` tries all schedules with so many of such events,
or some.

States are remembered: what files there are, and what each process has seen so far, which is all that its future depends
on. What was tried from a state is not tried from it again, however it was reached; a run ends where it comes to a state
from which another one went on; and what is left of two runs that end alike is checked once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from thetastore.testing.stepping import Body, SteppedBackend, World, chance_and_time_repeat

__all__ = ["explore", "Explored", "Choice", "Body", "SteppedBackend", "World"]


class Choice(NamedTuple):
    """What happens next."""

    process: int
    """Whose step it is."""
    event: str
    """`step`, `kill`, or `lose` (the operation takes place, and its answer is lost)."""


class Explored(NamedTuple):
    """What came out."""

    run_count: int
    state_count: int
    """Different states that were met."""
    is_complete: bool
    """Whether nothing was left out within the given number of events."""
    loss: str | None
    """What `check` found; None if nothing."""
    schedule: tuple[Choice, ...]
    """By which this came about."""


def explore(
    make: Callable[[], World],
    bodies: Sequence[Body],
    check: Callable[[World], str | None],
    most_events: int,
    most_runs: int,
    seed: int = 0,
    faults: Sequence[str] = ("kill", "lose"),
) -> Explored:
    """Run processes in all orders with at most so many events that are not a process going on; stop at a loss.

    Args:
        make: makes a world as it is at the beginning; called once.
        bodies: what the processes do.
        check: looks at a world in which all processes have ended; returns what is wrong, or None. What is wrong
            depends on the files, the time, and what was reported.
        most_events: how often a process is interrupted by another one, killed, or loses an answer.
        most_runs: how many schedules are tried; if that is not all, which ones is left to chance.
        seed: of that chance.
        faults: which of `kill` and `lose` may happen.
    """
    chance = random.Random(seed)
    with chance_and_time_repeat():
        search = _Search(make(), bodies, check, most_events, faults)
        while search.waiting and search.run_count < most_runs:
            at = chance.randrange(len(search.waiting))
            search.waiting[at], search.waiting[-1] = search.waiting[-1], search.waiting[at]
            schedule, loss = search.run(search.waiting.pop())
            if loss is not None:
                return Explored(search.run_count, len(search.states), False, loss, schedule)
    return Explored(search.run_count, len(search.states), not search.waiting, None, ())


class _Planned(NamedTuple):
    """A schedule that begins like another one, and then goes on otherwise."""

    schedule: tuple[Choice, ...]
    """The other one, shared by all that begin like it."""
    events_left: int
    length: int = 0
    """So much of it is the same."""
    choice: Choice | None = None
    """What comes next; None for whatever comes by itself."""

    def choices(self) -> list[Choice]:
        """Return what is planned."""
        return [*self.schedule[: self.length], *([] if self.choice is None else [self.choice])]


class _Search:
    """What has been tried, and what is waiting to be."""

    def __init__(
        self,
        beginning: World,
        bodies: Sequence[Body],
        check: Callable[[World], str | None],
        most_events: int,
        faults: Sequence[str],
    ) -> None:
        self.waiting = [_Planned((), most_events)]
        self.states: set[bytes] = set()
        self.run_count = 0
        self._beginning = beginning
        self._bodies = bodies
        self._check = check
        self._faults = faults
        self._tried: dict[tuple[bytes, Choice], int] = {}
        """With how many events left something was tried from a state."""
        self._followed: dict[tuple[bytes, Choice, bool], int] = {}
        """With how many events left a run went on from a state by itself: another one would do the same again."""
        self._checked: dict[bytes, str | None] = {}
        """What was found in what processes left behind."""

    def run(self, planned: _Planned) -> tuple[tuple[Choice, ...], str | None]:
        """Run a schedule as it is planned, then each process until it is done; return it, and what was lost."""
        self.run_count += 1
        world = self._beginning.copy()
        world.run(self._bodies)
        try:
            schedule = planned.choices()
            for choice in schedule:
                _take(world, choice)
            branches = self._go_on(world, schedule, planned.events_left)
            found = None if world.alive() else self._checked_once(world)
        finally:
            world.stop()
        self._plan(tuple(schedule), branches)
        return tuple(schedule), found

    def _go_on(self, world: World, schedule: list[Choice], events_left: int) -> list[tuple[int, bytes, Choice, int]]:
        """Let each process go on until it is done, or until another run went on from here; return what else could be.

        That is: after how many choices, in which state, which one, and how many events are left then.
        """
        branches = []
        while world.alive():
            running = world.processes[schedule[-1].process] if schedule else None
            goes_on = running is not None and not running.is_done
            choice = Choice((running if running and goes_on else world.alive()[0]).number, "step")
            state = world.state()
            if self._followed.get((state, choice, goes_on), -1) >= events_left:
                break
            self._followed[state, choice, goes_on] = events_left
            self.states.add(state)
            for other, cost in _others(world, choice, goes_on, self._faults):
                branches.append((len(schedule), state, other, events_left - cost))
            schedule.append(choice)
            _take(world, choice)
        return branches

    def _plan(self, schedule: tuple[Choice, ...], branches: list[tuple[int, bytes, Choice, int]]) -> None:
        for length, state, other, left in branches:
            if left >= 0 and self._tried.get((state, other), -1) < left:
                self._tried[state, other] = left
                self.waiting.append(_Planned(schedule, left, length, other))

    def _checked_once(self, world: World) -> str | None:
        outcome = world.outcome()
        if outcome not in self._checked:
            self._checked[outcome] = self._check(world)
        return self._checked[outcome]


def _take(world: World, choice: Choice) -> None:
    """Let happen what is chosen."""
    process = world.processes[choice.process]
    if not process.is_done:
        process.resume(choice.event)
    while choice.event == "kill" and not process.is_done:
        process.resume("kill")


def _others(world: World, choice: Choice, goes_on: bool, faults: Sequence[str]) -> list[tuple[Choice, int]]:
    """Return what could happen instead of a choice, with what each costs."""
    others = [
        (Choice(process.number, "step"), 1 if goes_on else 0)
        for process in world.alive()
        if process.number != choice.process
    ]
    others += [(Choice(choice.process, fault), 1) for fault in faults if _can(world, choice, fault)]
    return others


def _can(world: World, choice: Choice, fault: str) -> bool:
    verb = world.processes[choice.process].waiting_for.partition(" ")[0]
    return fault == "kill" or verb in ("create", "delete", "list")
