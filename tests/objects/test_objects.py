"""What is put comes back, to whoever asks, however it is stored at the moment."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import tracemalloc

import pytest

from thetastore import codecs
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import ObjectCorruptError, ObjectMissingError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs import upkeep
from thetastore.packs.records import Entry

RAWS = [b"", b"a", b"abcd" * 1000, random.Random(1).randbytes(70_000), bytes(300_000)]


def stored_as(raw: bytes, **fields: object) -> Entry:
    entry = Entry(Kind.CHUNK, digest_of(raw), "literal", b"", len(raw), len(raw), (), 0, checksum_of(raw))
    return entry._replace(**fields)


def test_bytes_come_back_before_and_after_sealing_to_everybody(place):
    objects = Objects(place())
    early = Objects(place())
    early.contains(digest_of(b"whatever"))  # so that its snapshot is of the empty store

    digests = [objects.put(Kind.CHUNK, raw) for raw in RAWS]

    for reader in (objects, early, Objects(place())):
        assert [bytes(reader.get(Kind.CHUNK, digest)) for digest in digests] == RAWS
    objects.seal()
    for reader in (objects, early, Objects(place())):
        assert [bytes(reader.get(Kind.CHUNK, digest)) for digest in digests] == RAWS
    assert sorted(name.split("/")[0] for name in place().list("")) == ["index", "packs"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64", None])
def test_typed_bytes_come_back(place, dtype):
    raw = b"".join(random.Random(2).gauss(0, 0.02).hex().encode()[:4] for _ in range(20_000))
    with Objects(place()) as objects:
        digest = objects.put(Kind.CHUNK, raw, dtype)

    assert bytes(Objects(place()).get(Kind.CHUNK, digest)) == raw


def test_bytes_are_decoded_into_the_callers_memory(place):
    objects = Objects(place())
    digest = objects.put(Kind.CHUNK, RAWS[3])
    out = memoryview(bytearray(len(RAWS[3])))

    returned = objects.get(Kind.CHUNK, digest, out)

    assert returned is out
    assert out == RAWS[3]


def test_memory_of_another_length_is_an_error_that_says_both_lengths(place):
    objects = Objects(place())
    digest = objects.put(Kind.CHUNK, b"abcd")

    with pytest.raises(ObjectCorruptError, match="has 4 raw bytes, expected 5"):
        objects.get(Kind.CHUNK, digest, memoryview(bytearray(5)))


def test_an_object_is_stored_once(place):
    objects = Objects(place())
    objects.put(Kind.CHUNK, RAWS[3])
    stored_bytes = sum(place().size(name) for name in place().list(""))

    twice = objects.prepare(Kind.CHUNK, RAWS[3])
    objects.add(twice)
    objects.seal()
    again = Objects(place())
    assert again.prepare(Kind.CHUNK, RAWS[3]).entry is None
    again.put(Kind.CHUNK, RAWS[3])
    again.close()

    names = list(place().list(""))
    assert len(names) == 2
    assert sum(place().size(name) for name in names) < stored_bytes + 1000


def test_two_preparations_of_one_object_store_it_once(place):
    objects = Objects(place())
    both = [objects.prepare(Kind.CHUNK, RAWS[3]) for _ in range(2)]

    for prepared in both:
        objects.add(prepared)
    objects.seal()

    (name,) = place().list("packs")
    assert len(objects.packs.get(name).table()) == 1


def test_kinds_are_kept_apart(place):
    objects = Objects(place())
    digest = objects.put(Kind.MANIFEST, b"manifest")

    assert digest != digest_of(b"manifest")
    assert objects.get(Kind.MANIFEST, digest) == b"manifest"
    for kind in (Kind.CHUNK, Kind.PAGE):
        with pytest.raises(ObjectCorruptError, match="kind"):
            objects.get(kind, digest)


def test_the_same_bytes_under_another_kind_are_another_object(place):
    objects = Objects(place())
    digests = {objects.put(kind, b"same") for kind in Kind}

    assert len(digests) == len(Kind)
    assert objects.entry(digest_of(b"same")).kind == Kind.CHUNK


def test_a_missing_object_is_missing(place):
    objects = Objects(place())
    objects.put(Kind.CHUNK, b"there")
    missing = digest_of(b"not there")

    for _ in range(2):
        assert not objects.contains(missing)
        for act in (lambda: objects.get(Kind.CHUNK, missing), lambda: objects.entry(missing)):
            with pytest.raises(ObjectMissingError) as caught:
                act()
            assert caught.value.digest == str(missing)
        objects.seal()


def test_a_store_that_is_only_read_is_not_written(place):
    with Objects(place()) as objects:
        assert not objects.contains(digest_of(b"a"))

    assert list(place().list("")) == []


def test_what_a_living_writer_added_is_found_but_its_pack_is_left_to_it(place):
    writer, other = Objects(place()), Objects(place())
    first = writer.put(Kind.CHUNK, b"first")
    assert other.get(Kind.CHUNK, first) == b"first"

    second = writer.put(Kind.CHUNK, b"second")
    other.put(Kind.CHUNK, b"other")
    other.seal()

    assert other.get(Kind.CHUNK, second) == b"second"
    assert len(list(place().list("incoming"))) == 1
    writer.seal()
    assert list(place().list("incoming")) == []
    assert other.get(Kind.CHUNK, first) == b"first"


def test_packs_roll_over_and_are_sealed_together(place):
    objects = Objects(place(), pack_bytes=1000)
    raws = [random.Random(number).randbytes(300) for number in range(20)]

    digests = [objects.put(Kind.CHUNK, raw) for raw in raws]
    assert len(list(place().list("incoming"))) == 10
    objects.seal()

    assert (len(list(place().list("packs"))), len(list(place().list("index")))) == (10, 1)
    assert all(place().size(name) < 2000 for name in place().list("packs"))
    assert [bytes(Objects(place()).get(Kind.CHUNK, digest)) for digest in digests] == raws


def test_an_object_larger_than_a_pack_has_one_of_its_own(place):
    with Objects(place(), pack_bytes=100) as objects:
        digest = objects.put(Kind.CHUNK, RAWS[3])

    assert Objects(place()).get(Kind.CHUNK, digest) == RAWS[3]


def test_a_store_goes_on_after_sealing(place):
    objects = Objects(place())
    first = objects.put(Kind.CHUNK, b"first")
    objects.seal()
    second = objects.put(Kind.CHUNK, b"second")
    objects.seal()
    objects.seal()

    assert [bytes(Objects(place()).get(Kind.CHUNK, digest)) for digest in (first, second)] == [b"first", b"second"]
    assert len(list(place().list("packs"))) == 2


def test_many_threads_prepare_and_get(place):
    objects = Objects(place())
    raws = [random.Random(number).randbytes(20_000 + number) for number in range(60)]
    errors: list[BaseException] = []

    def prepare_and_read(number: int) -> None:
        try:
            for raw in raws[number::4]:
                assert objects.prepare(Kind.CHUNK, raw).digest == digest_of(raw)
            for digest, raw in known:
                assert objects.get(Kind.CHUNK, digest) == raw
        except BaseException as error:
            errors.append(error)

    known = [(objects.put(Kind.CHUNK, raw), raw) for raw in raws[:30]]
    threads = [threading.Thread(target=prepare_and_read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for raw in raws[30:]:
        objects.put(Kind.CHUNK, raw)
    objects.seal()
    for thread in threads:
        thread.join()

    assert errors == []
    assert all(objects.contains(digest_of(raw)) for raw in raws)


def test_an_unknown_codec_is_unsupported_not_corrupt_with_bases_or_without(place):
    objects = Objects(place())
    bases = {"bases": (digest_of(b"base"),), "depth": 1}
    for raw, fields in ((b"one", {"codec": "of-tomorrow"}), (b"two", {"codec": "of-tomorrow", **bases})):
        objects.add_representation(stored_as(raw, **fields), raw)
        with pytest.raises(UnsupportedError):
            objects.get(Kind.CHUNK, digest_of(raw))
        assert objects.entry(digest_of(raw)) == stored_as(raw, **fields)


def test_bytes_with_another_digest_are_never_returned(place):
    objects = Objects(place())
    digest = digest_of(b"what was asked for")
    entry = stored_as(b"something else")._replace(digest=digest)
    objects.add_representation(entry, b"something else")

    with pytest.raises(ObjectCorruptError, match="another digest"):
        objects.get(Kind.CHUNK, digest)


def test_where_one_representation_is_damaged_another_serves(place):
    raw = b"x" * 50
    writers = [Objects(place()) for _ in range(3)]
    for writer in writers:
        writer.begin()
        assert not writer.contains(digest_of(raw))  # each looks before the others write
    for writer, stored in zip(writers, (b"y" * 50, raw, b"z" * 50), strict=True):
        writer.add_representation(stored_as(raw), stored)

    assert Objects(place()).get(Kind.CHUNK, digest_of(raw)) == raw
    for writer in writers:
        writer.seal()
    assert Objects(place()).get(Kind.CHUNK, digest_of(raw)) == raw


def test_hostile_lengths_cost_no_memory(place):
    """A record may say that it decodes to 128 MiB; it is refused before that much is touched."""
    objects = Objects(place())
    entry = stored_as(b"abcd", raw_bytes=128 << 20)
    objects.add_representation(entry, b"abcd")

    with pytest.raises(ObjectCorruptError, match="expected 4"):
        objects.get(Kind.CHUNK, entry.digest, memoryview(bytearray(4)))


def test_decoders_see_only_what_was_checked(place):
    """Every codec, given bytes of another, says so and nothing else."""
    objects = Objects(place())
    for number, codec in enumerate(codecs.CODEC_NAMES):
        raw = b"not coded at all, whatever the record says %d" % number
        if codec == "literal":
            continue
        objects.add_representation(stored_as(raw, codec=codec), raw)
        with pytest.raises((ObjectCorruptError, UnsupportedError), match="object"):
            objects.get(Kind.CHUNK, digest_of(raw))


def test_opening_a_store_with_nothing_to_do_imports_no_numpy_and_lists_nothing(tmp_path):
    script = """
import sys
from thetastore.backends.directory import DirectoryBackend
from thetastore.digest import Digest, Kind
from thetastore.objects import Objects
objects = Objects(DirectoryBackend(sys.argv[1]))
objects.close()
objects = Objects(DirectoryBackend(sys.argv[1]))
digest = objects.put(Kind.CHUNK, bytes(range(256)) * 30)
objects.seal()
assert len(objects.get(Kind.CHUNK, digest)) == 7680
slow = {"numpy", "threading", "pathlib", "logging", "json", "subprocess"} & sys.modules.keys()
print(sorted(slow - before))
"""
    script = f"import sys; before = set(sys.modules); {script}"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "[]"


def test_an_index_made_anew_by_pieces_is_the_one_that_is_made_at_once(place, monkeypatch):
    for number in range(8):
        with Objects(place()) as objects:
            for at in range(20):
                objects.put(Kind.CHUNK, b"%d %d" % (number, at))
    backend = place()

    found = []
    for piece_rows, most_runs in ((1 << 20, 50), (30, 50), (30, 2)):
        monkeypatch.setattr(upkeep, "PIECE_ROWS", piece_rows)
        monkeypatch.setattr(upkeep, "MOST_RUNS", most_runs)
        assert Objects(place()).rebuild_index() == 160
        found.append([backend.read(name) for name in backend.list("index")])

    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 1


def test_the_index_is_made_anew_from_the_packs_alone(place):
    digests = []
    for number in range(5):
        with Objects(place()) as objects:
            digests += [objects.put(Kind.CHUNK, b"%d %d" % (number, at)) for at in range(20)]
    backend = place()
    for name in list(backend.list("index")):
        backend.delete(name)
    without = Objects(place())
    assert all(without.contains(digest) for digest in digests)

    assert Objects(place()).rebuild_index() == 100

    assert len(list(backend.list("index"))) == 1
    again = Objects(place())
    assert [bytes(again.get(Kind.CHUNK, digest)) for digest in digests] == [
        b"%d %d" % (number, at) for number in range(5) for at in range(20)
    ]
    assert again.catalog.snapshot().loose == ()


def test_while_another_process_merges_the_index_is_not_rebuilt():
    backend = MemoryBackend()
    with backend.try_lock(upkeep.MERGE_LOCK), pytest.raises(OSError, match="another process"):
        Objects(backend).rebuild_index()


def test_any_digest_may_be_asked_for():
    objects = Objects(MemoryBackend())
    objects.put(Kind.CHUNK, b"a")
    objects.seal()

    for digest in (Digest(bytes(32)), Digest(b"\xff" * 32)):
        assert not objects.contains(digest)


def test_records_that_promise_much_are_not_all_in_memory_at_once():
    raw_bytes = 64 << 20
    entry = Entry(Kind.CHUNK, digest_of(b"x"), "constant", b"", raw_bytes, 1, (), 0, checksum_of(b"x"))
    backend = MemoryBackend()
    for _ in range(2):  # each in a store of its own, so that the object is there twice
        other = MemoryBackend()
        with Objects(other) as objects:
            objects.add_representation(entry, b"x")
        for name in other.list("packs"):
            backend.create(name, other.read(name))

    tracemalloc.start()
    try:
        with pytest.raises(ObjectCorruptError):
            Objects(backend).get(Kind.CHUNK, entry.digest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert raw_bytes < peak < 1.5 * raw_bytes
