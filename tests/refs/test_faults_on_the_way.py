"""Put, sync and publish over a place where any one operation goes wrong: what is reported is there, and is whole."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from checkpoints import safetensors_bytes

from thetastore.backends.remote import RemoteBackend
from thetastore.errors import BackendError
from thetastore.publishing.publisher import Publisher
from thetastore.publishing.subscriber import Subscriber
from thetastore.ref_entries import Draft
from thetastore.refs import Refs
from thetastore.store import Store
from thetastore.testing.faults import Fault, FaultyRequests, MemoryRequests
from thetastore.versions.copying import sync
from thetastore.versions.history import Versions
from thetastore.versions.names import ModelName, resolve

Files = dict[str, bytes]
PASSING = [Fault.RESPONSE_LOST, Fault.REQUEST_LOST, Fault.DUPLICATED, Fault.STALE_LISTING]
FINAL = [Fault.DEAD, Fault.REFUSED]


def content(seed: int) -> bytes:
    weights = np.random.default_rng(0).standard_normal((64, 512), np.float32)
    weights[seed] += 1
    return safetensors_bytes({"w": weights})


def store_over(files: Files, url: str = "test://") -> Store:
    return Store.at(RemoteBackend(MemoryRequests(files), url, pause=lambda _: None), create=True)


def new_store() -> Files:
    files: Files = {}
    store_over(files).close()
    return files


def check_whole(files: Files) -> list[str]:
    """Read every version of every model, all of it; return the messages of `m`, the oldest first."""
    store = store_over(files)
    messages = []
    with store:
        for name, numbers in Refs(store.backend).numbers().items():
            assert numbers == list(range(1, len(numbers) + 1))
            for number in numbers:
                entry = Refs(store.backend).read(name, number)
                for file in entry.files:
                    manifest = store.get_manifest(file.manifest_digest)
                    assert sum(piece.nbytes for piece in store.read_file(manifest, file.manifest_digest))
                messages.append(entry.message)
    return messages


def everywhere(act: Callable[[Files, Store], None], prepared: Files, fault: Fault) -> list[tuple[Files, bool]]:
    """Do something over and over, each time with one more operation before the one that goes wrong."""
    found = []
    number = 0
    while True:
        files = dict(prepared)
        requests = FaultyRequests(MemoryRequests(files), {})
        try:
            store = Store.at(RemoteBackend(requests, "test://", pause=lambda _: None))
            requests.fail(len(requests.operations) + number, fault)
            last = len(requests.operations) + number
            with store:
                act(files, store)
        except BackendError:
            found.append((files, False))
        else:
            found.append((files, True))
        if last >= len(requests.operations):
            assert found[-1][1]
            return found
        number += 1


def put(_: Files, store: Store) -> None:
    Versions(store).put_stream("m", "model.safetensors", io.BytesIO(content(1)), Draft((), "second"))


@pytest.fixture
def with_one() -> Files:
    files = new_store()
    with store_over(files) as store:
        Versions(store).put_stream("m", "model.safetensors", io.BytesIO(content(0)), Draft((), "first"))
    return files


@pytest.mark.parametrize("fault", PASSING + FINAL, ids=lambda fault: fault.value)
def test_a_put_that_is_reported_is_there_and_whatever_is_there_is_whole(with_one: Files, fault: Fault) -> None:
    runs = everywhere(put, with_one, fault)

    assert len(runs) > 10
    for files, was_reported in runs:
        messages = check_whole(files)
        assert messages in (["first", "second"], *([] if was_reported else [["first"]]))
        assert was_reported or fault in FINAL


@pytest.mark.parametrize("fault", [Fault.RESPONSE_LOST, Fault.DEAD], ids=lambda fault: fault.value)
def test_a_sync_that_breaks_off_leaves_whole_versions_and_goes_on(with_one: Files, fault: Fault) -> None:
    with store_over(with_one) as store:
        put(with_one, store)
        Versions(store).tag(ModelName("m"), "prod", Draft((), "tagged"))

    def act(_: Files, target: Store) -> None:
        with store_over(dict(with_one), url="from://") as source:
            sync(source, target)

    for files, was_reported in everywhere(act, new_store(), fault):
        messages = check_whole(files)
        assert messages == ["first", "second", "tagged"][: len(messages)]
        assert len(messages) == 3 or not was_reported
        with store_over(with_one, url="from://") as source, store_over(files) as target:
            sync(source, target)
        assert check_whole(files) == ["first", "second", "tagged"]
        with store_over(files) as target:
            assert resolve(target, ModelName("m", "prod")).message == "second"


@pytest.mark.parametrize("fault", [Fault.RESPONSE_LOST, Fault.DEAD], ids=lambda fault: fault.value)
def test_whoever_follows_a_publisher_that_breaks_off_has_what_was_published(fault: Fault) -> None:
    states = [{"w": np.random.default_rng(0).standard_normal((64, 512), np.float32)}]
    for _ in range(2):
        states.append({"w": states[-1]["w"].copy()})
        states[-1]["w"][::7, ::5] += 1

    reported: list[list[str]] = []

    def act(_: Files, store: Store) -> None:
        reported.append([])
        publisher = Publisher(store, "m")
        for number, state in enumerate(states):
            publisher.publish(state, str(number))
            reported[-1].append(str(number))

    for (files, _), said in zip(everywhere(act, new_store(), fault), reported, strict=True):
        messages = check_whole(files)
        assert messages[: len(said)] == said
        if messages:
            with Subscriber(store_over(files), "m") as subscriber:
                subscriber.update()
                assert np.array_equal(subscriber.tensors["w"], states[len(messages) - 1]["w"])
