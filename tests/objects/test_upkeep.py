"""Packs and runs stay few, and merging them loses nothing, beside readers, writers and other mergers."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.objects import Objects
from thetastore.packs import upkeep
from thetastore.packs.records import Entry
from thetastore.upkeep.verify import Level, verify


def raw_of(number: int) -> bytes:
    return random.Random(number).randbytes(100 + number % 50)


def put_each_in_its_own_pack(place, numbers) -> dict[Digest, bytes]:
    stored = {}
    for number in numbers:
        with Objects(place()) as objects:
            stored[objects.put(Kind.CHUNK, raw_of(number))] = raw_of(number)
    return stored


def counts(place) -> tuple[int, int]:
    return len(list(place().list("packs"))), len(list(place().list("index")))


def check(place, stored: dict[Digest, bytes]) -> None:
    objects = Objects(place())
    assert {digest: bytes(objects.get(Kind.CHUNK, digest)) for digest in stored} == stored
    assert list(verify(objects, Level.RAW)) == []


def test_small_packs_and_runs_are_merged_when_there_are_many(place):
    stored = put_each_in_its_own_pack(place, range(50))
    assert counts(place) == (50, 50)
    early = Objects(place())
    assert all(early.contains(digest) for digest in stored)

    stored |= put_each_in_its_own_pack(place, [50])

    assert counts(place) == (1, 1)
    check(place, stored)
    assert {digest: bytes(early.get(Kind.CHUNK, digest)) for digest in list(stored)[:50]} == dict(
        list(stored.items())[:50]
    )


def test_a_hundred_and_fifty_seals_leave_few_files(place):
    stored = put_each_in_its_own_pack(place, range(150))

    assert max(counts(place)) <= 51
    check(place, stored)


def test_packs_that_are_not_small_are_left_and_their_runs_merged(place, monkeypatch):
    monkeypatch.setattr(upkeep, "SMALL_PACK_BYTES", 0)
    stored = put_each_in_its_own_pack(place, range(51))

    assert counts(place) == (51, 1)
    check(place, stored)


def test_a_run_larger_than_all_others_is_not_rewritten(place, monkeypatch):
    monkeypatch.setattr(upkeep, "SMALL_PACK_BYTES", 0)
    with Objects(place()) as objects:
        stored = {objects.put(Kind.CHUNK, raw_of(number)): raw_of(number) for number in range(1000, 1300)}
    (large,) = place().list("index")

    stored |= put_each_in_its_own_pack(place, range(50))

    assert large in place().list("index")
    assert counts(place) == (51, 2)
    check(place, stored)


def test_while_another_process_merges_nobody_waits(place):
    stored = put_each_in_its_own_pack(place, range(50))
    with place().try_lock(upkeep.MERGE_LOCK) as is_ours:
        assert is_ours
        stored |= put_each_in_its_own_pack(place, range(50, 60))

        assert counts(place) == (60, 60)
    check(place, stored)
    stored |= put_each_in_its_own_pack(place, [60])
    assert counts(place) == (1, 1)
    check(place, stored)


def test_a_damaged_small_pack_stays_where_it_is(place, monkeypatch):
    monkeypatch.setattr(upkeep, "MOST_SMALL_PACKS", 3)
    with Objects(place()) as objects:
        raw = b"damaged"
        entry = Entry(Kind.CHUNK, digest_of(raw), "literal", b"", 7, 7, (), 0, checksum_of(raw))
        objects.add_representation(entry, b"DAMAGED")
        also = objects.put(Kind.CHUNK, b"in the same pack")
    (damaged,) = place().list("packs")

    stored = put_each_in_its_own_pack(place, range(3))

    assert damaged in place().list("packs")
    assert counts(place) == (2, 1)
    assert Objects(place()).get(Kind.CHUNK, also) == b"in the same pack"
    assert {digest: bytes(Objects(place()).get(Kind.CHUNK, digest)) for digest in stored} == stored


def test_what_two_processes_stored_at_once_is_kept_once(place, monkeypatch):
    monkeypatch.setattr(upkeep, "MOST_SMALL_PACKS", 3)
    writers = [Objects(place()) for _ in range(4)]
    raw = random.Random(1).randbytes(10_000)
    assert all(writer.begin() and not writer.contains(digest_of(raw)) for writer in writers)
    for writer in writers:
        writer.put(Kind.CHUNK, raw)

    for writer in writers:
        writer.seal()

    (pack,) = place().list("packs")
    assert place().size(pack) < 12_000
    check(place, {digest_of(raw): raw})


def test_records_of_unknown_kinds_and_differences_are_merged_like_others(place, monkeypatch):
    monkeypatch.setattr(upkeep, "MOST_SMALL_PACKS", 3)
    raw = b"from the future"
    entry = Entry(99, digest_of(raw), "of-tomorrow", b"\1\2", 99, 15, (digest_of(b"base"),), 3, checksum_of(raw))
    with Objects(place()) as objects:
        objects.add_representation(entry, raw)

    put_each_in_its_own_pack(place, range(3))

    assert counts(place) == (1, 1)
    found, stored = Objects(place()).representation(entry.digest)
    assert (found, stored) == (entry, raw)


def test_a_pack_without_a_run_is_read_and_covered_by_the_next_seal(place):
    stored = put_each_in_its_own_pack(place, range(3))
    for name in list(place().list("index")):
        place().delete(name)
    assert Objects(place()).get(Kind.CHUNK, next(iter(stored))) == stored[next(iter(stored))]
    assert len(list(verify(Objects(place()), Level.TABLES))) == 3

    Objects(place()).seal()

    assert counts(place) == (3, 1)
    check(place, stored)


def test_an_orphan_is_adopted_without_its_torn_end():
    backend = MemoryBackend()
    dead = Objects(backend)
    stored = {dead.put(Kind.CHUNK, raw_of(number)): raw_of(number) for number in range(5)}
    dead._writers[-1]._appender.write(b"\xa7rec torn")
    backend.crash()

    Objects(backend).seal()

    assert sorted(name.split("/")[0] for name in backend.list("")) == ["index", "packs"]
    check(lambda: backend, stored)


def test_what_is_no_pack_in_incoming_is_left_alone(place):
    name = f"incoming/{'ab' * 16}.pack"
    place().create(name, b"something that somebody put here, longer than a preamble")
    place().create("incoming/notes.txt", b"not ours")

    stored = put_each_in_its_own_pack(place, range(2))

    assert sorted(place().list("incoming")) == [name, "incoming/notes.txt"]
    objects = Objects(place())
    assert {digest: bytes(objects.get(Kind.CHUNK, digest)) for digest in stored} == stored
    assert [finding.file_name for finding in verify(objects, Level.RAW)] == [name]


def test_an_empty_orphan_is_deleted(place):
    place().appender(f"incoming/{'ab' * 16}.pack").close()

    Objects(place()).seal()

    assert list(place().list("")) == []


WRITER = """
import random, sys
from thetastore.backends.directory import DirectoryBackend
from thetastore.digest import Kind, digest_of
from thetastore.objects import Objects
from thetastore.packs import upkeep
upkeep.MOST_SMALL_PACKS = upkeep.MOST_RUNS = 4
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
reader = Objects(DirectoryBackend(path))
for number in range(first, first + count):
    with Objects(DirectoryBackend(path), pack_bytes=2000) as objects:
        for part in range(4):
            raw = random.Random(number * 4 + part).randbytes(300)
            objects.put(Kind.CHUNK, raw)
    for other in range(first, number + 1):
        raw = random.Random(other * 4).randbytes(300)
        assert reader.get(Kind.CHUNK, digest_of(raw)) == raw
        assert Objects(DirectoryBackend(path)).contains(digest_of(raw))
"""


def run_writers(store_path: str, writers: int, count: int) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", WRITER, store_path, str(number * 1000), str(count)])
        for number in range(writers)
    ]
    codes = [child.wait() for child in children]

    assert codes == [0] * writers
    raws = [
        random.Random((number * 1000 + at) * 4 + part).randbytes(300)
        for number in range(writers)
        for at in range(count)
        for part in range(4)
    ]
    check(lambda: DirectoryBackend(store_path), {digest_of(raw): raw for raw in raws})
    assert list(DirectoryBackend(store_path).list("incoming")) == []


def test_processes_that_write_read_and_merge_at_once_lose_nothing(store_path):
    run_writers(store_path, writers=3, count=15)


@pytest.mark.deep
def test_many_processes_that_write_read_and_merge_for_long_lose_nothing(store_path):
    run_writers(store_path, writers=4, count=60)


def test_temporary_files_of_killed_processes_go_when_they_are_old(store_path):
    place = DirectoryBackend(store_path)
    old, new, other = f"~{'0' * 24}", f"~{'1' * 24}", "~notes"
    os.makedirs(f"{store_path}/packs")
    for name in (old, new, other):
        with open(f"{store_path}/packs/{name}", "wb"):
            pass
    for name in (old, other):
        os.utime(f"{store_path}/packs/{name}", (1e9, 1e9))

    assert place.delete_litter(upkeep.LITTER_AGE_S) == 1

    assert {name for name in os.listdir(f"{store_path}/packs") if name.startswith("~")} == {new, other}
    assert [name for name in os.listdir(store_path) if name.startswith("~")] == []
