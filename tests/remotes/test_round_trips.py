"""How many round trips, and how many bytes, a cold read of some tensors takes: from memory, and from a real server."""

from __future__ import annotations

import io

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.backends.memory import MemoryBackend
from thetastore.backends.opening import open_remote
from thetastore.backends.remote import RemoteBackend
from thetastore.backends.urls import parse_url
from thetastore.models import Model
from thetastore.packs.index import Place
from thetastore.packs.locations import Located
from thetastore.packs.locator import encode_locator, locator_name, parse_locator
from thetastore.store import Store
from thetastore.testing import MemoryRequests, Rounds

WANTED = ("layers.03.w", "layers.04.w", "layers.40.w")


class Afar:
    """An origin over a place, opened as `thetastore.open` opens a URL."""

    def __init__(self, rounds: Rounds, digests) -> None:
        self._rounds, self._digests = rounds, digests

    def open(self):
        store = Store.at(self._rounds.backend(), expected=self._digests)
        self.readers = [store.tensors(store.get_manifest(digest), digest) for digest in self._digests]
        return self

    def bring(self, names):
        pass


def weights(seed: int, count: int = 60) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {f"layers.{n:02}.w": random.standard_normal((192, 256)).astype(np.float32) for n in range(count)}


def tuned(arrays: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The same weights a little further on: chunks become differences from the first ones."""
    random = np.random.default_rng(seed)
    return {name: array * (1 + random.choice([0, 1e-7], array.shape)).astype("f4") for name, array in arrays.items()}


def pushed(rounds: Rounds, *models: dict[str, np.ndarray]):
    """Push models, one push each; return their manifests."""
    digests = []
    with Store.at(MemoryBackend(), create=True) as here:
        for arrays in models:
            base = digests[-1] if digests else None
            digests.append(here.put_file(io.BytesIO(safetensors_bytes(arrays)), base).manifest_digest)
            here.seal()
            with Store.at(rounds.backend(), create=True) as there:
                there.count_only_durable()
                here.send_to(there, [digest for digest, _ in there.missing_objects([digests[-1]])])
    rounds.restart()
    return digests


def needed_bytes(files: dict[str, bytes], digest, names) -> int:
    """The records of the chunks of some tensors, of their bases, and of the bases of these."""
    with Store.at(RemoteBackend(MemoryRequests(files), "test://bucket")) as store:
        reader = store.tensors(store.get_manifest(digest), digest)
        waiting = [placed.chunk.digest for name in names for placed in reader.chunks(name)]
        found = {}
        while waiting:
            one = waiting.pop()
            if one not in found:
                place = store.objects.catalog.snapshot().first(one)
                found[one] = place.nbytes
                waiting += store.objects.entry(one).bases
    return sum(found.values())


def cold_read(rounds: Rounds, digests, arrays, names=WANTED) -> int:
    """Read some tensors; return the bytes that were not of locators, index or descriptor."""
    read = Model(Afar(rounds, digests)).select(list(names)).state_dict()
    assert all(np.array_equal(read[name], arrays[name]) for name in names)
    return sum(one.nbytes for one in rounds.asked if one.name.startswith("packs/"))


@pytest.mark.parametrize("version", [0, 1, 2])
def test_some_tensors_of_a_store_far_away_come_in_two_round_trips(version):
    files: dict[str, bytes] = {}
    rounds = Rounds(MemoryRequests(files))
    models = [weights(0)]
    models += [tuned(models[0], 1)]
    models += [tuned(models[1], 2)]
    digests = pushed(rounds, *models)

    pack_bytes = cold_read(rounds, [digests[version]], models[version])

    assert rounds.count == 2, rounds.asked
    assert pack_bytes <= 1.05 * needed_bytes(files, digests[version], WANTED) + (64 << 10)
    metadata_bytes = rounds.get_bytes - pack_bytes
    assert metadata_bytes <= 0.001 * sum(array.nbytes for array in models[0].values())  # small tensors, short chunks


def test_a_file_that_was_stored_right_there_has_a_locator_too():
    rounds = Rounds(MemoryRequests())
    arrays = weights(0)
    with Store.at(rounds.backend(), create=True) as there:
        digest = there.put_file(io.BytesIO(safetensors_bytes(arrays))).manifest_digest
    rounds.restart()

    cold_read(rounds, [digest], arrays)

    assert rounds.count == 2, rounds.asked


def test_shards_come_together():
    rounds = Rounds(MemoryRequests())
    arrays = weights(0)
    names = sorted(arrays)
    shards = [{name: arrays[name] for name in names[n::3]} for n in range(3)]
    digests = pushed(rounds, *shards)

    cold_read(rounds, digests, arrays, names[:3])

    assert rounds.count == 2, rounds.asked


def moved(files: dict[str, bytes]) -> None:
    """Do what a collector does in the end: all records are in other packs, and the index says so."""
    for number, name in enumerate([name for name in files if name.startswith("packs/")]):
        files[f"packs/{number:032x}.pack"] = files.pop(name)
    for name in [name for name in files if name.startswith("index/")]:
        del files[name]
    with Store.at(RemoteBackend(MemoryRequests(files), "test://bucket")) as store:
        store.objects.rebuild_index()


def test_a_locator_that_is_out_of_date_costs_one_round_trip_more():
    files: dict[str, bytes] = {}
    rounds = Rounds(MemoryRequests(files))
    models = [weights(0)]
    models += [tuned(models[0], 1)]
    digests = pushed(rounds, *models)
    moved(files)

    cold_read(rounds, digests[1:], models[1])

    assert rounds.count == 3 + 1, rounds.asked  # the heads of differences tell their bases, for want of a locator


def test_of_models_without_differences_it_is_three_in_all():
    files: dict[str, bytes] = {}
    rounds = Rounds(MemoryRequests(files))
    arrays = weights(0)
    digests = pushed(rounds, arrays)
    moved(files)

    cold_read(rounds, digests, arrays)

    assert rounds.count == 3, rounds.asked


def test_metadata_beyond_the_first_read_takes_one_round_trip_more(monkeypatch):
    monkeypatch.setattr("thetastore.packs.locations.FIRST_READ_BYTES", 1000)
    rounds = Rounds(MemoryRequests())
    arrays = weights(0)
    digests = pushed(rounds, arrays)

    cold_read(rounds, digests, arrays)

    assert rounds.count == 3, rounds.asked


def test_what_tells_where_things_are_is_a_small_part_of_a_model():
    rounds = Rounds(MemoryRequests())
    random = np.random.default_rng(3)
    arrays = {f"layers.{n:02}.w": random.integers(0, 1 << 32, (1024, 1024), "u4").view("f4") for n in range(8)}
    [digest] = pushed(rounds, arrays)

    with Store.at(rounds.backend(), expected=[digest]) as store:
        store.get_manifest(digest)

    assert rounds.count == 1
    assert rounds.get_bytes - len(store.backend.read("thetastore.json")) <= 0.0002 * 8 * (4 << 20)


def test_a_fetch_of_some_tensors_into_a_store_here_takes_two_round_trips():
    rounds = Rounds(MemoryRequests())
    models = [weights(0)]
    models += [tuned(models[0], 1)]
    digests = pushed(rounds, *models)

    with Store.at(MemoryBackend(), create=True) as here, Store.at(rounds.backend(), expected=digests[1:]) as there:
        assert there.missing_objects(digests[1:], WANTED.__contains__) == []
        there.send_to(here, digests[1:], wants=WANTED.__contains__)
        reader = here.tensors(here.get_manifest(digests[1]), digests[1])
        assert all(bytes(reader.read(name)) == models[1][name].tobytes() for name in WANTED)

    assert rounds.count == 2, rounds.asked


@pytest.mark.parametrize("harm", ["gone", "cut", "noise", "empty", "of another"])
def test_a_locator_that_is_gone_or_damaged_is_done_without(harm):
    files: dict[str, bytes] = {}
    rounds = Rounds(MemoryRequests(files))
    arrays = weights(0)
    digests = pushed(rounds, arrays, weights(1))
    name = locator_name(digests[0])
    whole = files.pop(name)
    harmed = {
        "cut": whole[:-10],
        "noise": bytes(len(whole)),
        "empty": b"",
        "of another": files[locator_name(digests[1])],
    }
    files.update({name: harmed[harm]} if harm in harmed else {})

    cold_read(rounds, digests[:1], arrays)

    assert rounds.count <= 7


def test_a_locator_that_lies_about_places_passes_off_no_other_bytes():
    files: dict[str, bytes] = {}
    rounds = Rounds(MemoryRequests(files))
    arrays = weights(0)
    [digest] = pushed(rounds, arrays)
    true = parse_locator(memoryview(files[locator_name(digest)]), digest)
    places = [located.place for located in true.objects.values()]
    shuffled = {
        one: Located(place, (one,) if at % 2 else ())
        for at, (one, place) in enumerate(zip(true.objects, places[1:] + places[:1], strict=True))
    }
    far_off = {one: Located(Place("packs/" + "f" * 32 + ".pack", 1 << 60, 1000), ()) for one in true.objects}
    beyond = {
        one: located._replace(place=located.place._replace(offset=1 << 50)) for one, located in true.objects.items()
    }

    for lie in (shuffled, far_off, beyond):
        files[locator_name(digest)] = encode_locator(true.manifest, [], lie, true.runs)

        cold_read(rounds, [digest], arrays)


@pytest.mark.xdist_group("moto")
def test_moto(moto):
    check_a_server(moto)


@pytest.mark.xdist_group("seaweedfs")
def test_seaweedfs(seaweedfs):
    check_a_server(seaweedfs)


def check_a_server(place) -> None:
    place = place.fresh()
    rounds = Rounds(open_remote(parse_url(place.url), place.options).requests)
    models = [weights(0)]
    models += [tuned(models[0], 1)]
    digests = pushed(rounds, *models)

    pack_bytes = cold_read(rounds, digests[1:], models[1])

    assert rounds.count == 2, rounds.asked
    assert pack_bytes <= 0.1 * sum(array.nbytes for array in models[1].values())


def large_weights(seed: int, count: int = 110) -> dict[str, np.ndarray]:
    """Chunks that do not compress, more than a far backend holds at once."""
    random = np.random.default_rng(seed)
    return {f"{n:03}": np.frombuffer(random.bytes(720_000), "f4") for n in range(count)}


@pytest.mark.parametrize("has_locators", [True, False])
def test_a_fetch_of_much_brings_nothing_twice(has_locators):
    files: dict[str, bytes] = {}
    rounds = Rounds(MemoryRequests(files))
    weights = large_weights(0)
    digests = pushed(rounds, weights)
    for name in [name for name in files if name.startswith("locators/") and not has_locators]:
        del files[name]

    with Store.at(rounds.backend(), expected=digests) as there, Store.at(MemoryBackend(), create=True) as here:
        there.send_to(here, digests)

    assert len(rounds.asked) <= 30
    assert sum(one.nbytes for one in rounds.asked) <= 1.02 * sum(array.nbytes for array in weights.values())


def test_a_fetch_of_a_difference_does_not_ask_for_its_base_which_is_here():
    rounds = Rounds(MemoryRequests({}))
    first = weights(0)
    digests = pushed(rounds, first, tuned(first, 1))
    with Store.at(MemoryBackend(), create=True) as here:
        with Store.at(rounds.backend(), expected=digests[:1]) as there:
            there.send_to(here, digests[:1])
        rounds.restart()

        with Store.at(rounds.backend(), expected=digests[1:]) as there:
            copied = there.send_to(here, digests[1:])

    assert copied.stored_bytes < 0.3 * copied.raw_bytes
    assert sum(one.nbytes for one in rounds.asked) <= copied.stored_bytes + (64 << 10)
