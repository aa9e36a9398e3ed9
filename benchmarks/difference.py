"""The difference codec on versions of a model: ratio, and raw MB per CPU second of one thread, against its peers.

    python -m benchmarks.difference [--base BASE.safetensors] [--version VERSION.safetensors ...] [--rounds 7] [--json]

Without --base, weights are drawn as trained ones are distributed (bfloat16). Beside the versions that are given, the
base is changed in four ways, as training does it, by recipes of a few lines:

    fine-tune    every matrix moves by normal noise of 1e-4, half of the rows of an embedding stay as they are
    small steps  the same at 1e-5: most of it is rounded away
    LoRA         B A (rank 8) is added in float32 to matrices that are no embeddings, elements of 1e-5, then rounded
    sparse       1 % of the elements are scaled by about 10 %

Chunks are cut as thetastore cuts them. Peers, re-implemented here: XOR with the base + zstd -3 (what ZipLLM's BitX
does, as its paper describes it); XOR + our planes; our planes without a base (what each chunk takes by itself). All
contenders take turns within a round; figures are medians of rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import zstandard

from benchmarks.codecs import SAFETENSORS_DTYPES, weights
from thetastore.chunking import grid_lengths
from thetastore.codecs import Coded, decode, encode, encode_difference

RECIPES = ("fine-tune", "small steps", "LoRA", "sparse")
Tensor = tuple[str, tuple[int, ...], bytes]
"""dtype, shape, raw bytes."""


class Pair(NamedTuple):
    """A chunk, and the one at its place in the base."""

    dtype: str
    base: bytes
    raw: bytes


class Contender(NamedTuple):
    name: str
    encode: Callable[[Pair], Any]
    decode: Callable[[Any, Pair, memoryview], None]
    stored_bytes: Callable[[Any], int]


def tensors_of_file(path: str) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        raw = file.read()
    (header_bytes,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + header_bytes])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
        tensors[name] = (SAFETENSORS_DTYPES.get(entry["dtype"], "uint8"), tuple(entry["shape"]), raw[begin:end])
    return tensors


def drawn_tensors() -> dict[str, Tensor]:
    shapes = {"embedding": (8192, 384), **{f"layer.{number}": (1536, 384) for number in range(8)}}
    return {
        name: ("bfloat16", shape, weights("bfloat16", 2 * shape[0] * shape[1], seed))
        for seed, (name, shape) in enumerate(shapes.items())
    }


def floats_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    dtype, _, raw = tensor
    if dtype == "bfloat16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view(np.float32)
    return np.frombuffer(raw, dtype).astype(np.float32)


def rounded(values: np.ndarray[Any, Any], dtype: str) -> bytes:
    """Round to the nearest, ties to even, as training frameworks do."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    return values.astype(dtype).tobytes()


def changed(tensor: Tensor, name: str, recipe: str, rng: np.random.Generator) -> bytes:
    dtype, shape, raw = tensor
    if dtype not in ("bfloat16", "float16", "float32", "float64") or len(shape) < 2:
        return raw
    values = floats_of(tensor)
    rows, columns = shape[0], values.size // shape[0]
    is_embedding = "embed" in name
    if recipe == "sparse":
        values = np.where(rng.random(values.size) < 0.01, values * (1 + 0.1 * rng.standard_normal(values.size)), values)
    elif recipe == "LoRA" and not is_embedding:
        left, right = rng.standard_normal((rows, 8)), rng.standard_normal((8, columns))
        values = values + (1e-5 / np.sqrt(8) * (left @ right)).reshape(-1).astype(np.float32)
    elif recipe in ("fine-tune", "small steps"):
        step = rng.standard_normal((rows, columns)) * {"fine-tune": 1e-4, "small steps": 1e-5}[recipe]
        if is_embedding:
            step *= rng.random((rows, 1)) < 0.5
        values = values + step.reshape(-1).astype(np.float32)
    return rounded(values, dtype)


def pairs_of(base: dict[str, Tensor], version: Callable[[str, Tensor], bytes]) -> list[Pair]:
    pairs = []
    for name, (dtype, shape, base_raw) in base.items():
        raw = version(name, (dtype, shape, base_raw))
        position = 0
        for length in grid_lengths(dtype, shape):
            pair = Pair(dtype, base_raw[position : position + length], raw[position : position + length])
            if pair.raw != pair.base:  # else it has the same digest, and nothing is stored
                pairs.append(pair)
            position += length
    return pairs


def raw_bytes_of(base: dict[str, Tensor]) -> int:
    return sum(len(raw) for _, _, raw in base.values())


_scratch = np.empty(4 << 20, np.uint8)


def xored(first: bytes | memoryview, second: bytes) -> np.ndarray[Any, Any]:
    out = _scratch[: len(second)]
    np.bitwise_xor(np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8), out=out)
    return out


def contenders() -> list[Contender]:
    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def smaller(pair: Pair) -> Coded:
        delta = encode_difference(pair.raw, pair.base, pair.dtype)
        return encode(pair.raw, pair.dtype) if delta is None else delta

    def decode_ours(coded: Coded, pair: Pair, out: memoryview) -> None:
        decode(*coded, out, [pair.base] if coded.codec == "difference" else [])

    def decode_xor_zstd(frame: bytes, pair: Pair, out: memoryview) -> None:
        decompressor.stream_reader(frame).readinto(out)
        np.bitwise_xor(np.frombuffer(out, np.uint8), np.frombuffer(pair.base, np.uint8), out=np.asarray(out))

    def decode_xor_planes(coded: Coded, pair: Pair, out: memoryview) -> None:
        decode(*coded, out)
        np.bitwise_xor(np.frombuffer(out, np.uint8), np.frombuffer(pair.base, np.uint8), out=np.asarray(out))

    def coded_bytes(coded: Coded) -> int:
        return len(coded.stored)

    return [
        Contender("thetastore difference", smaller, decode_ours, coded_bytes),
        Contender("XOR + zstd -3", lambda pair: compressor.compress(xored(pair.raw, pair.base)), decode_xor_zstd, len),
        Contender(
            "XOR + planes",
            lambda pair: copied(encode(xored(pair.raw, pair.base), pair.dtype)),
            decode_xor_planes,
            coded_bytes,
        ),
        Contender(
            "planes, no base",
            lambda pair: encode(pair.raw, pair.dtype),
            lambda coded, _, out: decode(*coded, out),
            coded_bytes,
        ),
    ]


def copied(coded: Coded) -> Coded:
    """A literal is a view of the memory that the next XOR overwrites."""
    return coded._replace(stored=bytes(coded.stored)) if coded.codec == "literal" else coded


def measure(name: str, pairs: list[Pair], all_raw_bytes: int, rounds: int) -> list[dict[str, Any]]:
    """Time every contender once a round, so that a noisy neighbour disturbs all of them.

    Raises:
        AssertionError: a contender did not give the chunk back.
    """
    entries = contenders()
    raw_bytes = sum(len(pair.raw) for pair in pairs)
    coded = {entry.name: [entry.encode(pair) for pair in pairs] for entry in entries}
    out = memoryview(bytearray(max(len(pair.raw) for pair in pairs)))
    for entry in entries:
        for stored, pair in zip(coded[entry.name], pairs, strict=True):
            entry.decode(stored, pair, out[: len(pair.raw)])
            assert out[: len(pair.raw)] == pair.raw, entry.name
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for entry in entries:
            started_s = time.thread_time()
            for pair in pairs:
                entry.encode(pair)
            encoded_s = time.thread_time()
            for stored, pair in zip(coded[entry.name], pairs, strict=True):
                entry.decode(stored, pair, out[: len(pair.raw)])
            decoded_s = time.thread_time()
            rates.setdefault((entry.name, "encode"), []).append(raw_bytes / (encoded_s - started_s) / 1e6)
            rates.setdefault((entry.name, "decode"), []).append(raw_bytes / (decoded_s - encoded_s) / 1e6)
    return [
        {
            "version": name,
            "codec": entry.name,
            "raw_bytes": all_raw_bytes,
            "changed_chunks_bytes": raw_bytes,
            "ratio": round(sum(map(entry.stored_bytes, coded[entry.name])) / all_raw_bytes, 4),
            "encode_mb_per_cpu_s": round(statistics.median(rates[entry.name, "encode"])),
            "decode_mb_per_cpu_s": round(statistics.median(rates[entry.name, "decode"])),
        }
        for entry in entries
    ]


def refusal_us(pairs: list[Pair]) -> float:
    """Return the microseconds that a wrong base costs: chunks are compared with their neighbours' bases."""
    wrong = [
        (pair.raw, other.base, pair.dtype)
        for pair, other in itertools.pairwise(pairs)
        if len(pair.raw) == len(other.base) and len(pair.raw) >= 1 << 18
    ]
    taken_s = []
    for raw, base, dtype in wrong:
        started_s = time.perf_counter()
        coded = encode_difference(raw, base, dtype)
        taken_s.append(time.perf_counter() - started_s)
        assert coded is None, "an unrelated base was taken"
    return round(statistics.median(taken_s) * 1e6, 1) if taken_s else 0.0


def table(report: dict[str, Any]) -> str:
    lines = [f"{'version':44} {'codec':22} {'ratio':>7} {'encode':>8} {'decode':>8}"]
    lines += [
        f"{row['version'][-44:]:44} {row['codec']:22} {row['ratio']:7.4f} {row['encode_mb_per_cpu_s']:8} "
        f"{row['decode_mb_per_cpu_s']:8}"
        for row in report["rows"]
    ]
    lines.append("ratio: of all raw bytes, equal chunks included (they are stored once); raw MB of changed chunks per")
    lines.append(
        f"CPU second of one thread; an unrelated base is refused in {report['refusal_us']} us a chunk (median)"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", metavar="FILE.safetensors")
    parser.add_argument("--version", metavar="FILE.safetensors", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, the table on stderr")
    arguments = parser.parse_args()
    if arguments.version and not arguments.base:
        parser.error("--version needs --base")
    base = tensors_of_file(arguments.base) if arguments.base else drawn_tensors()
    versions: dict[str, Callable[[str, Tensor], bytes]] = {}
    for path in arguments.version:
        tensors = tensors_of_file(path)
        if {name: entry[:2] for name, entry in tensors.items()} != {name: entry[:2] for name, entry in base.items()}:
            parser.error(f"'{path}' has other tensors than the base")
        versions[path] = lambda name, _, tensors=tensors: tensors[name][2]  # type: ignore[misc]
    for recipe in RECIPES:
        rng = np.random.default_rng(11)
        versions[recipe] = lambda name, tensor, recipe=recipe, rng=rng: changed(tensor, name, recipe, rng)  # type: ignore[misc]
    report: dict[str, Any] = {"schema": 1, "base": arguments.base or "drawn", "rows": []}
    for version, bytes_of in versions.items():
        pairs = pairs_of(base, bytes_of)
        report["rows"] += measure(version, pairs, raw_bytes_of(base), arguments.rounds)
    report["refusal_us"] = refusal_us(pairs)
    if arguments.json:
        print(json.dumps(report, indent=1))
    print(table(report), file=sys.stderr if arguments.json else sys.stdout)


if __name__ == "__main__":
    main()
