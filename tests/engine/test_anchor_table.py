"""The table of anchors: finds what it was given, believes nothing, stays small; and is written as documented."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest, digest_of
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.representations.anchor_table import (
    FLUSH_ANCHORS,
    MOST_PLACES,
    MOST_RUNS,
    AnchorRun,
    AnchorTable,
    write_run,
)
from thetastore.representations.anchors import Anchor
from thetastore.representations.matching import Hit

DOCUMENT = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "format", "anchors.md")


def chunk(number: int) -> Digest:
    return digest_of(number.to_bytes(4, "little"))


def runs_of(backend) -> list[str]:
    return sorted(backend.list("anchors"))


@pytest.fixture(params=["directory", "memory"])
def backend(request, tmp_path):
    return DirectoryBackend(str(tmp_path / "store")) if request.param == "directory" else MemoryBackend()


def test_an_anchor_is_found_at_once_and_after_it_was_written(backend) -> None:
    table = AnchorTable(backend)
    table.add(chunk(1), [Anchor(100, 7), Anchor(200, 1 << 63)])
    wanted = [Anchor(5, 1 << 63), Anchor(6, 8), Anchor(9, 7)]
    expected = {Hit(5, chunk(1), 200), Hit(9, chunk(1), 100)}

    assert set(table.find(wanted)) == expected
    table.flush()
    assert set(table.find(wanted)) == expected
    assert len(table.find(wanted)) == 2
    assert set(AnchorTable(backend).find(wanted)) == expected
    assert table.anchor_count == 2


def test_an_empty_table_finds_nothing(backend) -> None:
    table = AnchorTable(backend)
    table.flush()

    assert table.find([Anchor(0, 1)]) == []
    assert table.find([]) == []
    assert runs_of(backend) == []


def test_content_that_is_everywhere_is_found_in_few_places(backend) -> None:
    table = AnchorTable(backend)
    for number in range(50):
        table.add(chunk(number), [Anchor(number, 7)])
        if number % 10 == 0:
            table.flush()

    assert len(table.find([Anchor(0, 7)])) <= MOST_PLACES * (MOST_RUNS + 1)
    assert table.anchor_count <= 50


def test_many_anchors_are_written_before_the_end(backend) -> None:
    table = AnchorTable(backend)
    table.add(chunk(1), [Anchor(0, identity) for identity in range(FLUSH_ANCHORS)])

    assert len(runs_of(backend)) == 1
    assert table.find([Anchor(3, FLUSH_ANCHORS - 1)]) == [Hit(3, chunk(1), 0)]


def test_runs_are_merged_when_there_are_many_and_nothing_is_lost(backend) -> None:
    table = AnchorTable(backend)
    rng = np.random.default_rng(1)
    given_hits = {}
    for number in range(100):
        anchors = [Anchor(int(rng.integers(1 << 20)), int(rng.integers(1 << 63))) for _ in range(number % 7)]
        table.add(chunk(number), anchors)
        given_hits |= {identity: Hit(1, chunk(number), offset) for offset, identity in anchors}
        table.flush()

        assert len(runs_of(backend)) <= MOST_RUNS

    for reader in (table, AnchorTable(backend)):
        found = reader.find([Anchor(1, identity) for identity in given_hits])
        assert set(found) == set(given_hits.values())
        assert len(found) == len(given_hits)


def test_merging_drops_chunks_that_are_gone_and_surplus_places() -> None:
    backend = MemoryBackend()
    for number in range(8):
        table = AnchorTable(backend)
        table.add(chunk(number), [Anchor(number, 7), Anchor(number, 100 + number)])
        table.flush()
    table.merge(lambda digest: digest != chunk(0))

    (name,) = runs_of(backend)
    run = AnchorRun(backend.view(name), name)
    assert run.identities.tolist() == [7] * MOST_PLACES + [101, 102, 103, 104, 105, 106, 107]
    assert run.is_intact()
    assert chunk(0) not in {run.chunk(number) for number in range(run.chunk_count)}


def test_a_large_run_is_searched_as_well_as_a_small_one() -> None:
    rng = np.random.default_rng(1)
    identities = np.sort(rng.integers(0, (1 << 64) - 1, 300_000, dtype=np.uint64))
    identities[1000:1004] = identities[1000]
    places = np.stack([np.zeros(identities.size), np.arange(identities.size)], axis=1).astype("<u4")
    backend = MemoryBackend()
    write_run(backend, identities, places, chunk(0))
    table = AnchorTable(backend)

    for start in range(0, 300_000, 1500):
        part = range(start, min(start + 1500, 300_000), 17)
        hits = table.find([Anchor(number, int(identities[number])) for number in part])
        assert {hit.offset for hit in hits} == set(part)
        assert all(hit.base_offset == hit.offset or 1000 <= hit.base_offset < 1004 for hit in hits)
    assert len(table.find([Anchor(0, int(identities[1000]))])) == MOST_PLACES
    assert table.find([Anchor(0, int(identities[5]) + 1), Anchor(0, 0), Anchor(0, (1 << 64) - 1)]) == []


def test_only_what_is_known_of_some_chunks_is_shared() -> None:
    backend = MemoryBackend()
    source, target = AnchorTable(MemoryBackend()), AnchorTable(backend)
    source.share(target, {chunk(1)})
    assert runs_of(backend) == []
    for number in range(5):
        source.add(chunk(number), [Anchor(number, number), Anchor(9, 10 + number)])
        source.flush()

    source.share(target, {chunk(7)})
    assert runs_of(backend) == []
    source.share(target, {chunk(1), chunk(3), chunk(7)})

    for table in (target, AnchorTable(backend)):
        hits = table.find([Anchor(0, identity) for identity in range(20)])
        assert {(hit.base, hit.base_offset) for hit in hits} == {
            (chunk(1), 1), (chunk(1), 9), (chunk(3), 3), (chunk(3), 9),
        }  # fmt: skip


def test_only_one_process_merges_and_nobody_waits(backend) -> None:
    tables = [AnchorTable(backend) for _ in range(MOST_RUNS + 3)]
    with backend.try_lock("locks/anchors"):
        for number, table in enumerate(tables):
            table.add(chunk(number), [Anchor(0, number)])
            table.flush()
        assert len(runs_of(backend)) == MOST_RUNS + 3

    table.merge()
    assert len(runs_of(backend)) == 1


def test_a_run_that_vanishes_under_a_reader_does_no_harm(backend) -> None:
    writer, reader = AnchorTable(backend), AnchorTable(backend)
    writer.add(chunk(1), [Anchor(0, 7)])
    writer.flush()
    assert reader.find([Anchor(0, 7)])
    writer.clear()

    reader.find([Anchor(0, 7)])
    reader.merge()
    assert reader.find([Anchor(0, 7)]) == []
    assert writer.find([Anchor(0, 7)]) == []


def damaged(stored: bytes) -> list[bytes]:
    flips = [stored[:at] + bytes([stored[at] ^ 1]) + stored[at + 1 :] for at in range(0, len(stored), 3)]
    return flips + [stored[:length] for length in range(0, len(stored), 5)] + [stored + b"\0", b""]


def test_a_damaged_run_is_refused_or_gives_hints_that_are_possible() -> None:
    backend = MemoryBackend()
    places = np.array([[0, 5], [1, 6], [0, 7]], "<u4")
    name = write_run(backend, np.array([3, 4, 1 << 63], "<u8"), places, chunk(0) + chunk(1))
    stored = bytes(backend.view(name))

    for number, hostile in enumerate(damaged(stored)):
        place = MemoryBackend()
        place.create("anchors/x.run", hostile)
        table = AnchorTable(place)
        hits = table.find([Anchor(0, 3), Anchor(0, 4), Anchor(0, 1 << 63)])
        assert all(hit.base_offset < 2 << 20 and len(hit.base) == 32 for hit in hits), number
        table.add(chunk(9), [Anchor(1, 9)])
        table.flush()
        table.merge()
        assert Hit(0, chunk(9), 1) in table.find([Anchor(0, 9)])


def test_places_that_cannot_be_are_no_hits() -> None:
    backend = MemoryBackend()
    places = np.array([[1, 5], [0, 2 << 20], [0xFFFFFFFF, 0xFFFFFFFF], [0, 9]], "<u4")
    write_run(backend, np.array([3, 3, 3, 3], "<u8"), places, chunk(0))
    table = AnchorTable(backend)

    assert table.find([Anchor(0, 3)]) == [Hit(0, chunk(0), 9)]
    table.add(chunk(1), [Anchor(0, 4)])
    table.flush()
    table.merge()
    assert set(table.find([Anchor(0, 3), Anchor(0, 4)])) == {Hit(0, chunk(0), 9), Hit(0, chunk(1), 0)}


@settings(max_examples=100, deadline=None)
@given(stored=st.binary(max_size=400))
def test_any_bytes_are_refused_as_a_run(stored: bytes) -> None:
    with pytest.raises((MalformedError, UnsupportedError)):
        AnchorRun(memoryview(stored), "anchors/x.run")


@settings(max_examples=50, deadline=None)
@given(
    rounds=st.lists(
        st.dictionaries(st.integers(0, (1 << 64) - 1) | st.integers(0, 20), st.integers(0, 1 << 20), max_size=20),
        max_size=14,
    )
)
def test_the_table_behaves_like_a_dictionary_of_the_first_four_places(rounds) -> None:
    backend = MemoryBackend()
    table = AnchorTable(backend)
    model: dict[int, set[Hit]] = {}
    for number, anchors in enumerate(rounds):
        table.add(chunk(number), [Anchor(offset, identity) for identity, offset in anchors.items()])
        for identity, offset in anchors.items():
            model.setdefault(identity, set()).add(Hit(0, chunk(number), offset))
        table.flush()

    for identity, hits in model.items():
        found = set(table.find([Anchor(0, identity)]))
        assert found <= hits
        assert len(found) >= min(len(hits), MOST_PLACES)


def golden() -> bytes:
    with open(DOCUMENT, encoding="utf-8") as file:
        (dump,) = re.findall(r"```golden anchors\n(.*?)```", file.read(), re.DOTALL)
    return bytes.fromhex(re.sub("(?m)^[0-9a-f]{4} ", "", dump))


def test_the_example_of_the_document_is_a_run() -> None:
    run = AnchorRun(memoryview(golden()), "golden")

    assert run.is_intact()
    assert run.identities.tolist() == [0x0123456789ABCDEF, 0xFEDCBA9876543210]
    assert run.places.tolist() == [0, 0x10000, 0, 0x2000]
    assert run.chunk(0) == bytes(range(32))


def test_the_writer_writes_the_example_of_the_document() -> None:
    backend = MemoryBackend()
    identities = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], "<u8")
    name = write_run(backend, identities, np.array([[0, 0x10000], [0, 0x2000]], "<u4"), bytes(range(32)))

    assert backend.read(name) == golden()
