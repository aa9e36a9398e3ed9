"""The protocol of collecting under every order of steps of two writers and a collector; and without its guards."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.remembered import Remembered
from thetastore.collecting.roots import Root, roots_of
from thetastore.errors import ThetaError
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store
from thetastore.testing.exploring import Body, Explored, SteppedBackend, World, explore

HOUR_S = 3600.0
DEAD = b"nobody has a name for this at the beginning" * 8
KEPT = b"this has a name all the time" * 8
NEW = b"nobody has stored this before" * 8
GRACE = Terms(HOUR_S, HOUR_S)
WITHIN_A_SESSION_S = 1.5 * HOUR_S
LONGER_THAN_A_SESSION_S = 25 * HOUR_S

RootsOf = Callable[[Any], Iterable[Root]]


def begin(is_remote: bool) -> Callable[[], World]:
    """Return what makes a store with a file that has a name and one that has none."""

    def make() -> World:
        world = World(is_remote)
        with Store.at(world.backend, create=True) as store:
            kept = store.put_file(io.BytesIO(KEPT)).manifest_digest
        with Store.at(world.backend) as store:
            store.put_file(io.BytesIO(DEAD))
        Refs(world.backend).append("models/kept", lambda _: Draft((RefFile("f", len(KEPT), kept),)))
        world.reported["kept"] = kept, KEPT
        world.now_s += 48 * HOUR_S
        return world

    return make


def writer(name: str, content: bytes, *, makes_sure: bool = True, has_session: bool = True, view: Any = None) -> Body:
    """Return a process that stores a file, names it, makes sure, and says so."""

    def body(backend: SteppedBackend) -> None:
        place: Any = backend if view is None else view(backend)
        with Store.at(place) as store:
            if has_session:
                store.begin_session()
            digest = store.put_file(io.BytesIO(content)).manifest_digest
            store.seal()
            Refs(place).append(f"models/{name}", lambda _: Draft((RefFile("f", len(content), digest),)))
            while makes_sure and store.lost_meanwhile([digest]):
                store.put_file(io.BytesIO(content))
                store.seal()
            backend.world.reported[name] = digest, content

    return body


def collector(
    pause_s: float, terms: Terms = GRACE, roots: RootsOf = roots_of, rounds: int = 3, view: Any = None
) -> Body:
    """Return a process that collects again and again, with pauses."""

    def body(backend: SteppedBackend) -> None:
        place: Any = backend if view is None else view(backend)
        read_before = Remembered()
        for number in range(rounds):
            if number and pause_s:
                backend.wait(pause_s)
            store = Store.at(place)
            collect(store.objects, lambda: roots(place), terms, remembered=read_before)
            store.close()

    return body


def check(world: World) -> str | None:
    """Let everything be deleted that may be, and read what was said to be there."""
    for _ in range(4):
        world.now_s += 30 * 24 * HOUR_S
        try:
            store = Store.at(world.backend)
            collect(store.objects, lambda: roots_of(world.backend), GRACE)
        except ThetaError:
            pass  # a ref of a writer that was killed before it could make sure: nothing is let go of any more
    for name, (digest, content) in world.reported.items():  # type: ignore[misc]
        with Store.at(world.backend) as store:
            try:
                found = b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))
            except ThetaError as error:
                return f"'{name}' was stored and named, and is lost: {error}"
            if found != content:
                return f"'{name}' has other bytes"
    return None


class Hides:
    """A place as somebody sees it who does not look into some directories."""

    def __init__(self, inner: SteppedBackend, *directories: str) -> None:
        self._inner = inner
        self._directories = directories

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def list(self, prefix: str) -> Iterator[str]:
        return iter([]) if prefix.partition("/")[0] in self._directories else self._inner.list(prefix)


def remembered() -> RootsOf:
    """Return roots that are read once and believed for ever."""
    known: dict[int, list[Root]] = {}
    return lambda backend: known.setdefault(id(backend.world), roots_of(backend))


def try_out(bodies: list[Body], is_remote: bool = True, most_runs: int = 150, **more: Any) -> Explored:
    return explore(begin(is_remote), bodies, check, most_events=more.pop("most_events", 2), most_runs=most_runs, **more)


def hunt(bodies: list[Body], most_events: int = 1) -> Explored:
    """Try all schedules in which so many processes are interrupted, and no fault is needed: a guard is missing."""
    return try_out(bodies, most_events=most_events, most_runs=3000, faults=())


PAUSES = pytest.mark.parametrize("pause_s", [WITHIN_A_SESSION_S, LONGER_THAN_A_SESSION_S], ids=["awake", "asleep"])
PLACES = pytest.mark.parametrize("is_remote", [True, False], ids=["bucket", "directory"])


@PAUSES
@PLACES
def test_whatever_comes_between_two_writers_and_a_collector_nothing_is_lost(is_remote: bool, pause_s: float) -> None:
    bodies = [writer("one", DEAD), writer("two", DEAD), collector(pause_s)]

    explored = try_out(bodies, is_remote)

    assert explored.loss is None, explored
    assert explored.run_count > 100
    assert explored.state_count > 1000


@pytest.mark.deep
@PAUSES
@PLACES
@pytest.mark.parametrize("contents", [(DEAD, DEAD), (DEAD, NEW)], ids=["same", "other"])
def test_whatever_comes_between_nothing_is_lost_in_many_more_runs(
    is_remote: bool, pause_s: float, contents: tuple[bytes, bytes]
) -> None:
    bodies = [writer("one", contents[0]), writer("two", contents[1]), collector(pause_s)]

    explored = try_out(bodies, is_remote, most_runs=20_000, most_events=3)

    assert explored.loss is None, explored


class Unlocked(Hides):
    """A place as somebody sees it who gets every lock: a lease in a bucket may end while its holder sleeps."""

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        yield True


@PAUSES
@PLACES
def test_two_collectors_without_a_lock_lose_nothing(is_remote: bool, pause_s: float) -> None:
    collectors = [collector(pause_s, rounds=2, view=Unlocked) for _ in range(2)]

    explored = try_out([writer("one", DEAD), *collectors], is_remote, most_runs=80)

    assert explored.loss is None, explored
    assert explored.state_count > 1000


def test_a_collector_that_honours_no_sessions_is_found_out() -> None:
    ignores = collector(WITHIN_A_SESSION_S, view=lambda backend: Hides(backend, "sessions"))

    assert hunt([writer("one", DEAD), ignores]).loss


def test_a_writer_without_a_session_is_found_out() -> None:
    def mute(backend: SteppedBackend) -> _Mute:
        return _Mute(backend, "sessions")

    no_session = writer("one", DEAD, has_session=False, makes_sure=False, view=mute)

    assert hunt([no_session, collector(WITHIN_A_SESSION_S)]).loss


def test_a_writer_that_does_not_make_sure_after_a_long_sleep_is_found_out() -> None:
    assert hunt([writer("one", DEAD, makes_sure=False), collector(LONGER_THAN_A_SESSION_S)]).loss


def test_a_collector_that_does_not_look_again_is_found_out() -> None:
    forgetful = collector(WITHIN_A_SESSION_S, roots=remembered())

    assert hunt([writer("one", DEAD), forgetful]).loss


def test_a_writer_that_relies_on_what_is_condemned_is_found_out() -> None:
    blind = writer("one", DEAD, view=lambda backend: Hides(backend, "retired"))

    assert hunt([blind, collector(WITHIN_A_SESSION_S)], most_events=2).loss


def test_a_writer_near_by_whose_git_names_things_later_needs_the_grace() -> None:
    """What `git add` does: the filter has ended when git writes the index, and nothing makes sure."""
    bodies = [writer("one", DEAD, has_session=False, makes_sure=False)]

    with_grace = try_out([*bodies, collector(0, Terms(24 * HOUR_S, HOUR_S))], is_remote=False)
    without = try_out([*bodies, collector(0, Terms(0, 0))], is_remote=False, most_runs=3000, faults=(), most_events=1)

    assert with_grace.loss is None, with_grace
    assert without.loss


@pytest.mark.deep
def test_roots_that_were_read_before_sessions_were_revoked_are_found_out() -> None:
    def too_early(backend: SteppedBackend) -> None:
        for number in range(3):
            if number:
                backend.wait(LONGER_THAN_A_SESSION_S)
            roots = roots_of(backend)
            store = Store.at(backend)
            collect(store.objects, lambda roots=roots: roots, Terms(HOUR_S, 0))  # type: ignore[misc]
            store.close()

    in_time = collector(LONGER_THAN_A_SESSION_S, Terms(HOUR_S, 0))

    assert try_out([writer("one", DEAD), in_time], faults=(), most_runs=600).loss is None
    assert try_out([writer("one", DEAD), too_early], faults=(), most_runs=3000).loss


class _Mute(Hides):
    """A place as somebody sees it who writes nothing into some directories."""

    def create(self, name: str, stored: Any, durable: bool = True) -> None:
        if name.partition("/")[0] not in self._directories:
            self._inner.create(name, stored, durable)

    def list(self, prefix: str) -> Iterator[str]:
        return self._inner.list(prefix)
