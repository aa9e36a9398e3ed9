"""Reading from Python against what it could cost at best: decoding alone, safetensors, a copy in memory.

    python -m benchmarks.reading                    needs numpy alone; with torch and safetensors it compares with those
    python -m benchmarks.reading --json out.json

Wall times are the least of several runs in turns; CPU times (user and system) stand beside them, since a shared machine
disturbs these less. Targets are printed and do not fail the run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import gitbridge
import thetastore
from thetastore.arrays import new_tensor
from thetastore.backends.remote import RemoteBackend
from thetastore.checkpoints.compose import safetensors_source
from thetastore.digest import Digest, Kind
from thetastore.store import Store
from thetastore.testing.faults import MemoryRequests


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


def least(runs: int, *actions: Callable[[], object]) -> list[Cost]:
    """The least cost of each action, which take turns; the first round warms up and does not count."""
    found: list[list[Cost]] = [[] for _ in actions]
    for turn in range(runs + 1):
        for costs, action in zip(found, actions, strict=True):
            used, started = _cpu_s(), time.perf_counter()
            result = action()
            cost = Cost(time.perf_counter() - started, _cpu_s() - used)
            del result
            if turn:
                costs.append(cost)
    return [Cost(min(cost.wall_s for cost in costs), min(cost.cpu_s for cost in costs)) for costs in found]


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def put(directory: str, arrays: dict[str, Any]) -> tuple[str, str]:
    with Store.open(directory, create=True) as store:
        source = safetensors_source([new_tensor(*item) for item in arrays.items()], {"format": "pt"})
        return directory, str(store.put_file(source).manifest_digest)


def bf16(random: np.random.Generator, *shape: int) -> Any:
    """Weights as of a trained model: normal, rounded to bfloat16 (as its bits)."""
    values = (random.standard_normal(shape) * 0.02).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def opening(directory: str, say: Callable[..., None]) -> None:
    random = np.random.default_rng(1)
    place = put(f"{directory}/many", {f"model.layers.{n}.weight": bf16(random, 16, 64) for n in range(1000)})

    def run() -> int:
        return sum(tensor.size for tensor in thetastore.open(*place).values())

    [cost] = least(7, run)
    say("open and list 1,000 tensors", f"{1000 * cost.wall_s:.1f} ms", "<= 20 ms", cost.wall_s <= 0.02)


def one_tensor(directory: str, megabytes: int, say: Callable[..., None]) -> None:
    array = bf16(np.random.default_rng(2), megabytes << 9, 1024)
    url, digest = put(f"{directory}/one", {"w": array})
    with Store.open(url) as store:
        name = Digest.parse(digest)
        reader = store.tensors(store.get_manifest(name), name)
        chunks = reader.chunks("w")
        out = memoryview(bytearray(array.nbytes))

        def decode() -> None:
            def get(placed: Any) -> None:
                store.objects.get(Kind.CHUNK, placed.chunk.digest, memoryview(bytearray(placed.chunk.raw_bytes)))

            for _ in store.pool.map_bounded(get, chunks, lambda _: False):
                pass

        whole, alone = least(5, lambda: reader.read("w", out), decode)
    ratio = alone.cpu_s / whole.cpu_s
    speed = array.nbytes / whole.wall_s / 1e9
    say(f"one tensor of {megabytes} MB, {speed:.2f} GB/s, of decoding", f"{ratio:.2f} (CPU)", ">= 0.7", ratio >= 0.7)
    say("    the same by wall time", f"{alone.wall_s / whole.wall_s:.2f}", ">= 0.7", alone.wall_s / whole.wall_s >= 0.7)


def whole_model(directory: str, megabytes: int, say: Callable[..., None]) -> None:
    try:
        import torch
        from safetensors.torch import load_file
    except ImportError:
        say("whole bf16 model into torch", "left out: no torch or safetensors", "", True)
        return
    random = np.random.default_rng(3)
    count = max(megabytes // 8, 1)
    tensors = {
        f"layers.{n}.w": torch.from_numpy(bf16(random, 2048, 2048).view(np.int16)).view(torch.bfloat16)
        for n in range(count)
    }
    url, digest = put(f"{directory}/whole", tensors)
    plain = Path(directory) / "whole.safetensors"
    with Store.open(url) as store, plain.open("w+b") as stream:
        name = Digest.parse(digest)
        store.write_file(store.get_manifest(name), name, stream.fileno())
    stored_bytes = sum(path.stat().st_size for path in Path(url).rglob("*.pack"))
    model = thetastore.open(url, digest)

    def peer() -> dict[str, Any]:
        return {name: tensor.clone() for name, tensor in load_file(plain).items()}

    ours, theirs = least(5, lambda: model.state_dict("torch"), peer)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict("torch").items())
    ratio = ours.wall_s / theirs.wall_s
    say(
        f"whole bf16 model of {8 * count} MB into torch: {ours.wall_s:.3f} s against {theirs.wall_s:.3f} s",
        f"{ratio:.2f} x (CPU {ours.cpu_s:.2f} against {theirs.cpu_s:.2f} s)",
        "<= 1.5 x",
        ratio <= 1.5,
    )
    part = stored_bytes / plain.stat().st_size
    say("    bytes read of a cold disk", f"{part:.3f}", "<= 0.67", part <= 0.67)


def saving(directory: str, megabytes: int, say: Callable[..., None]) -> None:
    root = f"{directory}/repository"
    subprocess.run(["git", "init", "-q", root], check=True)
    for name, value in (("user.name", "Bench"), ("user.email", "bench@example.com")):
        subprocess.run(["git", "-C", root, "config", name, value], check=True)
    random = np.random.default_rng(4)
    state = {f"layers.{n}.w": random.standard_normal((1024, 1024)).astype(np.float32) for n in range(megabytes // 4)}
    copies = {name: np.empty_like(array) for name, array in state.items()}
    with gitbridge.Saver("model.safetensors", "checkpoints", root) as saver:

        def save() -> None:
            saver.save(state, "step")

        def copy() -> None:
            for name, array in state.items():
                np.copyto(copies[name], array)

        blocked, copied = [], []
        save()  # the first one has to find memory
        for _ in range(8):
            blocked.append(_timed(save, saver))
            copied.append(_timed(copy, saver))
    ratio = min(blocked) / min(copied)
    say(f"a save of {megabytes} MB blocks its caller, of a copy in memory", f"{ratio:.2f} x", "<= 1.2 x", ratio <= 1.2)


def _timed(action: Callable[[], None], saver: Any) -> float:
    saver.wait()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def part_of(directory: str, say: Callable[..., None]) -> None:
    random = np.random.default_rng(5)
    arrays = {f"layers.{n}.w": random.standard_normal((512, 512)).astype(np.float32) for n in range(100)}
    url, digest = put(f"{directory}/part", arrays)
    with Store.open(url) as source, Store.open(f"{directory}/copy", create=True) as target:
        name = Digest.parse(digest)
        copied = source.send_to(target, [name], wants=lambda tensor: tensor in ("layers.3.w", "layers.4.w"))
    share = copied.stored_bytes / sum(path.stat().st_size for path in Path(url).rglob("*.pack"))
    say("bytes fetched for 2 % of a model", f"{100 * share:.2f} %", "<= 2.2 %", share <= 0.022)


LATENCY_S = 0.05
LINE_BYTES_S = 100e6


class Distant(ThreadingHTTPServer):
    """A web server 50 ms away, on a line of 100 MB/s that all share; it publishes files and pages that list them."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.files = files
        self.line = threading.Lock()
        self.sent_bytes = self.request_count = 0
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def page(self, directory: str) -> bytes:
        """Return the page of a directory."""
        below = f"{directory}/" if directory else ""
        names = {name[len(below) :].split("/")[0] for name in self.files if name.startswith(below)}
        return "".join(f'<a href="{name}">{name}</a>' for name in sorted(names)).encode()


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Distant

    def do_GET(self) -> None:
        time.sleep(LATENCY_S)
        name = self.path.strip("/")
        body = self.server.page(name) if self.path.endswith("/") else self.server.files.get(name)
        if body is None:
            self._answer(404, b"")
            return
        asked = self.headers.get("Range")
        if not asked:
            self._answer(200, body)
            return
        start, stop = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        self._answer(206 if start < len(body) else 416, body[start : stop + 1])

    def do_HEAD(self) -> None:
        time.sleep(LATENCY_S)
        body = self.server.files.get(self.path.strip("/"))
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()

    def _answer(self, status: int, body: bytes) -> None:
        with self.server.line:
            self.server.sent_bytes += len(body)
            self.server.request_count += 1
            time.sleep(len(body) / LINE_BYTES_S)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def from_afar(say: Callable[..., None]) -> None:
    """A cold start counts, but for imports and the first connection; everything else is thrown away each time."""
    random = np.random.default_rng(6)
    arrays = {f"layers.{n:03}.w": random.standard_normal((512, 512)).astype(np.float32) for n in range(100)}
    source = safetensors_source([new_tensor(*item) for item in arrays.items()])
    files: dict[str, bytes] = {}
    with Store.at(RemoteBackend(MemoryRequests(files), "memory://bucket"), create=True) as store:
        digest = store.put_file(source).manifest_digest
    with Store.at(RemoteBackend(MemoryRequests(files), "memory://bucket")) as store:
        files["model.safetensors"] = b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))
    server = Distant(files)
    wanted = ["layers.003.w", "layers.057.w"]

    def part() -> None:
        found = thetastore.open(server.url, str(digest)).select(wanted).state_dict()
        assert all(np.array_equal(found[name], arrays[name]) for name in wanted)

    def whole() -> None:
        """Do what huggingface_hub does, and read two tensors of the file."""
        with urllib.request.urlopen(urllib.request.Request(f"{server.url}/model.safetensors", method="HEAD")):
            pass
        with urllib.request.urlopen(f"{server.url}/model.safetensors") as answer:
            assert len(answer.read()) == len(files["model.safetensors"])

    part()
    server.sent_bytes = server.request_count = 0
    part()
    sent_bytes, request_count = server.sent_bytes, server.request_count
    ours, theirs = least(5, part, whole)
    server.shutdown()
    server.server_close()
    limit_s = 3 * LATENCY_S + sent_bytes / LINE_BYTES_S
    say(
        f"2 % of a model from a server 50 ms away, cold ({request_count} requests, {sent_bytes / 1e6:.2f} MB)",
        f"{ours.wall_s:.3f} s",
        f"<= {limit_s:.3f} s",
        ours.wall_s <= limit_s,
    )
    say(f"    the whole file of {len(files['model.safetensors']) / 1e6:.0f} MB", f"{theirs.wall_s:.3f} s", "", True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--size-mb", type=int, default=128)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def say(what: str, found: str, target: str, is_met: bool) -> None:
        rows.append({"benchmark": what, "found": found, "target": target, "met": is_met})
        print(f"{what:72}  {found:28}  {target}{'' if is_met else '  MISSED'}", flush=True)

    with tempfile.TemporaryDirectory() as directory:
        opening(directory, say)
        one_tensor(directory, options.size_mb, say)
        whole_model(directory, options.size_mb, say)
        saving(directory, options.size_mb, say)
        part_of(directory, say)
    from_afar(say)
    if options.json:
        report = {"schema": 1, "processors": len(os.sched_getaffinity(0)), "results": rows}
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
