"""Objects that stand on others come back, within limits; chains that no writer would make are refused by name."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from thetastore import codecs
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import ObjectCorruptError, ObjectMissingError
from thetastore.objects import Objects
from thetastore.packs import upkeep
from thetastore.packs.records import MAX_DEPTH, Entry
from thetastore.representations import choice
from thetastore.upkeep.verify import Level, verify

COUNT = 20_000


def weights(seed: int = 0, count: int = COUNT) -> bytes:
    return np.random.default_rng(seed).normal(0, 0.02, count).astype(np.float32).tobytes()


def tuned(raw: bytes, seed: int, by: float = 1e-6) -> bytes:
    values = np.frombuffer(raw, np.float32)
    return (values + np.random.default_rng(seed).normal(0, by, values.size).astype(np.float32)).tobytes()


def versions(count: int, by: float = 1e-6) -> list[bytes]:
    raws = [weights()]
    while len(raws) < count:
        raws.append(tuned(raws[-1], len(raws), by))
    return raws


def put_chain(objects: Objects, raws: list[bytes]) -> list[Digest]:
    digests: list[Digest] = []
    for raw in raws:
        digests.append(objects.put(Kind.CHUNK, raw, "float32", digests[-1:]))
    return digests


def delta(raw: bytes, base: bytes, depth: int = 1, **fields: object) -> tuple[Entry, bytes]:
    """A record as a writer without limits would make it."""
    coded = codecs.encode_difference(raw, base, "float32")
    assert coded is not None
    stored = bytes(coded.stored)
    names = (digest_of(base),)
    entry = Entry(
        Kind.CHUNK, digest_of(raw), coded.codec, b"", len(raw), len(stored), names, depth, checksum_of(stored)
    )
    return entry._replace(**fields), stored


def begin(objects: Objects) -> None:
    """Look at the store as a writer that has not yet seen what others are about to write."""
    assert objects.begin()
    objects.catalog.snapshot()


def add_deep_chain(objects: Objects, raws: list[bytes]) -> None:
    objects.put(Kind.CHUNK, raws[0], "float32")
    for depth, (base, raw) in enumerate(itertools.pairwise(raws), 1):
        objects.add_representation(*delta(raw, base, depth))


def test_a_version_is_stored_as_a_difference_and_comes_back_to_everybody(place):
    objects = Objects(place())
    raws = versions(2)

    digests = put_chain(objects, raws)

    first, second = map(objects.entry, digests)
    assert (second.codec, second.bases, second.depth) == ("difference", (digests[0],), 1)
    assert second.stored_bytes < first.stored_bytes / 2
    for reader in (objects, Objects(place())):
        assert [reader.get(Kind.CHUNK, digest) for digest in digests] == raws
    objects.seal()
    assert [Objects(place()).get(Kind.CHUNK, digest) for digest in digests] == raws
    assert list(verify(Objects(place()), Level.RAW)) == []


def test_a_long_chain_of_versions_stays_shallow_and_cheap_to_read():
    objects = Objects(MemoryBackend())
    raws = versions(12, by=2e-9)

    digests = put_chain(objects, raws)

    alone = [len(memoryview(codecs.encode(raw, "float32").stored)) for raw in raws]
    entries = [objects.entry(digest) for digest in digests]
    assert {entry.depth for entry in entries} == {0, 1, 2}
    for digest, raw, alone_bytes in zip(digests, raws, alone, strict=True):
        decoded = objects.representations.decode(digest, len(raw))
        assert decoded.raw == raw
        assert decoded.read_bytes <= choice.MOST_READ * alone_bytes * 1.02  # the chain's root stands in for `alone`
    assert sum(entry.stored_bytes for entry in entries) < 0.6 * sum(alone)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", None])
def test_guesses_that_are_wrong_cost_no_bytes(dtype):
    objects = Objects(MemoryBackend())
    raw = weights(1)
    wrong = [objects.put(Kind.CHUNK, weights(2), dtype), objects.put(Kind.CHUNK, weights(3, 10), dtype)]
    manifest = objects.put(Kind.MANIFEST, weights(4))

    entry = objects.prepare(Kind.CHUNK, raw, dtype, [*wrong, manifest, digest_of(b"nowhere"), digest_of(raw)]).entry

    assert entry is not None
    assert entry.bases == ()
    assert entry.stored_bytes == len(memoryview(codecs.encode(raw, dtype).stored))


def test_a_difference_that_is_too_much_to_read_gives_way_to_a_whole_copy():
    objects = Objects(MemoryBackend())
    base = objects.put(Kind.CHUNK, weights(), "float32")
    raw = tuned(weights(), 1, by=3e-4)

    entry = objects.prepare(Kind.CHUNK, raw, "float32", [base]).entry

    assert codecs.encode_difference(raw, weights(), "float32") is not None
    assert entry is not None
    assert entry.bases == ()


def test_bases_are_not_asked_for_where_the_store_has_the_object():
    def unwanted():
        raise AssertionError
        yield

    objects = Objects(MemoryBackend())
    objects.put(Kind.CHUNK, weights(), "float32")

    assert objects.prepare(Kind.CHUNK, weights(), "float32", unwanted()).entry is None


def test_a_damaged_base_is_no_base():
    objects = Objects(MemoryBackend())
    raws = versions(2)
    entry, stored = plain(raws[0])
    objects.add_representation(entry, stored[:-1] + b"!")

    prepared = objects.prepare(Kind.CHUNK, raws[1], "float32", [entry.digest])

    assert prepared.entry is not None
    assert prepared.entry.bases == ()


def plain(raw: bytes) -> tuple[Entry, bytes]:
    return Entry(Kind.CHUNK, digest_of(raw), "literal", b"", len(raw), len(raw), (), 0, checksum_of(raw)), raw


def refused(objects: Objects, raw: bytes, match: str) -> None:
    with pytest.raises(ObjectCorruptError, match=match) as caught:
        objects.get(Kind.CHUNK, digest_of(raw))
    assert caught.value.digest == str(digest_of(raw))
    objects.seal()
    level = Level.TABLES if "length" not in match and "decode" not in match else Level.RAW
    found = {finding.digest for finding in verify(objects, level)}
    assert digest_of(raw) in found


def test_the_deepest_chain_that_is_allowed_can_be_read():
    objects = Objects(MemoryBackend())
    raws = versions(MAX_DEPTH + 1)
    add_deep_chain(objects, raws)

    assert [objects.get(Kind.CHUNK, digest_of(raw)) for raw in raws] == raws


def test_a_missing_base_is_refused(place):
    objects = Objects(place())
    base, raw = versions(2)
    objects.add_representation(*delta(raw, base))

    refused(objects, raw, "its base cannot be had.*is not in the store")
    with pytest.raises(ObjectMissingError):
        objects.get(Kind.CHUNK, digest_of(base))


def test_a_base_of_another_length_is_refused():
    objects = Objects(MemoryBackend())
    base, raw = versions(2)
    shorter = objects.put(Kind.CHUNK, weights(9, 100))
    objects.add_representation(*delta(raw, base, bases=(shorter,)))

    refused(objects, raw, "its base cannot be had.* has 400 raw bytes|length")


def test_a_base_that_is_no_chunk_is_refused():
    objects = Objects(MemoryBackend())
    base, raw = versions(2)
    page = objects.put(Kind.PAGE, base)
    objects.add_representation(*delta(raw, base, bases=(page,)))

    with pytest.raises(ObjectCorruptError, match="is of kind"):
        objects.get(Kind.CHUNK, digest_of(raw))


def test_cycles_are_refused():
    objects = Objects(MemoryBackend())
    one, two = versions(2)
    objects.add_representation(*delta(one, two, 1))
    objects.add_representation(*delta(two, one, 2))

    refused(objects, one, "depth 2, not below 1")
    with pytest.raises(ObjectCorruptError, match="its base cannot be had") as caught:
        objects.get(Kind.CHUNK, digest_of(two))
    assert caught.value.digest == str(digest_of(two))
    assert {finding.digest for finding in verify(objects, Level.RAW)} == {digest_of(one), digest_of(two)}


def test_a_base_as_deep_as_its_delta_is_refused():
    objects = Objects(MemoryBackend())
    raws = versions(3)
    objects.put(Kind.CHUNK, raws[0])
    objects.add_representation(*delta(raws[1], raws[0], 1))
    objects.add_representation(*delta(raws[2], raws[1], 1))

    refused(objects, raws[2], "depth 1, not below 1")


def test_more_bases_than_the_codec_has_are_refused():
    objects = Objects(MemoryBackend())
    raws = versions(3)
    digests = tuple(objects.put(Kind.CHUNK, raw) for raw in raws[:2])
    objects.add_representation(*delta(raws[2], raws[1], 1, bases=digests))
    objects.add_representation(plain(b"literal")[0]._replace(bases=digests, depth=1), b"literal")

    for raw in (raws[2], b"literal"):
        with pytest.raises(ObjectCorruptError, match="bases") as caught:
            objects.get(Kind.CHUNK, digest_of(raw))
        assert caught.value.digest == str(digest_of(raw))


def test_a_small_object_that_asks_for_thousands_of_times_its_bytes_is_refused_before_they_are_read():
    """16 names of 16 names of 16 ...: eight levels would be four thousand million records."""
    objects = Objects(MemoryBackend())
    level = [objects.put(Kind.CHUNK, bytes([number]) * 100_000) for number in range(16)]
    for depth in range(1, MAX_DEPTH + 1):
        raws = [bytes([depth, number]) * 4 for number in range(16)]
        for raw in raws:
            entry = plain(raw)[0]._replace(codec="literal", bases=tuple(level), depth=depth)
            objects.add_representation(entry, raw)
        level = [digest_of(raw) for raw in raws]
    reads: list[int] = []
    read = objects.representations._read
    objects.representations._read = lambda *arguments: reads.append(1) or read(*arguments)  # type: ignore[method-assign]

    with pytest.raises(ObjectCorruptError) as caught:
        objects.get(Kind.CHUNK, level[0])

    assert caught.value.digest == str(level[0])
    assert len(reads) < 1000


def test_a_base_longer_than_an_object_may_ask_for_is_not_decoded():
    objects = Objects(MemoryBackend())
    huge = objects.put(Kind.CHUNK, bytes(100 << 20))
    raw = b"x" * 5000
    objects.add_representation(plain(raw)[0]._replace(bases=(huge,), depth=1), raw)

    refused(objects, raw, "more bytes of bases")


def test_a_difference_with_another_digest_is_refused():
    objects = Objects(MemoryBackend())
    base, raw, other = weights(), tuned(weights(), 1), tuned(weights(), 2)
    objects.put(Kind.CHUNK, base)
    objects.add_representation(*delta(raw, base, digest=digest_of(other)))

    with pytest.raises(ObjectCorruptError, match="another digest"):
        objects.get(Kind.CHUNK, digest_of(other))


@pytest.mark.parametrize("harm", ["missing base", "damaged delta", "deep base"])
def test_where_a_delta_does_not_serve_another_representation_does(place, harm):
    base, raw = versions(2)
    first, second = Objects(place()), Objects(place())
    for objects in (first, second):
        begin(objects)
    entry, stored = delta(raw, base)
    if harm == "damaged delta":
        stored = stored[:-1] + bytes([stored[-1] ^ 1])
    if harm == "deep base":
        first.add_representation(*delta(base, raw, 1))
    elif harm != "missing base":
        first.add_representation(*plain(base))
    first.add_representation(entry, stored)
    second.add_representation(*plain(raw))
    second.seal()
    first.seal()

    assert Objects(place()).get(Kind.CHUNK, digest_of(raw)) == raw
    if harm == "deep base":
        assert Objects(place()).get(Kind.CHUNK, digest_of(base)) == base


@pytest.mark.parametrize("order", [0, 1])
def test_where_a_base_was_never_right_its_other_place_serves(place, order):
    """The stored bytes have their checksum and decode, but to something else."""
    base, raw = versions(2)
    wrong = tuned(base, 77)
    writers = [Objects(place()) for _ in range(3)]
    for objects in writers:
        begin(objects)
    records = [plain(base), (plain(wrong)[0]._replace(digest=digest_of(base)), wrong)][:: 1 - 2 * order]
    for objects, record in zip(writers, [*records, delta(raw, base)], strict=True):
        objects.add_representation(*record)
        objects.seal()

    assert Objects(place()).get(Kind.CHUNK, digest_of(raw)) == raw
    assert Objects(place()).representations.decode(digest_of(raw), len(raw)).raw == raw


def test_a_delta_finds_the_shallow_one_of_its_bases_representations(place):
    base, raw = versions(2)
    first, second = Objects(place()), Objects(place())
    for objects in (first, second):
        begin(objects)
    first.add_representation(*delta(base, raw, 2))
    second.add_representation(*plain(base))
    second.add_representation(*delta(raw, base, 1))
    first.seal()
    second.seal()

    objects = Objects(place())
    assert [objects.get(Kind.CHUNK, digest_of(each)) for each in (base, raw)] == [base, raw]
    assert list(verify(objects, Level.RAW)) == []


@pytest.mark.parametrize("order", [0, 1])
def test_merging_packs_keeps_what_other_deltas_stand_on(monkeypatch, place, order):
    """Two writers, at the same time, each store one object whole and the other as a difference from it."""
    monkeypatch.setattr(upkeep, "MOST_SMALL_PACKS", 3)
    one, two = versions(2)
    writers = [Objects(place()), Objects(place())]
    for writer in writers:
        begin(writer)
    for writer, (whole, other) in zip(writers, [(one, two), (two, one)][:: 1 - 2 * order], strict=True):
        writer.add_representation(*plain(whole))
        writer.add_representation(*delta(other, whole, 1))
    for writer in writers:
        writer.seal()
    for number in range(4):
        with Objects(place()) as objects:
            objects.put(Kind.CHUNK, b"small %d" % number)

    objects = Objects(place())
    assert len(objects.catalog.snapshot().packs) < 4
    assert [objects.get(Kind.CHUNK, digest_of(raw)) for raw in (one, two)] == [one, two]


def test_every_flipped_byte_of_deltas_and_bases_is_noticed():
    raws = [weights(0, 1100)]
    while len(raws) < 3:
        raws.append(tuned(raws[-1], len(raws), 2e-9))
    backend = MemoryBackend()
    with Objects(backend) as objects:
        digests = put_chain(objects, raws)
        assert [objects.entry(digest).depth for digest in digests] == [0, 1, 2]
    files = {name: backend.read(name) for name in backend.list("packs")}
    ((name, whole),) = files.items()

    for at in range(0, len(whole), 7):
        damaged = MemoryBackend()
        damaged.create(name, whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        objects = Objects(damaged)
        for digest, raw in zip(digests, raws, strict=True):
            try:
                assert objects.get(Kind.CHUNK, digest) == raw
            except (ObjectCorruptError, ObjectMissingError) as error:
                named = error.digest
            else:
                named = str(digest)
            assert named == str(digest)


def test_threads_read_and_write_deltas_at_once(place):
    objects = Objects(place())
    chains = [[tuned(weights(seed), number) for number in range(3)] for seed in range(8)]
    roots = [objects.put(Kind.CHUNK, weights(seed), "float32") for seed in range(8)]
    prepared: dict[bytes, object] = {}
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for seed in range(number % 4, 8, 2):
                assert objects.get(Kind.CHUNK, roots[seed]) == weights(seed)
                for raw in chains[seed]:
                    prepared[raw] = objects.prepare(Kind.CHUNK, raw, "float32", [roots[seed]])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in prepared.values():
        objects.add(each)

    assert errors == []
    for chain in chains:
        for raw in chain:
            assert objects.entry(digest_of(raw)).bases
            assert objects.get(Kind.CHUNK, digest_of(raw)) == raw
