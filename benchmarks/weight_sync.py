"""Weights sent to followers while they change: differences against whole files, at 1 to 3 % changed elements.

    python -m benchmarks.weight_sync                     240 MB of bf16 and of fp32, and MiniLM where it is
    python -m benchmarks.weight_sync --megabytes 1000 --json out.json

What moves is counted, not estimated: bytes and requests that one subscriber reads of a store far away, and what the
publisher writes. Times are of this machine, to and from memory, wall and CPU; `at 1 Gbit/s` adds the time that the
bytes take over such a network. The whole file is what a trainer without us writes and a server reads: safetensors,
uploaded and downloaded as it is, every tensor copied into place.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from thetastore.arrays import new_tensor, read_array
from thetastore.backends.remote import RemoteBackend
from thetastore.checkpoints.compose import safetensors_source
from thetastore.digest import Buffer
from thetastore.publishing.publisher import Publisher
from thetastore.publishing.subscriber import Subscriber
from thetastore.store import Store
from thetastore.tables import size_text, table
from thetastore.testing.faults import MemoryRequests

MINILM = Path(__file__).parents[2] / "shared" / "data" / "minilm.bf16.safetensors"
_NETWORK = 125e6
_VERSIONS = 5
State = dict[str, np.ndarray[Any, Any]]


class Counted(MemoryRequests):
    """A bucket in memory that counts what goes in and out."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.requests = 0
        self.got_bytes = 0
        self.put_bytes = 0

    def get(self, name: str, start: int, stop: int) -> bytes:
        body = super().get(name, start, stop)
        self.requests += 1
        self.got_bytes += len(body)
        return body

    def size(self, name: str) -> int:
        self.requests += 1
        return super().size(name)

    def list(self, prefix: str) -> Iterator[Any]:
        self.requests += 1
        return super().list(prefix)

    def put_new(self, name: str, stored: Buffer) -> None:
        self.requests += 1
        self.put_bytes += memoryview(stored).nbytes
        super().put_new(name, stored)


class Figures(NamedTuple):
    """What one version costs, on average."""

    contender: str
    sent_bytes: float
    received_bytes: float
    requests: float
    """Of the subscriber."""
    publish_s: float
    update_s: float
    cpu_s: float

    @property
    def latency_s(self) -> float:
        """From the trainer's call to the subscriber's tensors, over 1 Gbit/s each way."""
        return self.publish_s + self.update_s + (self.sent_bytes + self.received_bytes) / _NETWORK


def synthetic(dtype: Any, megabytes: int) -> State:
    rng = np.random.default_rng(1)
    width = 2048
    rows = megabytes * 1_000_000 // (8 * width * np.dtype(dtype).itemsize)
    return {f"layers.{n}": (rng.standard_normal((rows, width), np.float32) * 0.02).astype(dtype) for n in range(8)}


def minilm() -> State:
    with Store.at(RemoteBackend(MemoryRequests({}), "test://"), create=True) as store, MINILM.open("rb") as stream:
        digest, manifest = store.put_file(stream)
        reader = store.tensors(manifest, digest)
        return {tensor.name: read_array(reader, tensor.name) for tensor in manifest.tensors}


def train(state: State, share: float, rng: np.random.Generator) -> None:
    """Change a share of the elements: of 16 bits by one step up or down, as small steps do; others by about 1e-4."""
    for value in state.values():
        if value.dtype.kind in "iub" or not value.size:
            continue
        bits = value.reshape(-1).view(f"u{value.itemsize}")
        chosen = np.flatnonzero(rng.random(bits.size, np.float32) < share)
        by = rng.choice((-1, 1), chosen.size) if value.itemsize == 2 else rng.normal(0, 1000, chosen.size)
        bits[chosen] += by.astype(f"i{value.itemsize}").view(bits.dtype)


def timed(act: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - wall, time.process_time() - cpu


def differences(state: State, share: float) -> Figures:
    rng = np.random.default_rng(2)
    files: dict[str, bytes] = {}
    ours, theirs = Counted(files), Counted(files)
    publisher = Publisher(Store.at(RemoteBackend(ours, "test://"), create=True), "policy", anchor_every=10**6)
    subscriber = Subscriber(Store.at(RemoteBackend(theirs, "test://")), "policy")
    with publisher, subscriber:
        for _ in range(2):  # the first is a whole version, and both have warm memory afterwards
            publisher.publish(state)
            subscriber.update()
            train(state, share, rng)
        ours.put_bytes = theirs.got_bytes = theirs.requests = 0
        published, updated = [], []
        for _ in range(_VERSIONS):
            published.append(timed(lambda: publisher.publish(state)))
            updated.append(timed(subscriber.update))
            train(state, share, rng)
        subscriber.update()
    return _figures("differences", ours, theirs, published, updated)


def whole_files(state: State, share: float) -> Figures:
    rng = np.random.default_rng(2)
    files: dict[str, bytes] = {}
    ours, theirs = Counted(files), Counted(files)
    memory = {name: value.copy() for name, value in state.items()}
    published, updated = [], []
    for number in range(_VERSIONS):
        train(state, share, rng)

        def publish(name: str = str(number)) -> None:
            source = safetensors_source([new_tensor(name, value) for name, value in state.items()])
            body = bytearray(source.file_bytes)
            source.readinto(memoryview(body))
            ours.put_new(name, body)

        def update(name: str = str(number)) -> None:
            body = theirs.get(name, 0, 1 << 62)
            start = 8 + int.from_bytes(body[:8], "little")
            for tensor, about in json.loads(body[8:start]).items():
                first, last = about["data_offsets"]
                raw = np.frombuffer(body, "u1", last - first, start + first)
                memory[tensor].reshape(-1).view("u1")[:] = raw

        published.append(timed(publish))
        updated.append(timed(update))
        files.clear()
    return _figures("whole files", ours, theirs, published, updated)


def _figures(
    name: str, ours: Counted, theirs: Counted, published: list[tuple[float, float]], updated: list[tuple[float, float]]
) -> Figures:
    return Figures(
        name,
        ours.put_bytes / _VERSIONS,
        theirs.got_bytes / _VERSIONS,
        theirs.requests / _VERSIONS,
        sorted(wall for wall, _ in published)[_VERSIONS // 2],
        sorted(wall for wall, _ in updated)[_VERSIONS // 2],
        sum(cpu for _, cpu in [*published, *updated]) / _VERSIONS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=240)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    states: dict[str, Callable[[], State]] = {
        "bf16": lambda: synthetic(ml_dtypes.bfloat16, options.megabytes),
        "fp32": lambda: synthetic(np.float32, options.megabytes),
    }
    if MINILM.exists():
        states["MiniLM bf16"] = minilm
    rows = [("model", "size", "changed", "", "sent", "received", "of whole", "requests", "publish", "update", "CPU")]
    rows[0] += ("at 1 Gbit/s",)
    kept = []
    for label, make in states.items():
        state = make()
        whole_bytes = sum(value.nbytes for value in state.values())
        for share in (0.01, 0.02, 0.03):
            for contender in (whole_files, differences):
                found = contender(state, share)
                about = {"model": label, "whole_bytes": whole_bytes, "share": share}
                kept.append(about | found._asdict() | {"latency_s": found.latency_s})
                rows.append(
                    (
                        *(label, size_text(whole_bytes), f"{share:.0%}", found.contender),
                        *(size_text(round(found.sent_bytes)), size_text(round(found.received_bytes))),
                        *(f"{found.received_bytes / whole_bytes:.3f}", f"{found.requests:.0f}"),
                        *(f"{found.publish_s:.3f} s", f"{found.update_s:.3f} s", f"{found.cpu_s:.3f} s"),
                        f"{found.latency_s:.2f} s",
                    )
                )
    print(table(rows, right=range(4, 12)), end="")
    if options.json:
        options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
