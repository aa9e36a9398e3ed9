"""From a store far away, what is read together comes together."""

from __future__ import annotations

import numpy as np

from thetastore.arrays import new_tensor
from thetastore.backends.remote import RemoteBackend
from thetastore.checkpoints.compose import safetensors_source
from thetastore.models import Model
from thetastore.store import Store
from thetastore.testing.faults import MemoryRequests
from thetastore.zarr_references import write_references


class Counting(MemoryRequests):
    """A place that remembers how often it was asked for bytes, and for how many."""

    asked: list[int]

    def get(self, name, start, stop):
        self.asked.append(stop - start)
        return super().get(name, start, stop)


class Afar:
    """An origin over a place."""

    def __init__(self, requests, digest):
        self._requests, self._digest = requests, digest

    def open(self):
        store = Store.at(RemoteBackend(self._requests, "memory://afar"))
        self.readers = [store.tensors(store.get_manifest(self._digest), self._digest)]
        return self

    def bring(self, names):
        pass


def afar(arrays):
    requests = Counting()
    requests.asked = []
    with Store.at(RemoteBackend(requests, "memory://afar"), create=True) as store:
        digest = store.put_file(safetensors_source([new_tensor(*item) for item in arrays.items()])).manifest_digest
    requests.asked.clear()
    return requests, Model(Afar(requests, digest))


def test_small_tensors_that_lie_together_come_in_few_requests():
    random = np.random.default_rng(1)
    arrays = {f"layers.{n:03}.w": random.standard_normal((64, 64)).astype(np.float32) for n in range(200)}
    requests, model = afar(arrays)
    before = len(requests.asked)

    found = model.select("layers.0[0-4]*").state_dict()

    assert all(np.array_equal(array, arrays[name]) for name, array in found.items())
    assert len(found) == 50
    assert len(requests.asked) - before <= 6
    assert sum(requests.asked[before:]) < 1.2 * 50 * 64 * 64 * 4


def test_a_long_tensor_comes_in_blocks():
    array = np.random.default_rng(2).standard_normal((5000, 1000)).astype(np.float32)
    requests, model = afar({"w": array})
    before = len(requests.asked)

    assert np.array_equal(model["w"].numpy(), array)

    assert len(requests.asked) - before <= 8
    requests.asked.clear()
    assert np.array_equal(model["w"][:10], array[:10])
    assert sum(requests.asked) < 1_200_000


def test_references_are_made_in_few_requests(tmp_path):
    random = np.random.default_rng(3)
    requests, model = afar({f"w{n:03}": random.standard_normal((64, 64)).astype(np.float32) for n in range(300)})
    before = len(requests.asked)

    written = write_references(model, tmp_path / "model.json")

    assert (written.tensor_count, written.copied_bytes) == (300, 0)
    assert len(requests.asked) - before <= 6
