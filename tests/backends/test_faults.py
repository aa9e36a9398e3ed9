"""Every fault at every operation of a push and of a fetch: no wrong bytes, no success that is none, and it goes on."""

from __future__ import annotations

import errno
import io
import time

import numpy
import pytest

from thetastore.backends.memory import MemoryBackend
from thetastore.backends.remote import MOST_TRIES, RemoteBackend
from thetastore.digest import Digest
from thetastore.errors import BackendError, StoreMissingError, ThetaError
from thetastore.store import Store
from thetastore.testing import BackendConformance, Fault, FaultyBackend, FaultyRequests, MemoryRequests

PART_BYTES = 40_000


def checkpoint(seed: int) -> bytes:
    body = numpy.random.default_rng(0).standard_normal((6, 4096), dtype="f4")
    body[seed] = seed
    header = b'{"w":{"dtype":"F32","shape":[6,4096],"data_offsets":[0,98304]}}'
    return len(header).to_bytes(8, "little") + header + body.tobytes()


FILES = [checkpoint(1), checkpoint(2), b"no tensors at all"]


def far(requests) -> RemoteBackend:
    return RemoteBackend(requests, "test://bucket", pause=lambda seconds: None)


def bucket() -> dict[str, bytes]:
    """Return a bucket with an empty store."""
    requests = MemoryRequests()
    Store.at(far(requests), create=True).close()
    return requests.files


@pytest.fixture(scope="module")
def local() -> tuple[Store, list[Digest]]:
    store = Store.at(MemoryBackend(), create=True)
    digests = [store.put_file(io.BytesIO(content)).manifest_digest for content in FILES]
    store.seal()
    return store, digests


def check_all_there(files: dict[str, bytes], digests: list[Digest]) -> None:
    with Store.at(far(MemoryRequests(files))) as store:
        assert store.missing_objects(digests) == []
        for digest, content in zip(digests, FILES, strict=True):
            assert b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == content


def push(local: Store, digests: list[Digest], requests) -> None:
    with Store.at(far(requests)) as target:
        local.send_to(target, digests)


def fetch(requests, digests: list[Digest]) -> Store:
    here = Store.at(MemoryBackend(), create=True)
    with Store.at(far(requests)) as source:
        source.send_to(here, digests)
    here.seal()
    return here


def numbered(act) -> int:
    requests = FaultyRequests(MemoryRequests(bucket(), PART_BYTES))
    act(requests)
    return len(requests.operations)


@pytest.mark.parametrize("fault", Fault)
def test_a_push_through_any_fault_is_whole_or_says_so_and_can_be_repeated(local, fault):
    store, digests = local
    count = numbered(lambda requests: push(store, digests, requests))
    assert count > 15
    outcomes = {"done": 0, "failed": 0}

    for at in range(count):
        files = bucket()
        try:
            push(store, digests, FaultyRequests(MemoryRequests(files, PART_BYTES), {at: fault}))
            outcomes["done"] += 1
        except (ThetaError, OSError):
            outcomes["failed"] += 1
            push(store, digests, MemoryRequests(files, PART_BYTES))
        check_all_there(files, digests)

    if fault in (Fault.REQUEST_LOST, Fault.SERVER_ERROR, Fault.RESPONSE_LOST, Fault.DUPLICATED, Fault.STALE_LISTING):
        assert outcomes["failed"] == 0
    if fault is Fault.DEAD:
        assert outcomes["done"] <= 4  # the last operations file hints


@pytest.mark.parametrize("fault", Fault)
def test_a_fetch_through_any_fault_brings_the_right_bytes_or_says_so(local, fault):
    store, digests = local
    files = bucket()
    push(store, digests, MemoryRequests(files, PART_BYTES))
    whole = FaultyRequests(MemoryRequests(files))
    fetch(whole, digests)
    count = len(whole.operations)
    assert count > 5
    failed = 0

    for at in range(count):
        try:
            here = fetch(FaultyRequests(MemoryRequests(files), {at: fault}), digests)
        except (ThetaError, OSError):
            failed += 1
            continue
        for digest, content in zip(digests, FILES, strict=True):
            assert b"".join(map(bytes, here.read_file(here.get_manifest(digest), digest))) == content

    if fault in (Fault.REQUEST_LOST, Fault.SERVER_ERROR, Fault.RESPONSE_LOST, Fault.DUPLICATED):
        assert failed == 0
    if fault is Fault.DEAD:
        assert failed >= count - 4  # some of what is announced is never needed


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_whichever_call_the_system_refuses_nothing_stored_before_is_lost(number):
    def fill(backend) -> list[Digest]:
        with Store.at(backend) as store:
            digests = [store.put_file(io.BytesIO(content)).manifest_digest for content in FILES[1:]]
            store.seal()
            return digests

    counted = FaultyBackend(MemoryBackend())
    Store.at(counted, create=True).close()
    fill(counted)
    for at in range(len(counted.operations)):
        backend = MemoryBackend()
        with Store.at(backend, create=True) as before:
            first = before.put_file(io.BytesIO(FILES[0])).manifest_digest
        try:
            digests = fill(FaultyBackend(backend, at, number))
        except (ThetaError, OSError):
            backend.crash()
            digests = fill(backend)
        with Store.at(backend) as store:
            for digest, content in zip([first, *digests], FILES, strict=True):
                assert b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == content


def test_a_creation_whose_answer_was_lost_is_told_from_one_that_came_too_late():
    files: dict[str, bytes] = {}
    mine = far(FaultyRequests(MemoryRequests(files), {0: Fault.RESPONSE_LOST}))
    late = far(FaultyRequests(MemoryRequests(files), {0: Fault.REQUEST_LOST}))

    mine.create("a", b"mine")
    with pytest.raises(FileExistsError):
        late.create("a", b"late")

    assert files == {"a": b"mine"}


def test_a_place_that_never_answers_is_given_up():
    requests = FaultyRequests(MemoryRequests(), {0: Fault.DEAD})
    pauses: list[float] = []
    backend = RemoteBackend(requests, "test://bucket", pause=pauses.append)

    with pytest.raises(BackendError):
        backend.read("a", 0, 10)

    assert len(requests.operations) == len(pauses) + 1 <= MOST_TRIES
    assert sum(pauses) < 30


def test_a_place_without_a_store_is_told_from_one_that_cannot_be_reached():
    with pytest.raises(StoreMissingError):
        Store.at(far(MemoryRequests()))
    with pytest.raises(BackendError):
        Store.at(far(FaultyRequests(MemoryRequests(), {0: Fault.DEAD})))


@pytest.mark.parametrize("fault", [Fault.REQUEST_LOST, Fault.RESPONSE_LOST, Fault.SERVER_ERROR])
def test_the_verdict_on_a_place_does_not_depend_on_a_lost_answer(fault):
    counted = FaultyRequests(MemoryRequests())
    Store.at(far(counted), create=True).close()

    for at in range(len(counted.operations)):
        assert Store.at(far(FaultyRequests(MemoryRequests(), {at: fault})), create=True).is_for_many_writers


class Forgetful(MemoryRequests):
    """A server that knows no conditions."""

    def put_new(self, name, stored):
        self.files[name] = bytes(stored)


def test_a_place_that_replaces_files_is_for_one_writer_and_its_descriptor_says_so():
    requests = Forgetful()
    assert not Store.at(far(requests), create=True).is_for_many_writers

    assert b'"writers": "one"' in requests.files["thetastore.json"]
    again = Store.at(far(requests))
    assert not again.is_for_many_writers
    again.backend.create("a", b"first")
    with pytest.raises(FileExistsError):
        again.backend.create("a", b"second")


class TestMemoryRequests(BackendConformance):
    @pytest.fixture
    def requests(self):
        return MemoryRequests(part_bytes=4)

    @pytest.fixture
    def backend(self, requests):
        return far(requests)

    @pytest.fixture
    def peer(self, requests):
        return far(requests)


def test_nothing_here_waits():
    started = time.process_time()
    far(FaultyRequests(MemoryRequests({"a": b"x"}), {0: Fault.REQUEST_LOST, 1: Fault.SERVER_ERROR})).read("a", 0, 1)

    assert time.process_time() - started < 1
