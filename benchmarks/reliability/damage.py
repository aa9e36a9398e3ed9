"""Every file of a small store cut at every length, and every single bit of it flipped."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.reliability.injecting import look
from benchmarks.reliability.tally import Tally
from benchmarks.reliability.worlds import Clock, twin, world_of
from thetastore.backends.memory import MemoryBackend
from thetastore.checking.check import Check
from thetastore.checking.repair import StoreSource, repair
from thetastore.descriptor import DESCRIPTOR
from thetastore.errors import ThetaError
from thetastore.store import Store
from thetastore.upkeep.verify import Level

CUT = "cut at every length"
FLIPPED = "every single bit flipped"
KINDS = ("packs", "index", "refs", DESCRIPTOR)
MENDED_EVERY = 97
"""A repair reads everything several times, so that only some of the damage is mended."""


def damaged(kind: str, how: str, every: int = 1, first: int = 0) -> Tally:
    """Damage each file of a kind in each way, and read everything; look what a check finds."""
    tally = Tally(f"reading, {kind}", how)
    world = world_of(MemoryBackend(), Clock())
    files = {name: world.backend.read(name) for name in world.backend.list("")}
    number = 0
    for name in sorted(name for name in files if name.startswith(kind)):
        ways = len(files[name]) * (8 if how == FLIPPED else 1)
        for way in range(first % every, ways, every):
            number += 1
            where = f"{name}, {'bit' if how == FLIPPED else 'byte'} {way}"
            place = _place({**files, name: _damage(files[name], how, way)})
            with tally.watched(where):
                _judge(tally, where, place, world.committed, kind, number % MENDED_EVERY == 1)
    return tally


def _damage(whole: bytes, how: str, way: int) -> bytes:
    if how == CUT:
        return whole[:way]
    stored = bytearray(whole)
    stored[way // 8] ^= 1 << way % 8
    return bytes(stored)


def _place(files: dict[str, bytes]) -> MemoryBackend:
    place = MemoryBackend()
    for name, content in files.items():
        place.create(name, content)
    return place


def _judge(
    tally: Tally, where: str, place: MemoryBackend, contents: dict[str, bytes], kind: str, is_mended: bool
) -> None:
    """Count what is read as right or refused; damage of packs and runs has to be found, and some of it is mended."""
    bad = tally.bad
    seen = Tally("", "")
    look(seen, where, contents, place)
    for _ in range(seen.wrong_bytes):
        tally.blame("wrong_bytes", where)
    has_refused = bool(seen.lost_refs + seen.lost_objects)
    if kind in ("packs", "index") and not any(_found(place)):
        tally.blame("unfound", f"{where}: a check finds nothing")
    if kind in ("packs", "index") and is_mended:
        store = Store.at(place)
        repaired = repair(store, None, [StoreSource("a twin", twin)])
        after = Tally("", "")
        look(after, where, contents, place)
        if repaired.lost_count or after.bad or any(_found(place)):
            tally.blame("unfound", f"{where}: a repair does not mend it")
    if tally.bad == bad:
        tally.succeeded += not has_refused
        tally.failed += has_refused


def _found(place: MemoryBackend) -> Iterator[object]:
    try:
        yield from Check(Store.at(place), Level.RAW).findings()
    except ThetaError as error:
        yield error
