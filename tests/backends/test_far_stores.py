"""What a store far away costs: requests, and what is sent again after a break. And what opens one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading

import numpy
import pytest

from gitbridge.store_options import options_for, parse_option
from thetastore.backends import Range
from thetastore.backends.memory import MemoryBackend
from thetastore.backends.ranges import MAX_BLOCK_BYTES, coalesce
from thetastore.backends.remote import RemoteBackend
from thetastore.backends.urls import parse_url
from thetastore.errors import BackendError, MalformedError
from thetastore.objects import Objects
from thetastore.store import Store
from thetastore.testing import Fault, FaultyRequests, MemoryRequests

TENSOR_COUNT = 300


def far(requests) -> RemoteBackend:
    return RemoteBackend(requests, "test://bucket", pause=lambda seconds: None)


def checkpoint(seed: int, count: int = TENSOR_COUNT) -> bytes:
    values = numpy.random.default_rng(seed).integers(0, 1 << 32, (count, 20_000), dtype="u4")
    spans = ",".join(
        f'"t{n}":{{"dtype":"U32","shape":[20000],"data_offsets":[{n * 80_000},{(n + 1) * 80_000}]}}'
        for n in range(count)
    )
    header = f"{{{spans}}}".encode()
    return len(header).to_bytes(8, "little") + header + values.tobytes()


def put(store: Store, content: bytes):
    digest = store.put_file(io.BytesIO(content)).manifest_digest
    store.seal()
    return digest


def copy(digests, source: Store, target: Objects) -> None:
    for digest in digests:
        target.add_representation(*source.objects.representation(digest))


def test_a_fetch_of_many_chunks_makes_few_requests():
    files: dict[str, bytes] = {}
    content = checkpoint(0)
    with Store.at(far(MemoryRequests(files)), create=True) as store:
        digest = put(store, content)
    requests = FaultyRequests(MemoryRequests(files))
    with Store.at(MemoryBackend(), create=True) as here:
        with Store.at(far(requests)) as source:
            copied = source.send_to(here, [digest])
        read = b"".join(map(bytes, here.read_file(here.get_manifest(digest), digest)))

    gets = [operation for operation in requests.operations if operation.startswith("get packs/")]
    assert read == content
    assert copied.object_count > TENSOR_COUNT
    assert len(gets) <= copied.stored_bytes // (MAX_BLOCK_BYTES // 2) + 6
    assert len(requests.operations) - len(gets) <= 6


def test_a_push_lists_a_bucket_few_times():
    files: dict[str, bytes] = {}
    Store.at(far(MemoryRequests(files)), create=True).close()
    listings = []
    with Store.at(MemoryBackend(), create=True) as here:
        for seed in range(2):
            digest = put(here, checkpoint(seed, 30))
            requests = FaultyRequests(MemoryRequests(files))
            with Store.at(far(requests)) as target:
                target.begin_session()
                assert target.missing_objects([digest])
                here.send_to(target, [digest])
            listings.append(sum("list" in operation for operation in requests.operations))

    assert listings[0] <= 12
    assert listings[1] <= 12


def test_a_file_read_right_from_a_bucket_makes_few_requests_too():
    files: dict[str, bytes] = {}
    content = checkpoint(0, 100)
    with Store.at(far(MemoryRequests(files)), create=True) as store:
        digest = put(store, content)
    requests = FaultyRequests(MemoryRequests(files))

    with Store.at(far(requests)) as store:
        assert b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == content

    assert len(requests.operations) <= 12


def test_what_arrived_of_a_push_is_not_sent_again():
    files = MemoryRequests()
    Store.at(far(files), create=True).close()
    with Store.at(MemoryBackend(), create=True) as local:
        digest = put(local, checkpoint(0, 60))
        broken = FaultyRequests(files)
        first = Objects(far(broken), pack_bytes=1 << 20)
        needed = list(local.iter_objects(digest))

        for one in needed[:40]:
            first.add_representation(*local.objects.representation(one))
        broken.fail(len(broken.operations), Fault.DEAD)
        with pytest.raises(BackendError):
            copy(needed[40:], local, first)
        packs = [name for name in files.files if name.startswith("packs/")]
        assert len(packs) >= 2
        with Store.at(far(files)) as again:
            copied = local.send_to(again, [digest])

    assert copied.object_count <= 61 - 12 * len(packs)
    with Store.at(far(files)) as store:
        assert store.missing_objects([digest]) == []


class Stuck(MemoryRequests):
    """A place that takes the first part of an upload and then nothing, until it is let go; Ctrl-C comes meanwhile."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files, part_bytes=1 << 20)
        self.let_go = threading.Event()

    def put_part(self, name, upload, number, offset, stored):
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        if number:
            self.let_go.wait()
        return super().put_part(name, upload, number, offset, stored)


@pytest.fixture
def heeds_interrupts():
    """What shells start in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_does_not_wait_for_what_is_being_sent_nor_sends_the_rest():
    files: dict[str, bytes] = {}
    Store.at(far(MemoryRequests(files)), create=True).close()
    place = Stuck(files)
    with Store.at(MemoryBackend(), create=True) as here:
        digest = put(here, checkpoint(0, 60))

        def push():
            with Store.at(far(place)) as target:
                target.begin_session()
                here.send_to(target, [digest])

        with pytest.raises(KeyboardInterrupt):  # it hangs if that waits
            push()

        assert not [name for name in files if name.startswith(("packs/", "sessions/"))]
        place.let_go.set()
        with Store.at(far(MemoryRequests(files))) as target:
            assert here.send_to(target, [digest]).object_count > 60


def test_ranges_that_nearly_touch_are_one_request_and_none_is_cut():
    mib = 1 << 20
    neighbours = [Range("a", n * mib, mib) for n in range(10)]

    assert coalesce(reversed(neighbours)) == [Range("a", 0, 8 * mib), Range("a", 8 * mib, 2 * mib)]
    assert coalesce([Range("a", 0, 100), Range("a", 4000, 100)]) == [Range("a", 0, 4100)]
    assert coalesce([Range("a", 0, 100), Range("a", 9000, 100)]) == [Range("a", 0, 100), Range("a", 9000, 100)]
    assert coalesce([Range("a", 0, 20 * mib)]) == [Range("a", 0, 20 * mib)]
    assert coalesce([Range("a", 0, 10), Range("b", 10, 10)]) == [Range("a", 0, 10), Range("b", 10, 10)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("30", 30),
        ("0123", "0123"),
        ("none", None),
        ('{"region_name": "x"}', {"region_name": "x"}),
        ("{broken", "{broken"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
    ],
)
def test_options_are_what_they_look_like(text, value):
    assert parse_option(text) == value


def test_the_longest_url_that_covers_a_store_counts_and_no_other_is_asked():
    settings = {
        "theta.url": ["s3://models/x"],
        "theta.s3://.profile": ["all"],
        "theta.s3://models.profile": ["old", "team"],
        "theta.s3://models.endpoint-url": ["http://one"],
        "theta.s3://models/team.endpoint-url": ["http://two"],
        "theta.s3://models-of-somebody.secret": ["no"],
        "theta.gs://models.token": ["no"],
        "thetas.s3://models.secret": ["no"],
    }

    found = options_for(parse_url("s3://models/team/a"), settings)

    assert found == {"profile": "team", "endpoint_url": "http://two"}
    assert "http" not in repr(found)
    assert options_for(parse_url("https://models.example"), {"theta.https://models.key": ["no"]}) == {}


@pytest.mark.parametrize(
    "url",
    [
        "s3:/x",
        "://x",
        "s3://",
        "s3:///x",
        "s3://a/../b",
        "s3://a/b//c",
        "s3://u:p@a",
        "s3://a?x",
        "s3://a#x",
        "s3://a\nb",
        "sftp://`id`@a/x",
        "sftp://$(id)/x",
        "sftp://a;id/x",
        "sftp://u@-oProxyCommand=id/x",
    ],
)
def test_what_is_no_url_of_a_store_is_refused(url):
    with pytest.raises(MalformedError):
        parse_url(url)


def test_a_missing_package_is_told_by_the_extra_that_brings_it(tmp_path):
    for extra, url, module in (("s3", "s3://b/x", "s3fs"), ("sftp", "sftp://h/x", "sshfs"), ("gcs", "gs://b", "gcsfs")):
        code = f"import sys; sys.modules['{module}'] = None\nfrom thetastore.store import Store\nStore.open('{url}')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        assert f"pip install 'thetastore[{extra}]'" in done.stderr


def test_what_libraries_log_while_we_try_again_is_not_shown_but_goes_to_who_asked_for_it():
    code = """
import logging
from thetastore.backends.opening import open_remote
from thetastore.backends.urls import parse_url
open_remote(parse_url("http://127.0.0.1:9/x"))
for name in ("asyncio", "gcsfs", "botocore.auth"):
    logging.getLogger(name).error("secret of %s", name)
logging.basicConfig(format="asked: %(message)s")
logging.getLogger("gcsfs").error("again")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout + done.stderr == "asked: again\n"


def test_an_option_that_means_nothing_is_named():
    with pytest.raises(BackendError, match="the option 'frobnicate' means nothing there"):
        Store.open("s3://bucket/x", options={"frobnicate": 1, "anon": True, "endpoint_url": "http://127.0.0.1:9"})
