"""The protocol of pins under every order of steps of a push and of somebody who unpins and collects; and unguarded."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from thetastore.backends.memory import MemoryBackend
from thetastore.collecting import unpinning
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.remembered import Remembered
from thetastore.collecting.roots import Root, pins_of, roots_of
from thetastore.collecting.unpinning import Seen, unpin
from thetastore.digest import Digest
from thetastore.errors import ThetaError
from thetastore.pins import Guard, Pin, PinName, pin_history, repository_of, write_pin
from thetastore.store import Store
from thetastore.testing.exploring import Body, Explored, SteppedBackend, World, explore

HOUR_S = 3600.0
URL = "https://example.org/models"
REPOSITORY = repository_of(URL)
GONE, NEXT, MAIN = "a" * 40, "b" * 40, "c" * 40
PARENTS = {GONE: (), NEXT: (GONE,), MAIN: ()}
WEIGHTS = {GONE: b"a branch that was deleted had this" * 9, NEXT: b"what follows it" * 9, MAIN: b"what all have" * 9}
GRACE = Terms(HOUR_S, HOUR_S)
WITHIN_A_SESSION_S = 1.5 * HOUR_S
LONGER_THAN_A_SESSION_S = 25 * HOUR_S
RootsOf = Callable[[Any], Iterable[Root]]


def make() -> World:
    """Make a store with pins of two commits, of which the Git repository has one."""
    world = World(is_remote=True)
    for commit in (MAIN, GONE):
        with Store.at(world.backend, create=True) as store:
            digest = store.put_file(io.BytesIO(WEIGHTS[commit])).manifest_digest
        write_pin(world.backend, Pin(URL, commit, (digest,)))
    world.backend.create(f"git/{MAIN}", b"")
    world.now_s += 48 * HOUR_S
    return world


def reached_by(commits: Iterable[str]) -> set[str]:
    found = set(commits)
    for commit in tuple(found):
        found |= reached_by(PARENTS[commit])
    return found


def digest_of_file(content: bytes) -> Digest:
    with Store.at(MemoryBackend(), create=True) as store:
        return store.put_file(io.BytesIO(content)).manifest_digest


MANIFESTS = {commit: digest_of_file(content) for commit, content in WEIGHTS.items()}


def is_readable(place: Any, commit: str) -> bool:
    with Store.at(place) as store:
        try:
            digest = MANIFESTS[commit]
            return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == WEIGHTS[commit]
        except ThetaError:
            return False


class Careless:
    """A session that is not asked whether it was honoured."""

    def is_vouched_for(self) -> bool:
        return True

    def seen_alive_s(self) -> int | None:
        return None


def pin(place: Any, store: Store, commit: str, guard: Guard | None = None, has_all: bool = True) -> None:
    """Do what a push does before git sends a commit; in a clone that has all weights, or only those of the store."""
    store.begin_session()

    def send(pinned: set[str]) -> list[Pin]:
        if commit in pinned:
            return []
        leans_on = sorted(pinned & set(PARENTS[commit]))
        brought = reached_by([commit]) - reached_by(leans_on)
        there = sorted(one for one in brought if has_all or is_readable(place, one))
        digests = [store.put_file(io.BytesIO(WEIGHTS[one])).manifest_digest for one in there]
        store.seal()
        return [Pin(URL, commit, tuple(sorted(digests)), tuple(leans_on), is_partial=len(there) < len(brought))]

    pin_history(place, REPOSITORY, [commit], send, guard or store.objects)


def push(commit: str, *, makes_sure: bool = True, view: Any = None, takes_s: float = 0, most_s: float = HOUR_S) -> Body:
    """Return a process that pins a commit and then gives it a ref; it promises nothing if that takes `most_s`."""

    def body(backend: SteppedBackend) -> None:
        place: Any = backend if view is None else view(backend)
        with Store.at(place) as store:
            pin(place, store, commit, None if makes_sure else Careless())
            pinned_s = backend.world.now_s
        if takes_s:
            backend.wait(takes_s)
        backend.create(f"git/{commit}", b"")
        if backend.world.now_s - pinned_s < most_s:
            backend.world.reported[commit] = True

    return body


def look(place: Any) -> Seen:
    """Read the refs, and pin what they point to."""
    tips = [name.removeprefix("git/") for name in place.list("git")]
    for commit in sorted(tips):
        with Store.at(place) as store:
            pin(place, store, commit, has_all=False)
    return Seen(lambda commits: reached_by(tips).intersection(commits))


def slow_push(commit: str, sendings: list[int], *, shows_life: bool = True) -> Body:
    """Return a process that takes two days to bring what it sends from elsewhere, and notes how often it had to."""

    def body(backend: SteppedBackend) -> None:
        with Store.at(backend) as store:
            store.begin_session()
            count = 0

            def send(pinned: set[str]) -> list[Pin]:
                nonlocal count
                count += 1
                for _ in range(3):
                    backend.wait(16 * HOUR_S)
                    if shows_life:
                        store.objects.keep_alive()
                digest = store.put_file(io.BytesIO(WEIGHTS[commit])).manifest_digest
                store.seal()
                return [] if commit in pinned else [Pin(URL, commit, (digest,), tuple(sorted(pinned & {GONE})))]

            pin_history(backend, REPOSITORY, [commit], send, store.objects)
            sendings.append(count)
        backend.create(f"git/{commit}", b"")

    return body


def keeper(
    pause_s: float,
    grace_s: float = HOUR_S,
    roots: RootsOf = roots_of,
    look: Callable[[Any], Seen] = look,
    view: Any = None,
    terms: Terms = GRACE,
) -> Body:
    """Return a process that unpins and collects again and again, with pauses."""

    def body(backend: SteppedBackend) -> None:
        place: Any = backend if view is None else view(backend)
        read_before = Remembered()
        for number in range(3):
            if number and pause_s:
                backend.wait(pause_s)
            unpin(place, REPOSITORY, lambda: look(backend), grace_s)
            with Store.at(backend) as store:
                collect(store.objects, lambda: roots(backend), terms, remembered=read_before)

    return body


def check_with(roots: RootsOf) -> Callable[[World], str | None]:
    """Return what lets everything be deleted that may be, and reads what was pushed."""

    def check(world: World) -> str | None:
        for _ in range(4):
            world.now_s += 30 * 24 * HOUR_S
            with suppress(ThetaError):  # nothing is let go of any more
                unpin(world.backend, REPOSITORY, lambda: look(world.backend), HOUR_S)
            with suppress(ThetaError), Store.at(world.backend) as store:
                collect(store.objects, lambda: roots(world.backend), Terms(HOUR_S, HOUR_S))
        needed = reached_by([MAIN, *world.reported])
        lost = sorted(commit for commit in needed if not is_readable(world.backend, commit))
        return f"{lost} were pushed, and are lost" if lost else None

    return check


def believing(backend: Any) -> list[Root]:
    """Return what pins name, without asking whether they can stand."""
    return [Root(name.file_name, digest) for name, pin in pins_of(backend).items() for digest in pin.manifests]


class Without:
    """A place as somebody sees it who does not see some files."""

    def __init__(self, inner: Any, is_hidden: Callable[[str], bool]) -> None:
        self._inner = inner
        self._is_hidden = is_hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def list(self, prefix: str) -> Iterator[str]:
        return iter([name for name in self._inner.list(prefix) if not self._is_hidden(name)])


def sessions_unseen(backend: Any) -> Without:
    return Without(backend, lambda name: name.startswith("sessions/"))


def marks_unseen(backend: Any) -> Without:
    return Without(backend, lambda name: name.endswith(".going"))


def try_out(bodies: list[Body], roots: RootsOf = roots_of, most_runs: int = 100, **more: Any) -> Explored:
    return explore(make, bodies, check_with(roots), most_events=more.pop("most_events", 2), most_runs=most_runs, **more)


def hunt(bodies: list[Body], roots: RootsOf = roots_of, most_events: int = 1) -> Explored:
    return try_out(bodies, roots, most_events=most_events, most_runs=2000, faults=())


PAUSES = pytest.mark.parametrize("pause_s", [WITHIN_A_SESSION_S, LONGER_THAN_A_SESSION_S], ids=["awake", "asleep"])
COMMITS = pytest.mark.parametrize("commit", [GONE, NEXT], ids=["again", "next"])


@PAUSES
@COMMITS
def test_whatever_comes_between_a_push_and_unpinning_nothing_is_lost(commit: str, pause_s: float) -> None:
    explored = try_out([push(commit), keeper(pause_s)])

    assert explored.loss is None, explored
    assert explored.run_count >= 100


@pytest.mark.deep
@PAUSES
@COMMITS
def test_whatever_comes_between_two_pushes_and_unpinning_nothing_is_lost(commit: str, pause_s: float) -> None:
    explored = try_out([push(commit), push(NEXT), keeper(pause_s)], most_runs=10_000, most_events=3)

    assert explored.loss is None, explored


def late_pin(world: World, leans_on: tuple[str, ...] = ()) -> PinName:
    """Write what a push writes that slept until all that it had sent was deleted, and that then dies."""
    return write_pin(
        world.backend, Pin(URL, NEXT, (MANIFESTS[NEXT],), leans_on, alive_s=int(world.now_s - 30 * HOUR_S))
    )


def test_a_pin_whose_writer_slept_before_it_wrote_it_is_not_believed_and_all_is_sent_again() -> None:
    world = make()
    late_pin(world, (GONE,))

    with Store.at(world.backend) as store:
        pin(world.backend, store, NEXT)

    assert is_readable(world.backend, NEXT)
    assert sorted(pin.alive_s is None or world.now_s - pin.alive_s < HOUR_S for pin in of_next(world)) == [False, True]


def test_a_pin_that_was_written_in_time_is_believed_and_nothing_is_written() -> None:
    world = make()
    for _ in range(2):
        with Store.at(world.backend) as store:
            pin(world.backend, store, NEXT)

    assert [one.alive_s for one in of_next(world)] == [int(world.now_s)]


def test_a_late_pin_that_leans_on_what_is_gone_is_let_go_of_once_another_one_says_it() -> None:
    world = make()
    late = late_pin(world, ("d" * 40,))
    with Store.at(world.backend) as store:
        pin(world.backend, store, NEXT)
    world.backend.create(f"git/{NEXT}", b"")
    world.now_s += 48 * HOUR_S

    for _ in range(2):
        unpin(world.backend, REPOSITORY, lambda: look(world.backend), HOUR_S)
        world.now_s += 48 * HOUR_S

    assert late not in pins_of(world.backend)
    assert {name.commit for name in pins_of(world.backend)} == {MAIN, GONE, NEXT}


def of_next(world: World) -> list[Pin]:
    return [pin for name, pin in pins_of(world.backend).items() if name.commit == NEXT]


def test_what_no_ref_reaches_is_let_go_of_and_collected() -> None:
    world = make()

    assert check_with(roots_of)(world) is None

    assert {name.commit for name in pins_of(world.backend)} == {MAIN}
    assert not is_readable(world.backend, GONE)


def test_somebody_who_unpins_without_waiting_for_sessions_is_found_out() -> None:
    ignores = keeper(WITHIN_A_SESSION_S, roots=believing, view=sessions_unseen)

    assert hunt([push(NEXT), ignores], believing).loss


def test_a_push_that_leans_on_what_is_marked_is_found_out() -> None:
    blind = push(NEXT, view=marks_unseen)

    assert hunt([blind, keeper(WITHIN_A_SESSION_S, roots=believing)], believing, most_events=2).loss


def test_a_push_that_does_not_make_sure_after_a_long_sleep_is_found_out() -> None:
    assert hunt([push(NEXT, makes_sure=False), keeper(LONGER_THAN_A_SESSION_S)]).loss


def test_a_push_that_takes_days_and_shows_that_it_lives_is_honoured_all_the_time() -> None:
    sendings: list[int] = []

    explored = try_out([slow_push(NEXT, sendings), keeper(WITHIN_A_SESSION_S)], faults=())

    assert explored.loss is None, explored
    assert set(sendings) == {1}


def test_a_push_that_takes_days_and_shows_nothing_sends_again_before_it_says_that_it_is_done() -> None:
    sendings: list[int] = []

    explored = try_out([slow_push(NEXT, sendings, shows_life=False), keeper(WITHIN_A_SESSION_S)], faults=())

    assert explored.loss is None, explored
    assert max(sendings) > 1


def test_refs_that_are_read_once_and_believed_for_ever_are_found_out() -> None:
    known: dict[int, Seen] = {}

    def remembered(place: Any) -> Seen:
        if id(place.world) not in known:
            known[id(place.world)] = look(place)
        return known[id(place.world)]

    assert hunt([push(GONE), keeper(WITHIN_A_SESSION_S, look=remembered)]).loss


def test_between_a_pin_and_its_ref_nothing_but_the_grace_keeps_it() -> None:
    """What collecting at once takes besides, so that its own grace does not help."""
    at_once = Terms(0, 0)

    with_grace = try_out([push(NEXT), keeper(0, terms=at_once)], faults=())
    without = hunt([push(NEXT), keeper(0, grace_s=0, terms=at_once)])

    assert with_grace.loss is None, with_grace
    assert without.loss


@pytest.mark.parametrize("commit", [NEXT, GONE])
def test_commits_that_git_sends_for_longer_than_the_grace_keep_their_weights_if_they_come_within_three(
    commit: str,
) -> None:
    """One until the pin is marked, one until it is deleted, one until what it named goes into the trash."""
    slow = push(commit, takes_s=1.2 * HOUR_S, most_s=3 * HOUR_S)

    explored = try_out([slow, keeper(1.1 * HOUR_S)], faults=(), most_events=2, most_runs=200)

    assert explored.loss is None, explored


def test_commits_that_git_sends_for_longer_than_all_graces_are_found_to_be_short_of_their_weights() -> None:
    slow = push(NEXT, takes_s=5 * HOUR_S, most_s=30 * HOUR_S)

    assert hunt([slow, keeper(1.1 * HOUR_S)], most_events=2).loss


def test_unpinning_what_others_lean_on_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_leans(roots: Iterable[PinName], ours: Any) -> set[PinName]:
        return set(roots)

    def tips_only(place: Any) -> Seen:
        tips = [name.removeprefix("git/") for name in place.list("git")]
        return Seen(lambda commits: set(tips).intersection(commits))

    monkeypatch.setattr(unpinning, "_with_what_is_leant_on", nothing_leans)

    assert hunt([push(NEXT), keeper(WITHIN_A_SESSION_S, roots=believing, look=tips_only)], believing).loss


def test_a_pin_that_leans_on_nothing_keeps_a_collector_from_deleting() -> None:
    """What sessions guard against, this catches besides: a loss needs both guards to be gone."""
    explored = try_out([push(NEXT), keeper(WITHIN_A_SESSION_S, view=sessions_unseen)], faults=(), most_runs=120)

    assert explored.loss is None, explored
