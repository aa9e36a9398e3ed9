"""Objects go from store to store as they are stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Kind, checksum_of, digest_of
from thetastore.errors import ObjectCorruptError, ObjectMissingError
from thetastore.objects import Objects
from thetastore.packs.records import Entry
from thetastore.transfers.transfer import CopyReport, copy_objects

RAWS = [b"abcd" * 5000, b"small", bytes(100_000)]


def delta(raw: bytes, bases: list[bytes], depth: int) -> Entry:
    digests = tuple(digest_of(base) for base in bases)
    return Entry(Kind.CHUNK, digest_of(raw), "of-tomorrow", b"", len(raw), len(raw), digests, depth, checksum_of(raw))


def test_representations_arrive_as_they_were(place):
    source, target = Objects(MemoryBackend()), Objects(place())
    digests = [source.put(Kind.CHUNK, raw) for raw in RAWS]
    source.seal()
    calls = []

    report = copy_objects(source, target, digests, lambda *counts: calls.append(counts))
    target.seal()

    entries = [source.entry(digest) for digest in digests]
    assert report == CopyReport(3, sum(entry.stored_bytes for entry in entries), sum(map(len, RAWS)))
    assert calls[-1] == report[:2]
    again = Objects(place())
    assert [again.entry(digest) for digest in digests] == entries
    assert [bytes(again.get(Kind.CHUNK, digest)) for digest in digests] == RAWS


def test_what_the_target_has_is_not_read_at_the_source():
    source, target = Objects(MemoryBackend()), Objects(MemoryBackend())
    digests = [target.put(Kind.CHUNK, raw) for raw in RAWS]

    assert copy_objects(source, target, digests * 2) == CopyReport(0, 0, 0)


def test_bases_go_first():
    source, target = Objects(MemoryBackend()), Objects(MemoryBackend())
    source.put(Kind.CHUNK, b"one")
    source.put(Kind.CHUNK, b"two")
    source.add_representation(delta(b"three", [b"one"], 1), b"three")
    source.add_representation(delta(b"four", [b"three", b"two"], 2), b"four")

    report = copy_objects(source, target, [digest_of(b"four")])

    assert report.object_count == 4
    (writer,) = target._writers
    order = [record.entry.digest for record in target.packs.get(writer.file_name).records()]
    assert order == [digest_of(raw) for raw in (b"one", b"three", b"two", b"four")]


def test_a_cycle_of_bases_is_refused():
    source, target = Objects(MemoryBackend()), Objects(MemoryBackend())
    source.add_representation(delta(b"one", [b"two"], 1), b"one")
    source.add_representation(delta(b"two", [b"one"], 1), b"two")

    with pytest.raises(ObjectCorruptError, match="base of depth 1"):
        copy_objects(source, target, [digest_of(b"one")])

    assert not target.contains(digest_of(b"one"))


def test_damage_and_absence_stop_the_copy_and_name_the_object():
    source, target = Objects(MemoryBackend()), Objects(MemoryBackend())
    good = source.put(Kind.CHUNK, b"good")
    bad = delta(b"wrong", [], 0)._replace(codec="literal")
    source.add_representation(bad, b"WRONG")

    with pytest.raises(ObjectCorruptError, match=str(bad.digest)[:16]):
        copy_objects(source, target, [good, bad.digest])
    with pytest.raises(ObjectMissingError):
        copy_objects(source, target, [digest_of(b"nowhere")])

    assert target.contains(good)
    assert not target.contains(bad.digest)


def forged(raw: bytes) -> tuple[Entry, bytes]:
    """A record with all its checksums that gives other bytes than its digest says."""
    wrong = bytes(len(raw))
    return Entry(Kind.CHUNK, digest_of(raw), "literal", b"", len(raw), len(raw), (), 0, checksum_of(wrong)), wrong


def test_a_forged_record_is_not_taken_and_the_right_bytes_can_be_added(place):
    source, target = Objects(MemoryBackend()), Objects(place())
    source.add_representation(*forged(b"right bytes"))

    with pytest.raises(ObjectCorruptError, match="another digest"):
        copy_objects(source, target, [digest_of(b"right bytes")])

    assert not target.contains(digest_of(b"right bytes"))
    target.put(Kind.CHUNK, b"right bytes")
    assert target.get(Kind.CHUNK, digest_of(b"right bytes")) == b"right bytes"


@pytest.mark.parametrize("kind", [Kind.CHUNK, Kind.PAGE])
def test_where_the_first_record_is_forged_another_one_is_taken(kind):
    backend = MemoryBackend()
    liar, honest = Objects(backend), Objects(backend)
    assert liar.begin()
    assert honest.begin()
    assert not honest.contains(digest_of(b"right bytes", kind))
    entry, stored = forged(b"right bytes")
    liar.add_representation(entry._replace(kind=kind, digest=digest_of(b"right bytes", kind)), stored)
    honest.put(kind, b"right bytes")
    liar.seal()
    honest.seal()
    target = Objects(MemoryBackend())

    copy_objects(Objects(backend), target, [digest_of(b"right bytes", kind)])

    assert target.get(kind, digest_of(b"right bytes", kind)) == b"right bytes"


def test_a_forged_base_is_found_out_with_what_stands_on_it():
    base, raw = (np.random.default_rng(0).normal(0, 0.02, 20_000).astype(np.float32) + at / 1e9 for at in range(2))
    source, target = Objects(MemoryBackend()), Objects(MemoryBackend())
    source.put(Kind.CHUNK, base.tobytes(), "float32")
    digest = source.put(Kind.CHUNK, raw.tobytes(), "float32", [digest_of(base.tobytes())])
    entry, stored = source.representation(digest)
    assert entry.bases
    liar = Objects(MemoryBackend())
    liar.add_representation(*forged(base.tobytes()))
    liar.add_representation(entry, stored)

    with pytest.raises(ObjectCorruptError):
        copy_objects(liar, target, [digest])

    assert not target.contains(digest)
    assert not target.contains(entry.bases[0])


@pytest.mark.parametrize("place", ["directory"], indirect=True)
def test_what_another_process_has_not_sealed_does_not_count_for_who_vouches(place):
    busy = Objects(place())
    busy.put(Kind.CHUNK, b"not durable yet")
    source = Objects(MemoryBackend())
    source.put(Kind.CHUNK, b"not durable yet")
    target = Objects(place())
    assert target.contains(digest_of(b"not durable yet"))
    target.count_only_durable()
    assert not target.contains(digest_of(b"not durable yet"))

    copied = copy_objects(source, target, [digest_of(b"not durable yet")])
    target.seal()

    assert copied.object_count == 1
    assert list(place().list("packs"))
    busy.seal()
    assert Objects(place()).get(Kind.CHUNK, digest_of(b"not durable yet")) == b"not durable yet"


def test_a_base_that_became_deeper_at_the_source_meanwhile_is_coded_again(monkeypatch):
    ids = itertools.count(1)
    monkeypatch.setattr("thetastore.packs.index.new_id", lambda: f"{next(ids):032x}")  # the first run is asked first
    one, two, three = (
        np.random.default_rng(0).normal(0, 0.02, 20_000).astype(np.float32) + at / 1e9 for at in range(3)
    )
    backend = MemoryBackend()
    first, second = Objects(backend), Objects(backend)
    for objects in (first, second):
        objects.begin()
        objects.catalog.snapshot()
    first.put(Kind.CHUNK, one.tobytes(), "float32")
    first.put(Kind.CHUNK, two.tobytes(), "float32", [digest_of(one.tobytes())])
    second.put(Kind.CHUNK, two.tobytes(), "float32")
    digest = second.put(Kind.CHUNK, three.tobytes(), "float32", [digest_of(two.tobytes())])
    first.seal()
    second.seal()
    source, target = Objects(backend), Objects(MemoryBackend())
    assert source.entry(digest).depth == source.entry(digest_of(two.tobytes())).depth == 1

    copy_objects(source, target, [digest])

    assert target.get(Kind.CHUNK, digest) == three.tobytes()
