"""What a collection of a bucket costs: how its round trips grow with what it has to read."""

from __future__ import annotations

import io

import pytest

from thetastore.backends.memory import MemoryBackend
from thetastore.backends.remote import RemoteBackend
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import pins_of, roots_of
from thetastore.pins import Pin, write_pin
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store
from thetastore.testing import MemoryRequests, Rounds

URL = "https://example.org/models"
GRACE = Terms(3600.0, 3600.0)


def bucket_of(push_count: int, file_count: int) -> dict[str, bytes]:
    """Return a bucket to which so many pushes sent so many files each, and as many refs as pushes."""
    files: dict[str, bytes] = {}
    for push in range(push_count):
        with Store.at(RemoteBackend(MemoryRequests(files), "test://bucket"), create=True) as store:
            put = [store.put_file(io.BytesIO(b"%d %d " % (push, n) * 9)).manifest_digest for n in range(file_count)]
            store.seal()
            Refs(store.backend).append(f"models/m{push}", lambda _, one=put[0]: Draft((RefFile("f", 1, one),)))
            leans_on = (f"{push - 1:040x}",) if push else ()
            write_pin(store.backend, Pin(URL, f"{push:040x}", tuple(sorted(put)), leans_on))
    return files


def collected(files: dict[str, bytes]) -> Rounds:
    rounds = Rounds(MemoryRequests(files))
    with Store.at(rounds.backend()) as store:
        done = collect(store.objects, lambda: roots_of(store.backend), GRACE, is_dry=True)
    assert done.unneeded_bytes == 0
    return rounds


def test_a_collection_of_ten_times_as_much_takes_few_more_round_trips_and_no_more_requests_for_each_file():
    few, many = (collected(bucket_of(push_count, 4)) for push_count in (6, 60))

    assert few.count <= 24, few.asked
    assert many.count <= few.count + 4, many.asked
    # A locator for each file; and for each push a pin, a ref, a table with the head of its pack, and some runs.
    assert len(many.asked) - len(few.asked) <= 54 * (4 + 6)


def test_what_is_read_of_a_bucket_is_read_once(monkeypatch):
    monkeypatch.setattr("thetastore.packs.locations._AT_ONCE", 7)
    monkeypatch.setattr("thetastore.pins._READ_AT_ONCE", 5)
    monkeypatch.setattr("thetastore.refs._READ_AT_ONCE", 3)
    monkeypatch.setattr("thetastore.collecting.marking._TABLES_AT_ONCE", 4)

    asked = [one.name for one in collected(bucket_of(12, 3)).asked if one.verb == "get" and "packs/" not in one.name]

    assert len(asked) == len(set(asked))


def test_pins_are_read_the_same_in_windows_and_one_by_one(monkeypatch):
    files = bucket_of(9, 1)
    far = RemoteBackend(MemoryRequests(files), "test://bucket")
    together = pins_of(far)
    monkeypatch.setattr("thetastore.pins._READ_AT_ONCE", 2)

    assert pins_of(RemoteBackend(MemoryRequests(files), "test://bucket")) == together
    assert [int(name.commit, 16) for name in together] == list(range(9))


@pytest.mark.parametrize("numbers", [[1], [40], [3, 200, 1]])
def test_all_entries_of_refs_are_read_however_many_there_are(numbers):
    place = MemoryBackend()
    refs = Refs(place)
    digest = pushed_digest()
    for at, count in enumerate(numbers):
        for number in range(count):
            refs.append(f"models/m{at}", lambda _, number=number: Draft((RefFile("f", number, digest),)))

    assert [(entry.name, entry.number) for entry in refs.live()] == [
        (f"models/m{at}", number + 1) for at, count in enumerate(numbers) for number in range(count)
    ]


def pushed_digest():
    with Store.at(MemoryBackend(), create=True) as store:
        return store.put_file(io.BytesIO(b"some weights")).manifest_digest
