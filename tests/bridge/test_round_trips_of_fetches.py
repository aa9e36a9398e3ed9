"""What it takes to bring some tensors from a bucket into a clone: round trips, requests and bytes, all counted.

The bucket is a place that holds back what is begun until somebody waits (`thetastore.testing.Rounds`), reached by a
URL of a plug-in, so that everything between the command line and the requests is as it is for users.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import read_safetensors, safetensors_bytes

import gitbridge
from thetastore.backends.remote import RemoteBackend
from thetastore.store import Store
from thetastore.testing import MemoryRequests, Rounds

FIXTURES = Path(__file__).parents[1] / "fixtures"
INDEX = "model.safetensors.index.json"
PLUGIN = """
place = None
def open_backend(url):
    return place.backend(url)
"""


class Bucket:
    """A place that counts, and the requests since it was last asked."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.rounds = Rounds(MemoryRequests(self.files))

    @property
    def pack_bytes(self) -> int:
        return sum(one.nbytes for one in self.rounds.asked if one.name.startswith("packs/"))

    @property
    def metadata_bytes(self) -> int:
        return self.rounds.get_bytes - self.pack_bytes

    def needed_bytes(self, manifest_digests, wanted) -> int:
        """Return the length of the records of the chunks that hold some tensors."""
        with Store.at(RemoteBackend(MemoryRequests(self.files), "test://bucket")) as store:
            found = {}
            for digest in manifest_digests:
                reader = store.tensors(store.get_manifest(digest), digest)
                for name in filter(wanted, (tensor.name for tensor in reader.manifest.tensors)):
                    for placed in reader.chunks(name):
                        place = store.objects.catalog.snapshot().first(placed.chunk.digest)
                        found[placed.chunk.digest] = place.nbytes
        return sum(found.values())


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    info = folder / "rounds_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "rounds_plugin.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rounds-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[thetastore.backends]\nrounds = rounds_plugin:open_backend\n")
    monkeypatch.syspath_prepend(str(folder))
    import rounds_plugin

    bucket = Bucket()
    rounds_plugin.place = bucket.rounds
    yield bucket
    sys.modules.pop("rounds_plugin", None)


def shards_of(count: int, rows: int = 64, per_shard: int = 6) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(count)
    return [
        {
            f"layers.{shard:02}.{part}": random.standard_normal((rows, 256)).astype("f4")
            for part in [f"w{n}" for n in range(per_shard)]
        }
        for shard in range(count)
    ]


def name_of(number: int, count: int) -> str:
    return f"model-{number + 1:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"


@pytest.fixture
def pushed(work, make_work, tmp_path, bucket):
    """Return what commits and pushes the files of a work tree, and clones it without their weights."""

    def push():
        bare = make_work("bare.git", "--bare")
        work.git("remote", "add", "origin", str(bare.path))
        work.git("config", "theta.url", "rounds://bucket")
        work.commit("a model")
        work.git("push", "-q", "origin", "main")
        sent = work.theta("push", "origin", "main")
        assert sent.status == 0, sent.err
        clone = make_work("clone", clone=bare.path)
        clone.git("config", "theta.url", "rounds://bucket")
        bucket.rounds.restart()
        return clone

    return push


@pytest.fixture
def model(work, pushed):
    """Return what makes a model of so many files; gives a clone, the arrays, and the manifests."""

    def make(count: int, **size: int):
        shards = shards_of(count, **size)
        digests = [work.put(name_of(n, count), safetensors_bytes(shard)) for n, shard in enumerate(shards)]
        if count > 1:
            weight_map = {name: name_of(n, count) for n, shard in enumerate(shards) for name in shard}
            (work.path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
            work.git("add", INDEX)
        return pushed(), {name: array for shard in shards for name, array in shard.items()}, digests

    return make


def check_frugal(bucket: Bucket, digests, wanted) -> None:
    needed = bucket.needed_bytes(digests, wanted)
    assert needed > 0
    assert needed <= bucket.pack_bytes <= 1.05 * needed + (64 << 10)


COUNTS = pytest.mark.parametrize("count", [1, 8, 30])


@COUNTS
def test_a_fetch_of_some_tensors_takes_two_round_trips_however_many_files_a_model_has(bucket, model, count):
    clone, _, digests = model(count)

    done = clone.theta("fetch", "--tensors", "*.w1")

    assert done.status == 0, done.err
    assert bucket.rounds.count == 2, bucket.rounds.asked
    check_frugal(bucket, digests, lambda name: name.endswith(".w1"))
    # Descriptor, index and a locator for each file; then a preamble and a range of one pack, or some more.
    assert len(bucket.rounds.asked) <= 2 + count + 2 + count
    assert clone.theta("fetch", "--tensors", "*.w1").status == 0
    assert bucket.rounds.count == 2, "what is here was asked for again"


@COUNTS
def test_a_clone_that_keeps_some_tensors_fetches_these_in_two_round_trips(bucket, model, count):
    clone, _, digests = model(count)
    clone.git("config", "theta.fetchTensors", "layers.00.w2,layers.*.w3")

    done = clone.theta("fetch")

    assert done.status == 0, done.err
    assert bucket.rounds.count == 2, bucket.rounds.asked
    check_frugal(bucket, digests, lambda name: name.endswith(".w3") or name == "layers.00.w2")


def test_a_fetch_of_some_files_takes_three_round_trips_and_nothing_of_others(bucket, model):
    clone, _, digests = model(8)

    done = clone.theta("fetch", "-I", "model-0000[23]-*", "-X", "*-00003-*")

    assert done.status == 0, done.err
    assert bucket.rounds.count == 3, bucket.rounds.asked
    assert {one.name for one in bucket.rounds.asked if one.round == 3} == {"anchors"}  # where copies may be found
    check_frugal(bucket, digests[1:2], lambda name: True)


@COUNTS
def test_a_part_of_a_model_is_checked_out_in_two_round_trips(bucket, model, count, tmp_path):
    clone, arrays, digests = model(count)
    part = tmp_path / "part.safetensors"

    done = clone.theta("checkout", "--tensors", "*.w4", "--to", str(part), INDEX if count > 1 else name_of(0, 1))

    assert done.status == 0, done.err
    assert bucket.rounds.count == 2, bucket.rounds.asked
    check_frugal(bucket, digests, lambda name: name.endswith(".w4"))
    found = read_safetensors(part.read_bytes())
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in arrays.items() if name.endswith(".w4")
    }


@COUNTS
def test_python_opens_a_model_in_one_round_trip_and_reads_some_tensors_in_two_more(bucket, model, count):
    clone, arrays, digests = model(count)
    clone.repository().open_store().close()  # or it is first looked whether anybody has the weights, in one more

    opened = gitbridge.open(clone.path)
    assert sorted(opened) == sorted(arrays)
    assert bucket.rounds.count == 1, bucket.rounds.asked
    read = opened.select("*.w5").state_dict()

    assert bucket.rounds.count == 3, bucket.rounds.asked
    assert all(np.array_equal(array, arrays[name]) for name, array in read.items())
    check_frugal(bucket, digests, lambda name: name.endswith(".w5"))


def test_what_tells_where_tensors_are_is_a_small_part_of_a_model_of_many_files(bucket, model):
    clone, arrays, digests = model(30, rows=4096, per_shard=1)

    done = clone.theta("fetch", "--tensors", "layers.29.w0")

    assert done.status == 0, done.err
    assert bucket.rounds.count == 2, bucket.rounds.asked
    check_frugal(bucket, digests, lambda name: name == "layers.29.w0")
    assert bucket.metadata_bytes <= 0.0002 * sum(array.nbytes for array in arrays.values())


def test_of_joined_files_the_one_that_names_tensors_comes_first_and_then_all_others_together(
    bucket, work, pushed, tmp_path
):
    for path in (FIXTURES / "tensorflow").glob("sharded.*"):
        work.put(path.name, path.read_bytes())
    clone = pushed()
    clone.repository().open_store().close()
    name = next(iter(gitbridge.open(work.path, path="sharded.index")))
    part = tmp_path / "part.safetensors"

    done = clone.theta("checkout", "--tensors", name, "--to", str(part), "sharded.index")

    assert done.status == 0, done.err
    assert list(read_safetensors(part.read_bytes())) == [name]
    assert bucket.rounds.count == 2 + 1 + 2, bucket.rounds.asked  # the table; manifests of the others; chunks
    assert len(bucket.rounds.asked) <= 20, bucket.rounds.asked


def test_a_push_after_one_that_was_broken_off_writes_what_that_one_did_not(bucket, model, work):
    clone, _, digests = model(3)
    # As where the packs and their index had come when the connection was lost.
    for name in [name for name in bucket.files if name.partition("/")[0] in ("locators", "families", "pins")]:
        del bucket.files[name]

    again = work.theta("push", "origin", "main")

    assert again.status == 0, again.err
    assert again.out.endswith("has everything already\n")
    assert {name for name in bucket.files if name.startswith("locators/")} == {f"locators/{one}" for one in digests}
    assert any(name.startswith("families/") for name in bucket.files)
    bucket.rounds.restart()
    assert clone.theta("fetch", "--tensors", "*.w1").status == 0
    assert bucket.rounds.count == 2, bucket.rounds.asked
