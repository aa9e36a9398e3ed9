"""Crashes, refusals and faults of a network: one at every call, for everything that is done to a store."""

from __future__ import annotations

import errno
from collections.abc import Callable

from benchmarks.reliability.tally import Tally
from benchmarks.reliability.worlds import FETCH, Clock, Deed, World, newest, world_of
from thetastore.backends import Backend
from thetastore.backends.lease import LEASE_S
from thetastore.backends.memory import MemoryBackend
from thetastore.backends.remote import RemoteBackend
from thetastore.errors import ObjectCorruptError, ThetaError
from thetastore.store import Store
from thetastore.testing import Fault, FaultyBackend, FaultyRequests, MemoryRequests
from thetastore.upkeep.verify import Level, verify

KILLED = "killed in this call"
REFUSALS = {KILLED: 0, "ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EMFILE": errno.EMFILE}


def refused(deed: Deed, fault: str, every: int = 1, first: int = 0) -> Tally:
    """Let each call of a deed on a near store be refused, or the process be killed in it."""
    tally = Tally(f"{deed.name}, local", fault)
    counted = FaultyBackend(place := MemoryBackend(clock := Clock()))
    deed.act(_prepared(place, clock, deed), counted)
    for at in range(first % every, len(counted.operations), every):
        _refuse(tally, deed, fault, at, f"call {at}, {counted.operations[at]}")
    return tally


def _refuse(tally: Tally, deed: Deed, fault: str, at: int, where: str) -> None:
    place = MemoryBackend(clock := Clock())
    world = _prepared(place, clock, deed)
    faulty = FaultyBackend(place, at, REFUSALS[fault] or errno.EIO, dies=fault == KILLED)
    with tally.watched(where):
        has_succeeded = done(tally, where, lambda: deed.act(world, faulty))
        if fault == KILLED:
            place.crash()
        judge(tally, where, world, deed, has_succeeded, lambda: place)


def misled(deed: Deed, fault: Fault, every: int = 1, first: int = 0) -> Tally:
    """Let each request of a deed on a far store meet a fault of the network or the server."""
    tally = Tally(f"{deed.name}, bucket", fault.value)
    clock, files, world = _far(deed)
    counted = FaultyRequests(_requests(files, clock))
    deed.act(world, _remote(counted))
    for at in range(first % every, len(counted.operations), every):
        _mislead(tally, deed, fault, at, f"request {at}, {counted.operations[at]}")
    return tally


def _mislead(tally: Tally, deed: Deed, fault: Fault, at: int, where: str) -> None:
    clock, place, world = _far(deed)
    requests = _requests(place, clock)
    faulty = FaultyRequests(requests, {at: fault})
    with tally.watched(where):
        has_succeeded = done(tally, where, lambda: deed.act(world, _remote(faulty)))
        faulty.settle()
        if fault is Fault.DEAD:
            clock.now_s += LEASE_S + 1  # a dead collector's lock is held for so long
        judge(tally, where, world, deed, has_succeeded, lambda: _remote(requests))


def _far(deed: Deed) -> tuple[Clock, dict[str, bytes], World]:
    requests = _requests({}, clock := Clock())
    world = _prepared(_remote(requests), clock, deed)
    return clock, requests.files, world


def _requests(files: dict[str, bytes], clock: Clock) -> MemoryRequests:
    requests = MemoryRequests(files)
    requests.clock = clock
    return requests


def _remote(requests: MemoryRequests | FaultyRequests) -> RemoteBackend:
    return RemoteBackend(requests, "test://bucket", pause=lambda seconds: None)


def _prepared(backend: Backend, clock: Clock, deed: Deed) -> World:
    world = world_of(backend, clock)
    deed.prepare(world)
    return world


def done(tally: Tally, where: str, act: Callable[[], None]) -> bool:
    """Do it; tell whether it reported success."""
    try:
        act()
        return True
    except AssertionError:
        tally.blame("wrong_bytes", where)
        return True
    except (ThetaError, OSError):
        return False


def judge(
    tally: Tally, where: str, world: World, deed: Deed, has_succeeded: bool, reopened: Callable[[], Backend]
) -> None:
    """Look at what is there afterwards, then do it again without faults, and look once more."""
    bad = tally.bad
    if deed.is_readable or has_succeeded:
        look(tally, where, world.committed, reopened())
    if has_succeeded:
        before = tally.lost_refs
        look(tally, where, deed.brings, reopened())
        tally.false_successes += tally.lost_refs - before
    else:
        try:
            deed.act(world, reopened())
        except (ThetaError, OSError, AssertionError) as error:
            tally.blame("stuck", f"{where}: {error}")
        else:
            look(tally, where, {**world.committed, **deed.brings}, reopened())
            if any(verify(Store.at(reopened()).objects, Level.RAW)) and deed != FETCH:
                tally.blame("unfound", f"{where}: a check finds something after it was done again")
    if tally.bad == bad:
        tally.succeeded += has_succeeded
        tally.failed += not has_succeeded


def look(tally: Tally, where: str, contents: dict[str, bytes], backend: Backend) -> None:
    """Read committed versions; count those that are gone, and those that have other bytes."""
    for name, content in contents.items():
        try:
            digest = newest(backend, name)
            if digest is None:
                tally.blame("lost_refs", f"{where}: {name}")
                continue
            with Store.at(backend) as store:
                got = b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))
                if got != content:
                    tally.blame("wrong_bytes", where)
        except ObjectCorruptError:
            tally.blame("lost_refs", f"{where}: {name}")
        except (ThetaError, OSError) as error:
            tally.blame("lost_objects", f"{where}: {name}: {error}")
