"""Objects go from store to store as they are stored."""

from __future__ import annotations

import pytest

from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Kind, checksum_of, digest_of
from thetastore.errors import ObjectCorruptError, ObjectMissingError
from thetastore.objects import Objects
from thetastore.packs.records import Entry
from thetastore.transfer import CopyReport, copy_objects

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
