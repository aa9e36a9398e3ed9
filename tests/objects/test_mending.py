"""Damage is set aside, and what is lost can be stored again."""

import pytest

from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Kind, digest_of
from thetastore.errors import ObjectCorruptError, ObjectMissingError
from thetastore.objects import Objects
from thetastore.upkeep.mending import set_aside_damage
from thetastore.upkeep.verify import Level, verify

RAWS = [b"one", b"two" * 400, b"three"]


def store_of(raws: list[bytes]) -> MemoryBackend:
    backend = MemoryBackend()
    with Objects(backend) as objects:
        for raw in raws:
            objects.put(Kind.CHUNK, raw)
    return backend


def replace(backend: MemoryBackend, name: str, content: bytes) -> None:
    backend.delete(name)
    backend.create(name, content)


def rot(backend: MemoryBackend, raw: bytes) -> None:
    """Flip a bit in what is stored for an object."""
    place = Objects(backend).catalog.snapshot().first(digest_of(raw))
    stored = bytearray(backend.read(place.file_name))
    stored[place.offset + place.nbytes - 1] ^= 1
    replace(backend, place.file_name, bytes(stored))


def test_a_sound_store_is_left_alone():
    backend = store_of(RAWS)
    before = sorted(backend.list(""))

    assert set_aside_damage(Objects(backend)) == []
    assert [name for name in sorted(backend.list("")) if not name.startswith("locks")] == before


def test_only_the_damaged_object_is_lost_and_can_be_put_again():
    backend = store_of(RAWS)
    rot(backend, RAWS[1])
    (damaged,) = backend.list("packs")
    content = backend.read(damaged)

    (found,) = set_aside_damage(Objects(backend))

    assert (found.kept_count, found.lost) == (2, (digest_of(RAWS[1]),))
    assert backend.read(found.file_name) == content
    objects = Objects(backend)
    assert objects.get(Kind.CHUNK, digest_of(RAWS[0])) == RAWS[0]
    with pytest.raises(ObjectMissingError):
        objects.get(Kind.CHUNK, digest_of(RAWS[1]))
    with objects:
        objects.put(Kind.CHUNK, RAWS[1])
    assert all(Objects(backend).get(Kind.CHUNK, digest_of(raw)) == raw for raw in RAWS)
    assert list(verify(Objects(backend), Level.RAW)) == []


def test_what_another_pack_gives_is_not_lost():
    backend = store_of(RAWS)
    rot(backend, RAWS[1])
    with pytest.raises(ObjectCorruptError):
        Objects(backend).get(Kind.CHUNK, digest_of(RAWS[1]))
    with Objects(backend) as objects:
        objects.put(Kind.CHUNK, RAWS[1])

    (found,) = set_aside_damage(Objects(backend))

    assert (found.kept_count, found.lost) == (2, ())
    assert Objects(backend).get(Kind.CHUNK, digest_of(RAWS[1])) == RAWS[1]


@pytest.mark.parametrize("keep", [0, 20, 60, -1])
def test_a_torn_pack_gives_what_it_still_holds(keep):
    backend = store_of(RAWS)
    (name,) = backend.list("packs")
    replace(backend, name, backend.read(name)[:keep])

    (found,) = set_aside_damage(Objects(backend))

    assert found.kept_count == (3 if keep == -1 else 0)
    with Objects(backend) as objects:
        for raw in RAWS:
            objects.put(Kind.CHUNK, raw)
    assert list(verify(Objects(backend), Level.RAW)) == []


def test_a_mend_that_was_killed_can_be_done_again():
    backend = store_of(RAWS)
    rot(backend, RAWS[0])
    (name,) = backend.list("packs")
    backend.create(name.replace("packs/", "damaged/"), backend.read(name))

    set_aside_damage(Objects(backend))

    assert name not in backend.list("packs")
    assert Objects(backend).get(Kind.CHUNK, digest_of(RAWS[2])) == RAWS[2]


def test_right_bytes_replace_what_turned_out_not_to_be_readable():
    backend = store_of(RAWS)
    rot(backend, RAWS[1])
    digest = digest_of(RAWS[1])
    with pytest.raises(ObjectCorruptError):
        Objects(backend).get(Kind.CHUNK, digest)
    assert not Objects(backend).contains(digest)

    with Objects(backend) as objects:
        objects.put(Kind.CHUNK, RAWS[1])

    later = Objects(backend)
    assert later.contains(digest)
    assert later.get(Kind.CHUNK, digest) == RAWS[1]
    assert list(backend.list("suspects")) == []


def test_a_suspicion_without_a_ground_costs_a_read_and_no_more():
    backend = store_of(RAWS)
    backend.create(f"suspects/{digest_of(RAWS[0])}", b"")
    backend.create(f"suspects/{digest_of(b'nowhere')}", b"")
    backend.create("suspects/notes.txt", b"")
    objects = Objects(backend)

    assert objects.contains(digest_of(RAWS[0]))
    assert not objects.contains(digest_of(b"nowhere"))
    assert objects.prepare(Kind.CHUNK, RAWS[0]).entry is None


def test_what_is_lost_stays_suspect_until_it_is_back():
    backend = store_of(RAWS)
    rot(backend, RAWS[1])
    backend.create(f"suspects/{digest_of(RAWS[0])}", b"")

    set_aside_damage(Objects(backend))

    assert list(backend.list("suspects")) == [f"suspects/{digest_of(RAWS[1])}"]
    with Objects(backend) as objects:
        objects.put(Kind.CHUNK, RAWS[1])
    set_aside_damage(Objects(backend))
    assert list(backend.list("suspects")) == []
