"""Copies of a process do its work, or give it back."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.digest import digest_of
from thetastore.forks import Answer, Forks, Promise
from thetastore.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has copies of a process")
MOST_BYTES = 1 << 16


def reversed_bytes(head: bytes, raw: memoryview) -> tuple[bytes, bytes] | None:
    if head == b"give back":
        return None
    if head == b"fail":
        raise ValueError("no")
    if head == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    return b"%s of %d" % (head, os.getpid()), bytes(raw)[::-1] * (2 if head == b"too long" else 1)


@pytest.fixture(name="forks")
def two_forks() -> Iterator[Forks]:
    forks = Forks(2, reversed_bytes, MOST_BYTES)
    yield forks
    forks.end()


def submitted(forks: Forks, head: bytes, raw: bytes) -> Promise:
    while (promise := forks.submit(head, memoryview(raw))) is None:
        pass
    return promise


def test_work_comes_back_done_by_another_process_and_as_it_was_asked_for(forks: Forks) -> None:
    pieces = [os.urandom(number * 100) for number in range(200)]

    promises = [submitted(forks, b"%d" % number, raw) for number, raw in enumerate(pieces)]

    pids = set()
    for number, (raw, promise) in enumerate(zip(pieces, promises, strict=True)):
        answer = promise.result()
        assert isinstance(answer, Answer)
        which, pid = answer.head.split(b" of ")
        assert (int(which), answer.raw) == (number, raw[::-1])
        pids.add(int(pid))
    assert os.getpid() not in pids
    assert len(pids) == 2


@pytest.mark.parametrize("head", [b"give back", b"fail", b"too long"])
def test_what_a_copy_cannot_do_is_given_back_and_it_goes_on(head: bytes, forks: Forks) -> None:
    assert submitted(forks, head, bytes(MOST_BYTES)).result() is None
    assert submitted(forks, b"next", b"ab").result() is not None


def test_what_is_longer_than_was_said_is_not_taken(forks: Forks) -> None:
    assert forks.submit(b"long", memoryview(bytes(MOST_BYTES + 1))) is None


def test_the_work_of_copies_that_die_is_given_back_and_no_more_taken(forks: Forks) -> None:
    promises = [submitted(forks, b"die", b"x") for _ in range(2)]

    assert [promise.result() for promise in promises] == [None, None]
    assert forks.submit(b"next", memoryview(b"ab")) is None


def test_a_copy_that_died_does_not_keep_the_other_one_from_work(forks: Forks) -> None:
    assert submitted(forks, b"die", b"x").result() is None

    assert submitted(forks, b"next", b"ab").result() is not None


MAKER = """
import os, signal
from thetastore.forks import Forks
forks = Forks(2, lambda head, raw: (b"%d" % os.getpid(), b""), 10)
found = [forks.submit(b"", memoryview(b"")) for _ in range(4)]
print(*{one.result().head.decode() for one in found}, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_copies_end_when_whoever_made_them_dies() -> None:
    made = subprocess.run([sys.executable, "-c", MAKER], capture_output=True, text=True, check=False)

    assert len(made.stdout.split()) == 2, made
    for pid in map(int, made.stdout.split()):
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([process], [], [], 60)[0]
        os.close(process)


def model(seed: int, base: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    if base is None:
        return {f"layer.{n}": rng.standard_normal((700, 1000), "f4") * np.float32(0.02) for n in range(5)}
    return {name: array + rng.standard_normal(array.shape, "f4") * np.float32(1e-6) for name, array in base.items()}


def test_a_store_holds_the_same_files_in_as_many_bytes_whether_copies_code_or_not(tmp_path: Path) -> None:
    versions = [model(1)]
    versions.append(model(2, versions[0]))
    stored = {}
    for name in ("alone", "copies"):
        parent = None
        with Store.open(str(tmp_path / name), create=True) as store:
            store.pool.is_forkable = name == "copies"
            store.pool.workers = 2
            for arrays in versions:
                source = safetensors_source([new_tensor(key, array) for key, array in arrays.items()])
                ingested = store.put_file(source, parent)
                parent = ingested.manifest_digest
                read = b"".join(bytes(piece) for piece in store.read_file(ingested.manifest, parent))
                assert digest_of(read) == ingested.manifest.file_digest
        stored[name] = (parent, sum(path.stat().st_size for path in tmp_path.joinpath(name).rglob("*.pack")))
    assert stored["alone"][0] == stored["copies"][0]
    assert abs(stored["alone"][1] - stored["copies"][1]) < stored["alone"][1] / 100
