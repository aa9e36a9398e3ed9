"""Long index runs of a store far away: what is looked up in them, by how many requests and bytes."""

from __future__ import annotations

import random

import pytest

from thetastore.backends.remote import RemoteBackend
from thetastore.digest import Digest
from thetastore.errors import MalformedError
from thetastore.packs import far_index
from thetastore.packs.far_index import FarRun, look_up
from thetastore.packs.index import Run, word_of, write_run
from thetastore.packs.writer import Row, SealedPack
from thetastore.testing import MemoryRequests, Rounds

COUNT = 60_000


def digests(count: int, seed: int) -> list[Digest]:
    source = random.Random(seed)
    return [Digest(source.randbytes(32)) for _ in range(count)]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """One run, over packs of 100 records each; a few digests are there twice, and words are shared."""
    found: dict[str, bytes] = {}
    own = digests(COUNT, 1)
    own += own[:50]
    own += [Digest(b"\x07" * 24 + bytes(own[0])[24:]), Digest(b"\x08" * 24 + bytes(own[0])[24:])]
    packs = [
        SealedPack(
            f"{at:032x}", 1 << 30, [Row(digest, 32 + 1000 * n, 1000) for n, digest in enumerate(own[at : at + 100])]
        )
        for at in range(0, len(own), 100)
    ]
    write_run(RemoteBackend(MemoryRequests(found), "test://bucket"), packs)
    return found


def opened(files: dict[str, bytes]) -> tuple[Rounds, FarRun, Run]:
    rounds = Rounds(MemoryRequests(files))
    [name] = [name for name in files if name.startswith("index/")]
    far = FarRun(rounds.backend(), name, len(files[name]))
    return rounds, far, Run(memoryview(files[name]), name)


def agree(far: FarRun, near: Run, asked: list[Digest]) -> None:
    for digest in asked:
        assert list(far.find(digest, word_of(digest))) == list(near.find(digest, word_of(digest)))


def test_opening_reads_the_end_and_no_more(files):
    rounds, far, near = opened(files)

    assert rounds.count == 1
    assert rounds.get_bytes < 100_000
    assert (far.count, far.packs, far.is_far) == (near.count, near.packs, True)


def test_one_digest_takes_one_round_trip_and_some_30_kib(files):
    asked = [*digests(COUNT, 1)[:40], *digests(40, 2)]
    rounds, far, near = opened(files)
    for digest in asked:
        rounds.restart()

        agree(far, near, [digest])

        assert rounds.count == 1
        assert rounds.get_bytes <= 40 << 10


def test_many_digests_are_looked_up_together_and_no_more_is_read_than_there_is(files):
    asked = [*random.Random(3).sample(digests(COUNT, 1), 3000), *digests(3000, 4)]
    rounds, far, near = opened(files)
    rounds.restart()

    look_up(far.backend, [far], asked)

    assert rounds.count <= 3
    assert len(rounds.asked) <= 20
    assert rounds.get_bytes <= 1.1 * far.nbytes
    rounds.restart()
    agree(far, near, asked)
    assert rounds.count == 0


def test_digests_that_share_a_word_or_are_there_twice_are_told_apart(files):
    own = digests(50, 1)
    alike = [Digest(bytes([n]) * 24 + bytes(own[0])[24:]) for n in (7, 8, 9)]
    _, far, near = opened(files)

    agree(far, near, own + alike)

    assert len(list(far.find(own[1], word_of(own[1])))) == 2
    assert [len(list(far.find(one, word_of(one)))) for one in alike] == [1, 1, 0]


def test_the_first_and_the_last_digests_are_found(files):
    own = sorted(digests(COUNT, 1), key=lambda digest: bytes(digest)[::-1])
    edges = [Digest(bytes(32)), Digest(b"\xff" * 32)]
    fences = own[:: far_index.FENCE_ROWS // 4]
    _, far, near = opened(files)

    agree(far, near, [*own[:3], *own[-3:], *edges, *fences])


def test_a_long_list_of_packs_is_not_read(files, monkeypatch):
    monkeypatch.setattr(far_index, "_MOST_PACKS_BYTES", 1000)
    rounds, far, near = opened(files)
    rounds.restart()

    agree(far, near, digests(5, 1)[4:])

    assert rounds.count <= 2
    assert rounds.get_bytes <= 40 << 10


def test_digests_that_are_not_uniform_are_found_all_the_same():
    found: dict[str, bytes] = {}
    source = random.Random(5)
    own = [
        Digest(source.randbytes(24) + int(source.random() ** 8 * 2**64).to_bytes(8, "little")) for _ in range(40_000)
    ]
    rows = [Row(digest, 32 + 1000 * n, 1000) for n, digest in enumerate(own)]
    write_run(RemoteBackend(MemoryRequests(found), "test://bucket"), [SealedPack("0" * 32, 1 << 40, rows)])
    _, far, near = opened(found)

    look_up(far.backend, [far], own[:200])
    agree(far, near, own[:400])


def test_a_run_with_a_damaged_end_is_refused(files):
    [(name, body)] = files.items()
    for at in (len(body) - 1, len(body) - 60, len(body) - 100, 3):
        damaged = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]

        with pytest.raises(MalformedError):
            opened({name: damaged})


def test_a_store_with_a_long_run_is_read_and_written_as_any_other(monkeypatch):
    import io

    import numpy
    from checkpoints import safetensors_bytes

    from thetastore.backends.memory import MemoryBackend
    from thetastore.store import Store

    monkeypatch.setattr(far_index, "LEAST_FAR_RUN_BYTES", 1)
    files: dict[str, bytes] = {}
    contents = [
        safetensors_bytes({f"w{n}": numpy.random.default_rng([seed, n]).random((64, 64)) for n in range(seed, 30)})
        for seed in (0, 0, 10)
    ]
    backend = RemoteBackend(MemoryRequests(files), "test://bucket")
    Store.at(backend, create=True).close()
    for content in contents:
        with Store.at(MemoryBackend(), create=True) as here:
            digest = here.put_file(io.BytesIO(content)).manifest_digest
            here.seal()
            with Store.at(RemoteBackend(MemoryRequests(files), "test://bucket")) as there:
                there.count_only_durable()
                here.send_to(there, [digest])
        for name in [name for name in files if name.startswith("locators/")]:
            del files[name]
        with Store.at(RemoteBackend(MemoryRequests(files), "test://bucket")) as there:
            assert there.missing_objects([digest]) == []
            assert b"".join(map(bytes, there.read_file(there.get_manifest(digest), digest))) == content
