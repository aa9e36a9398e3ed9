"""Merging index runs by pieces gives the bytes that sorting all rows at once gives, in memory that does not grow."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest

from thetastore.backends import Backend
from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.backends.remote import RemoteBackend
from thetastore.digest import Digest, checksum_of
from thetastore.errors import BackendError, MalformedError, UnsupportedError
from thetastore.packs.far_index import FarRun
from thetastore.packs.index import Run, encode_end, encode_run, fences_of, write_run
from thetastore.packs.merging_runs import delete_unfinished, merge_runs
from thetastore.packs.preamble import PREAMBLE_BYTES
from thetastore.packs.writer import Row, SealedPack
from thetastore.testing.faults import FaultyBackend, MemoryRequests

PIECES = pytest.mark.parametrize("piece_rows", [1, 7, 500, 1 << 20], ids=lambda rows: f"{rows}-rows")
KINDS = pytest.mark.parametrize("digits", [32, 9, 1, 0], ids=["uniform", "few-words", "few-digests", "one-digest"])


def pack(source: random.Random, rows: int, digits: int, id: int | None = None) -> SealedPack:
    """Return a pack with digests of which so many bytes are by chance, and with some places that cannot be."""
    found = []
    for _ in range(rows):
        digest = Digest(source.randbytes(digits) + bytes(32 - digits) if digits != 9 else tied(source))
        offset = source.choice([32, 1000, 5000, 9_999_999, 1 << 63])
        found.append(Row(digest, offset, source.choice([103, 104, 900, 134_221_824, 134_221_825])))
    return SealedPack(f"{source.getrandbits(128) if id is None else id:032x}", source.choice([600, 20_000_000]), found)


def sound(one: SealedPack) -> SealedPack:
    """Return the pack with places that can be."""
    return one._replace(rows=[row._replace(offset=32, nbytes=200) for row in one.rows])


def tied(source: random.Random) -> bytes:
    """Return one of digests that share their most significant words."""
    return source.randbytes(1) + bytes(7) + source.randbytes(1) + bytes(22) + source.choice(b"\0\1\377").to_bytes(1)


def runs_of(source: random.Random, digits: int) -> list[list[SealedPack]]:
    """Return the packs of several runs of different lengths; some packs are in two of them, one has a strange id."""
    runs = [[pack(source, source.randrange(60), digits) for _ in range(source.randrange(6))] for _ in range(7)]
    runs.append([pack(source, 1200, digits), pack(source, 3, digits, id=1 << 120), pack(source, 3, digits, id=1)])
    runs[2] += runs[-1][:1]
    runs[4] += [one._replace(rows=one.rows[::2]) for one in runs[0]]
    return runs


def all_at_once(runs: Sequence[Run], without: frozenset[str], sealed: Sequence[SealedPack]) -> bytes:
    """Return what a merge is: all rows by pack, sorted."""
    packs: dict[str, SealedPack] = {}
    for run in runs:
        targets: list[list[Row] | None] = []
        for info in run.packs:
            is_wanted = info.id not in without and info.id not in packs
            if is_wanted:
                packs[info.id] = SealedPack(info.id, info.file_bytes, [])
            targets.append(packs[info.id].rows if is_wanted else None)
        for number, row in run.rows():
            target = targets[number]
            if target is not None:
                target.append(row)
    return encode_run([*packs.values(), *sealed])


def near(backend: Backend, names: Sequence[str]) -> list[Run]:
    return [Run(backend.view(name), name) for name in names]


@PIECES
@KINDS
@pytest.mark.parametrize("is_far", [False, True], ids=["near", "far"])
def test_the_merged_run_is_the_one_that_sorting_all_rows_gives(piece_rows: int, digits: int, is_far: bool) -> None:
    source = random.Random(f"{piece_rows} {digits}")
    backend: Backend = RemoteBackend(MemoryRequests({}), "test://bucket") if is_far else MemoryBackend()
    packs = runs_of(source, digits)
    names = [write_run(backend, one) for one in packs]
    without = frozenset(one.id for one in (*packs[3][:1], *packs[5]))
    sealed = [sound(pack(source, 40, digits)), pack(source, 0, digits)]
    runs = [FarRun(backend, name, backend.size(name)) for name in names] if is_far else near(backend, names)

    merged = merge_runs(backend, runs, without, sealed, piece_rows)

    assert merged is not None
    assert backend.read(merged) == all_at_once(near(backend, names), without, sealed)
    assert Run(backend.view(merged), merged).is_intact()
    assert sorted([*names, merged]) == sorted(backend.list(""))


def test_fences_stand_where_they_should_whatever_the_pieces(tmp_path: Path) -> None:
    source = random.Random(5)
    backend = DirectoryBackend(str(tmp_path))
    packs = [pack(source, rows, 32) for rows in (40_000, 1, 30_000)]
    names = [write_run(backend, [sound(one)]) for one in packs]

    merged = merge_runs(backend, near(backend, names), piece_rows=5000)

    assert merged is not None
    assert backend.read(merged) == all_at_once(near(backend, names), frozenset(), [])
    assert len(Run(backend.view(merged), merged).words) == 70_001


def test_nothing_is_created_where_no_pack_is_left() -> None:
    backend = MemoryBackend()
    packs = [pack(random.Random(6), 20, 32)]
    runs = near(backend, [write_run(backend, packs)])

    assert merge_runs(backend, runs, frozenset([packs[0].id])) is None
    assert merge_runs(backend, []) is None
    assert len(list(backend.list("index"))) == 1


@PIECES
@pytest.mark.parametrize("where", ["digest", "place"])
def test_a_damaged_run_is_refused_and_its_damage_gets_no_good_checksum(piece_rows: int, where: str) -> None:
    source = random.Random(7)
    found: dict[str, bytes] = {}
    backend = RemoteBackend(MemoryRequests(found), "test://bucket")
    names = [write_run(backend, [pack(source, 600, 32)]) for _ in range(3)]
    at = PREAMBLE_BYTES + (32 * 100 if where == "digest" else 32 * 600 + 16 * 100 + 8)
    found[names[1]] = found[names[1]][:at] + bytes([found[names[1]][at] ^ 1]) + found[names[1]][at + 1 :]
    runs = [FarRun(backend, name, len(found[name])) for name in names]

    with pytest.raises(MalformedError, match="checksum"):
        merge_runs(backend, runs, piece_rows=piece_rows)
    assert sorted(found) == sorted(names)


def test_a_run_that_does_not_ascend_is_refused_though_its_checksums_are_right() -> None:
    backend = MemoryBackend()
    sound = Run(memoryview(encode_run([pack(random.Random(8), 600, 32)])), "sound")
    digests = bytes(sound.digests(300, 600)) + bytes(sound.digests(0, 300))
    body = digests + bytes(sound.places(0, 600))
    end = encode_end(bytes(sound.pack_table), 600, checksum_of(body), fences_of(memoryview(digests)))
    backend.create("index/a.run", encode_run([])[:PREAMBLE_BYTES] + body + end)
    runs = near(backend, ["index/a.run"])

    assert runs[0].is_intact()
    for piece_rows in (7, 1 << 20):
        with pytest.raises(MalformedError, match="ascend"):
            merge_runs(backend, runs, piece_rows=piece_rows)
    assert list(backend.list("")) == ["index/a.run"]


def test_memory_does_not_grow_with_the_runs(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        backend = DirectoryBackend(str(tmp_path / str(rows)))
        os.mkdir(backend.url)
        names = []
        for number in range(4):
            body = random.Random(number).randbytes(32 * rows)
            found = [Row(Digest(body[at : at + 32]), 32, 200) for at in range(0, len(body), 32)]
            names.append(write_run(backend, [SealedPack(f"{number:032x}", 1000, found)]))
        runs = near(backend, names)
        tracemalloc.start()
        try:
            merge_runs(backend, runs, piece_rows=2000)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # what is imported

    assert peak(16_000) < 1.2 * peak(2000)


def test_what_a_dead_process_had_merged_is_deleted_and_a_living_ones_is_not(tmp_path: Path) -> None:
    backend, peer = DirectoryBackend(str(tmp_path)), DirectoryBackend(str(tmp_path))
    for name in ("incoming/a.run", "incoming/a.places", "incoming/a.pack"):
        backend.create(name, b"dead")
    alive = peer.appender("incoming/b.run")

    delete_unfinished(backend)

    assert sorted(backend.list("incoming")) == ["incoming/a.pack", "incoming/b.run"]
    alive.discard()


@pytest.mark.parametrize("dies", [False, True], ids=["no-space", "killed"])
def test_whatever_call_fails_there_is_the_whole_run_or_none_and_nothing_is_left_of_it(
    dies: bool, tmp_path: Path
) -> None:
    source = random.Random(9)
    calls = 0
    while True:
        inner = DirectoryBackend(str(tmp_path / str(calls)))
        os.mkdir(inner.url)
        names = [write_run(inner, [pack(source, 30, 32)]) for _ in range(3)]
        expected = all_at_once(near(inner, names), frozenset(), [])
        backend = FaultyBackend(inner, fails_at=calls, dies=dies)
        try:
            merged = merge_runs(backend, near(inner, names), piece_rows=20)
        except BackendError:
            merged = None

        found = set(inner.list("index")) - set(names)
        assert found <= {merged} or dies
        assert all(inner.read(name) == expected for name in found)
        assert dies or not list(inner.list("incoming"))
        if len(backend.operations) <= calls:
            break
        calls += 1
    assert calls > 10
    assert merged in found


def test_no_flipped_bit_and_no_lost_end_of_a_run_gets_into_the_merged_one() -> None:
    source = random.Random(10)
    others = Run(memoryview(encode_run([sound(pack(source, 5, 32))])), "other")
    stored = encode_run([sound(pack(source, 8, 32)), sound(pack(source, 3, 2))])
    backend = MemoryBackend()

    for at in range(len(stored)):
        flipped = stored[:at] + bytes([stored[at] ^ 1 << at % 8]) + stored[at + 1 :]
        for damaged in (flipped, stored[:at]):
            for piece_rows in (3, 100):
                with pytest.raises((MalformedError, UnsupportedError)):
                    merge_runs(backend, [others, Run(memoryview(damaged), "damaged")], piece_rows=piece_rows)
    assert list(backend.list("")) == []
