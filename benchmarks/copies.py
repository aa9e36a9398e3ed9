"""How much of weights that were moved, joined, split or extended is found again, and how fast.

    python -m benchmarks.copies [FILE.safetensors ...] [--mib 64] [--json]

Each case makes another set of tensors from a model's. Both are cut into chunks as a store cuts them; the first set's
anchors go into a table; then each chunk of the second is looked for. `reuse` is the share found, whole chunks and
copies together, of those bytes that the first set has; every chunk is coded, decoded and compared on the way. Rates are
raw bytes by the CPU seconds of one thread.

Without files: a transformer drawn at random, with sizes that fit no grid.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thetastore.backends.memory import MemoryBackend
from thetastore.chunking import grid_lengths
from thetastore.codecs import copies, encode
from thetastore.digest import Digest, digest_of
from thetastore.representations.anchor_table import AnchorTable
from thetastore.representations.anchors import anchors_of, to_remember
from thetastore.representations.matching import find_copies

Weights = dict[str, np.ndarray[Any, Any]]
"""Tensors by name; bfloat16 as uint16."""

SAFETENSORS_WORDS = {"F32": "<u4", "BF16": "<u2", "F16": "<u2", "F64": "<u8"}
DTYPES = {"<u4": "float32", "<u2": "bfloat16", "<u8": "float64"}
TARGET = 0.98


class Case(NamedTuple):
    """Weights made from others."""

    name: str
    make: Callable[[Weights], Weights]
    kept_bytes: Callable[[Weights, Weights], int]
    """How many bytes of the second weights the first have."""


def transformer(word: str, raw_bytes: int) -> Weights:
    """Draw a transformer of about as many bytes."""
    rng = np.random.default_rng(7)
    width, inner, vocabulary = 712, 1900, 8191

    def draw(*shape: int) -> np.ndarray[Any, Any]:
        bits = (rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02)).view(np.uint32)
        return bits if word == "<u4" else (bits >> 16).astype(np.uint16)

    weights = {"embed": draw(vocabulary, width)}
    layer = 0
    while sum(tensor.nbytes for tensor in weights.values()) < raw_bytes:
        for name in "qkvo":
            weights[f"{layer}.{name}"] = draw(width, width)
            weights[f"{layer}.{name}.bias"] = draw(width)
        weights |= {f"{layer}.gate": draw(inner, width), f"{layer}.up": draw(inner, width)}
        weights |= {f"{layer}.down": draw(width, inner), f"{layer}.norm": draw(width)}
        layer += 1
    return weights


def read_safetensors(path: str) -> Weights:
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start = file.tell()
        weights = {}
        for name, tensor in header.items():
            if tensor.get("dtype") in SAFETENSORS_WORDS and math.prod(tensor["shape"]):
                begin, end = tensor["data_offsets"]
                file.seek(start + begin)
                weights[name] = np.frombuffer(file.read(end - begin), SAFETENSORS_WORDS[tensor["dtype"]]).reshape(
                    tensor["shape"]
                )
    return weights


def noise_like(tensor: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(rows).permuted(tensor[:rows].reshape(-1)).reshape(tensor[:rows].shape)


def largest(weights: Weights) -> str:
    return max(weights, key=lambda name: weights[name].nbytes)


def with_rows(at: float, rows: int) -> Callable[[Weights], Weights]:
    """Insert rows into the largest tensor, where `at` is 0 for its beginning and 1 for its end."""

    def make(weights: Weights) -> Weights:
        name = largest(weights)
        tensor = weights[name]
        row = round(at * len(tensor))
        return weights | {name: np.concatenate([tensor[:row], noise_like(tensor, rows), tensor[row:]])}

    return make


def matrices(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if tensor.ndim == 2}


def joined(*sizes: int) -> Callable[[Weights], Weights]:
    """Join runs of matrices of equal width on their first axis."""

    def make(weights: Weights) -> Weights:
        made: Weights = {}
        waiting: list[np.ndarray[Any, Any]] = []
        size = 0
        for name, tensor in sorted(matrices(weights).items()):
            if waiting and (waiting[0].shape[1:] != tensor.shape[1:] or len(waiting) == sizes[size % len(sizes)]):
                made[f"{name} and before"] = np.concatenate(waiting)
                waiting, size = [], size + 1
            waiting.append(tensor)
        return made | {"rest": np.concatenate(waiting)}

    return make


def split(ways: int) -> Callable[[Weights], Weights]:
    def make(weights: Weights) -> Weights:
        return {
            f"{name} of rank {rank}": part
            for name, tensor in matrices(weights).items()
            for rank, part in enumerate(np.array_split(tensor, ways))
        }

    return make


def flat(ranks: int, unit: int) -> Callable[[Weights], Weights]:
    """Join each `unit` tensors to one dimension and cut that into ranks, as FSDP does."""

    def make(weights: Weights) -> Weights:
        tensors = list(weights.values())
        made: Weights = {}
        for start in range(0, len(tensors), unit):
            whole = np.concatenate([tensor.reshape(-1) for tensor in tensors[start : start + unit]])
            length = -(-whole.size // ranks)
            padded = np.concatenate([whole, np.zeros(length * ranks - whole.size, whole.dtype)])
            made |= {f"{start} of rank {rank}": part for rank, part in enumerate(padded.reshape(ranks, length))}
        return made

    return make


def rows_changed(share: float) -> Callable[[Weights], Weights]:
    def make(weights: Weights) -> Weights:
        rng = np.random.default_rng(5)
        made = {}
        for name, tensor in weights.items():
            made[name] = tensor.copy()
            if tensor.ndim == 2:
                rows = rng.choice(len(tensor), round(share * len(tensor)), replace=False)
                made[name][rows] ^= 1
        return made

    return make


def all_of(_: Weights, made: Weights) -> int:
    return sum(tensor.nbytes for tensor in made.values())


def less_rows(rows: int) -> Callable[[Weights, Weights], int]:
    return lambda weights, made: all_of(weights, made) - rows * weights[largest(weights)][0].nbytes


def less_share(share: float) -> Callable[[Weights, Weights], int]:
    def kept_bytes(weights: Weights, made: Weights) -> int:
        changed = sum(round(share * len(tensor)) * tensor[0].nbytes for tensor in matrices(weights).values())
        return all_of(weights, made) - changed

    return kept_bytes


CASES = [
    Case("rows inserted in the middle", with_rows(0.51, 3), less_rows(3)),
    Case("vocabulary extended at the end", with_rows(1.0, 64), less_rows(64)),
    Case("vocabulary extended at the beginning", with_rows(0.0, 64), less_rows(64)),
    Case("fused qkv and gate_up", joined(3, 2), all_of),
    Case("tensor parallel, 2 ranks", split(2), all_of),
    Case("tensor parallel, 4 ranks", split(4), all_of),
    Case("tensor parallel, 8 ranks", split(8), all_of),
    Case("FSDP, 4 ranks", flat(4, 12), all_of),
    Case("FSDP, 8 ranks, whole model", flat(8, 1 << 20), all_of),
    Case("1 % of rows changed", rows_changed(0.01), less_share(0.01)),
    Case(
        "nothing in common", lambda weights: {"x": np.random.default_rng(9).permuted(weights[largest(weights)])}, all_of
    ),
]


def chunks_of(weights: Weights) -> Iterator[tuple[memoryview, str, int]]:
    for tensor in weights.values():
        dtype = DTYPES[tensor.dtype.str]
        raw = memoryview(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
        for length in grid_lengths(dtype, tensor.shape):
            yield raw[:length], dtype, tensor.itemsize
            raw = raw[length:]


class Times:
    """CPU seconds of this thread by what they were spent on."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = {}
        self._since_s = time.thread_time()

    def spend(self, on: str | None) -> None:
        """Book what passed since the last call; on nothing for None."""
        now_s = time.thread_time()
        if on:
            self.spent_s[on] = self.spent_s.get(on, 0) + now_s - self._since_s
        self._since_s = time.thread_time()


def measure(case: Case, weights: Weights) -> dict[str, Any]:
    known: dict[Digest, memoryview] = {}
    table = AnchorTable(MemoryBackend())
    times = Times()
    base_bytes = 0
    for raw, _, item_bytes in chunks_of(weights):
        digest = digest_of(raw)
        if digest not in known:
            known[digest] = raw
            table.add(digest, to_remember(anchors_of(raw, item_bytes), raw.nbytes))
            base_bytes += raw.nbytes
    table.flush()
    made = case.make(weights)
    deduplicated = reused = new_bytes = stored_bytes = 0
    ranges: list[int] = []
    bases: list[int] = []
    for raw, dtype, item_bytes in chunks_of(made):
        if digest_of(raw) in known:
            deduplicated += raw.nbytes
            continue
        new_bytes += raw.nbytes
        times.spend(None)
        anchors = anchors_of(raw, item_bytes)
        times.spend("anchors")
        hits = table.find(anchors)
        times.spend("find")
        plan = find_copies(raw, item_bytes, hits, known.get)
        times.spend("match")
        if plan is None:
            stored_bytes += len(encode(raw, dtype).stored)
            times.spend("plain")
            continue
        stored = copies.encode(raw, plan.recipe, dtype)
        times.spend("encode")
        stored_bytes += len(stored)
        out = memoryview(bytearray(raw.nbytes))
        times.spend(None)
        copies.decode(memoryview(stored), out, [known[base] for base in plan.bases])
        times.spend("decode")
        assert out == raw, "copies gave other bytes"
        reused += plan.reused_bytes
        ranges.append(len(plan.recipe.ranges))
        bases.append(len(plan.bases))
    looked_s = sum(times.spent_s.get(step, 0) for step in ("anchors", "find", "match"))
    return {
        "case": case.name,
        "raw_bytes": deduplicated + new_bytes,
        "deduplicated_share": round(deduplicated / (deduplicated + new_bytes), 4),
        "reuse": round((deduplicated + reused) / case.kept_bytes(weights, made), 4),
        "stored_share": round(stored_bytes / (deduplicated + new_bytes), 4),
        "chunks_of_copies": len(ranges),
        "mean_ranges": round(sum(ranges) / max(1, len(ranges)), 2),
        "most_ranges": max(ranges, default=0),
        "mean_bases": round(sum(bases) / max(1, len(bases)), 2),
        "look_mb_per_cpu_s": round(new_bytes / looked_s / 1e6) if new_bytes else None,
        "decode_mb_per_cpu_s": round(new_bytes / times.spent_s["decode"] / 1e6) if "decode" in times.spent_s else None,
        "cpu_s": {step: round(spent_s, 4) for step, spent_s in times.spent_s.items()},
        "table_share": round(16 * table.anchor_count / base_bytes, 6),
    }


def table_of(rows: list[dict[str, Any]]) -> str:
    heads = f"{'same':>6} {'reuse':>7} {'stored':>7} {'ranges':>7} {'most':>4} {'bases':>5} {'look':>6} {'decode':>6}"
    lines = [f"{'case':38} {heads}"]
    lines += [
        f"{row['case']:38} {row['deduplicated_share']:6.3f} {row['reuse']:7.4f} {row['stored_share']:7.4f} "
        f"{row['mean_ranges']:7.2f} {row['most_ranges']:4} {row['mean_bases']:5.2f} "
        f"{row['look_mb_per_cpu_s'] or '-':>6} {row['decode_mb_per_cpu_s'] or '-':>6}"
        for row in rows
    ]
    lines.append("same: share of whole chunks; look and decode: raw MB of other chunks by CPU second")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE.safetensors")
    parser.add_argument("--mib", type=int, default=64, help="size of a model that is drawn")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, tables on stderr")
    arguments = parser.parse_args()
    models = {Path(path).name: read_safetensors(path) for path in arguments.files}
    if not models:
        models = {f"drawn, {DTYPES[word]}": transformer(word, arguments.mib << 20) for word in ("<u4", "<u2")}
    report: dict[str, Any] = {"schema": 1, "models": {}}
    for name, weights in models.items():
        rows = [measure(case, weights) for case in CASES]
        report["models"][name] = rows
        print(
            f"\n{name}, anchors take {rows[0]['table_share']:.3%}\n{table_of(rows)}",
            file=sys.stderr if arguments.json else sys.stdout,
        )
    if arguments.json:
        print(json.dumps(report, indent=1))
    missed = [row["case"] for rows in report["models"].values() for row in rows[:-1] if row["reuse"] < TARGET]
    if missed:
        sys.exit(f"below {TARGET:.0%}: {', '.join(missed)}")


if __name__ == "__main__":
    main()
