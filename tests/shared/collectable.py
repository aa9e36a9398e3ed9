"""Stores whose clocks a test sets, and models to put into them."""

from __future__ import annotations

import io

import numpy
from checkpoints import safetensors_bytes

from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store

DAY_S = 24 * 3600.0


class Clock:
    """The clock of a place."""

    def __init__(self) -> None:
        self.now_s = 1.8e9

    def __call__(self) -> float:
        return self.now_s

    def wait(self, days: float) -> None:
        self.now_s += days * DAY_S


class Place:
    """A store with a clock that a test sets."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.backend = MemoryBackend(self.clock)
        Store.at(self.backend, create=True).close()

    def open(self) -> Store:
        return Store.at(self.backend)

    def put(self, seed: int, name: str | None = None, kbytes: int = 256) -> Digest:
        """Store a model, and give it a name."""
        with self.open() as store:
            digest = store.put_file(io.BytesIO(model(seed, kbytes))).manifest_digest
            store.seal()
            if name is not None:
                self.name(name, digest)
            return digest

    def name(self, name: str, *digests: Digest) -> None:
        files = tuple(RefFile(f"{number}.safetensors", 0, digest) for number, digest in enumerate(digests))
        Refs(self.backend).append(f"models/{name}", lambda _: Draft(files))

    def delete(self, name: str) -> None:
        Refs(self.backend).append(f"models/{name}", lambda _: Draft((), is_tombstone=True))

    def read(self, digest: Digest) -> bytes:
        with self.open() as store:
            return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))

    def names(self, directory: str) -> list[str]:
        return sorted(self.backend.list(directory))


def model(seed: int, kbytes: int = 256, change: float = 0.0) -> bytes:
    """Return a checkpoint of its own, or one a little away from it."""
    random = numpy.random.default_rng(seed)
    weights = random.standard_normal(kbytes << 8).astype(numpy.float32)
    if change:
        weights += (numpy.random.default_rng(seed + 1).standard_normal(len(weights)) * change).astype(numpy.float32)
    return safetensors_bytes({"w": weights.reshape(-1, 64)})
