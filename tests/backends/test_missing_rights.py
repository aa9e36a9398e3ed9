"""A place that does not allow everything: what is missing is said, what can be done without is done."""

from __future__ import annotations

import errno
import io
import json

import numpy
import pytest

from gitbridge.errors import words_for
from thetastore.backends.remote import RemoteBackend
from thetastore.errors import BackendError
from thetastore.packs.upkeep import MOST_RUNS
from thetastore.store import Store
from thetastore.testing import MemoryRequests

DENIED = "the server answers with status 403 (AccessDenied: Access Denied)"
VERBS = {"read": ("get", "size"), "list": ("list",), "write": ("put_new", "begin"), "delete": ("delete",)}


class Denying(MemoryRequests):
    """A bucket, in memory, in which somebody may not do some things."""

    def __init__(self, files: dict[str, bytes], *rights: str) -> None:
        super().__init__(files)
        for verb in (verb for right in rights for verb in VERBS[right]):
            setattr(self, verb, self._refuse)

    def _refuse(self, *_: object) -> None:
        raise BackendError(errno.EACCES, DENIED, "models/llm")


def bucket(files: dict[str, bytes], *denied: str) -> RemoteBackend:
    return RemoteBackend(Denying(files, *denied), "s3://models/llm", pause=lambda seconds: None)


def content(seed: int) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [5000], "data_offsets": [0, 20000]}}).encode()
    return len(header).to_bytes(8, "little") + header + numpy.random.default_rng(seed).bytes(20_000)


def push(backend: RemoteBackend, seed: int):
    with Store.at(bucket({}), create=True) as here, Store.at(backend, create=True) as there:
        digest = here.put_file(io.BytesIO(content(seed))).manifest_digest
        there.begin_session()
        if there.missing_objects([digest]):
            here.send_to(there, [digest])
    return digest


@pytest.mark.parametrize("right", ["read", "list", "write"])
def test_the_right_that_is_missing_is_named(right):
    files: dict[str, bytes] = {}
    push(bucket(files), 1)
    before = dict(files)

    with pytest.raises(BackendError) as caught:
        push(bucket(files, right), 2)

    message, hint = words_for(caught.value)
    assert message == f"'s3://models/llm': we may not {right} files there: {DENIED}"
    assert "docs/remotes.md" in hint
    assert {name: files[name] for name in before} == before


def test_who_may_not_delete_can_push_for_ever():
    files: dict[str, bytes] = {}

    digests = [push(bucket(files, "delete"), seed) for seed in range(MOST_RUNS + 2)]

    with Store.at(bucket(files, "write", "delete")) as store:
        assert store.missing_objects(digests) == []
        manifest = store.get_manifest(digests[3])
        assert b"".join(map(bytes, store.read_file(manifest, digests[3]))) == content(3)


def test_who_may_only_read_and_list_can_fetch():
    files: dict[str, bytes] = {}
    digest = push(bucket(files), 1)

    with Store.at(bucket(files, "write", "delete")) as there, Store.at(bucket({}), create=True) as here:
        there.send_to(here, [digest])
        assert here.missing_objects([digest]) == []
