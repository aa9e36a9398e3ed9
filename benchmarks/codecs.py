"""Codecs on weights: ratio, and raw MB per CPU second of one thread, against zstd and Blosc.

    python benchmarks/codecs.py [--rounds 9] [--mib 24] [--json] [FILE.safetensors ...]

Without a file, weights are drawn as trained ones are distributed: normal, each tensor with a scale of its own, each row
a little off it. All contenders take turns within a round, on the same chunks of 1 MiB; figures are medians of rounds.
"scaling" is how much more two threads do than one, by the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numcodecs
import numpy as np
import zstandard

from thetastore.codecs import decode, encode

CHUNK_BYTES = 1 << 20
SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "I32": "int32",
    "I64": "int64",
}
TARGETS = {"bfloat16": (0.67, 1243, 2400), "float32": (0.83, 1572, 2108), "float16": (0.85, 1888, 2547)}
"""Design, section 5: ratio at most, MB/s at least; on another machine, so the ratios bind and the rates guide."""


class Contender(NamedTuple):
    name: str
    encode: Callable[[bytes], Any]
    decode: Callable[[Any, memoryview], None]
    stored_bytes: Callable[[Any], int]


def weights(dtype: str, nbytes: int, seed: int = 1) -> bytes:
    """Return weights with the distribution of trained ones."""
    rng = np.random.default_rng(seed)
    tensors = []
    missing = nbytes // width_of(dtype)
    while missing > 0:
        rows, columns = int(rng.integers(256, 2048)), int(rng.choice([384, 768, 1024]))
        scale = 10 ** rng.uniform(-2.2, -1.1) * rng.lognormal(0, 0.2, (rows, 1))
        tensors.append((rng.standard_normal((rows, columns)) * scale).astype(np.float64).reshape(-1)[:missing])
        missing -= tensors[-1].size
    return cast(np.concatenate(tensors), dtype)


def width_of(dtype: str) -> int:
    return {"float64": 8, "float32": 4, "int8": 1}.get(dtype, 2 if "16" in dtype else 1)


def cast(values: np.ndarray[Any, Any], dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    if dtype == "float8_e5m2":
        return values.astype(np.float16).view(np.uint8)[1::2].tobytes()
    if dtype == "int8":
        return np.clip(values * (40 / values.std()), -127, 127).astype(np.int8).tobytes()
    return values.astype(dtype).tobytes()


def chunks_of_file(path: str) -> dict[str, list[bytes]]:
    """Return the chunks of a safetensors file's tensors, by element type."""
    chunks: dict[str, list[bytes]] = {}
    with open(path, "rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        for tensor in sorted(header.values(), key=lambda entry: entry["data_offsets"]):
            begin, end = tensor["data_offsets"]
            dtype = SAFETENSORS_DTYPES.get(tensor["dtype"], "uint8")
            file.seek(8 + header_bytes + begin)
            chunks.setdefault(dtype, []).extend(cut(file.read(end - begin)))
    return chunks


def cut(raw: bytes) -> list[bytes]:
    return [raw[start : start + CHUNK_BYTES] for start in range(0, len(raw), CHUNK_BYTES)]


def contenders(dtype: str) -> list[Contender]:
    def ours_decode(coded: Any, out: memoryview) -> None:
        decode(coded.codec, coded.params, coded.stored, out)

    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()

    def zstd_decode(frame: bytes, out: memoryview) -> None:
        decompressor.stream_reader(frame).readinto(out)

    numcodecs.blosc.use_threads = False
    blosc = numcodecs.Blosc("lz4", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    element = np.dtype(f"u{width_of(dtype)}")

    def blosc_encode(raw: bytes) -> bytes:
        usable = len(raw) // element.itemsize * element.itemsize
        return bytes(blosc.encode(np.frombuffer(raw[:usable] if usable < len(raw) else raw, element)))

    def blosc_decode(stored: bytes, out: memoryview) -> None:
        blosc.decode(stored, out=out[: len(out) // element.itemsize * element.itemsize])

    return [
        Contender("thetastore", lambda raw: encode(raw, dtype), ours_decode, lambda coded: len(coded.stored)),
        Contender("zstd -3", compressor.compress, zstd_decode, len),
        Contender("blosc lz4 bitshuffle", blosc_encode, blosc_decode, len),
    ]


def measure(dtype: str, chunks: list[bytes], rounds: int) -> list[dict[str, Any]]:
    """Time every contender once a round, so that a noisy neighbour disturbs all of them."""
    raw_bytes = sum(map(len, chunks))
    entries = contenders(dtype)
    coded = {entry.name: [entry.encode(raw) for raw in chunks] for entry in entries}
    out = memoryview(bytearray(max(map(len, chunks))))
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for entry in entries:
            started_s = time.thread_time()
            for raw in chunks:
                entry.encode(raw)
            encoded_s = time.thread_time()
            for stored, raw in zip(coded[entry.name], chunks, strict=True):
                entry.decode(stored, out[: len(raw)])
            decoded_s = time.thread_time()
            rates.setdefault((entry.name, "encode"), []).append(raw_bytes / (encoded_s - started_s) / 1e6)
            rates.setdefault((entry.name, "decode"), []).append(raw_bytes / (decoded_s - encoded_s) / 1e6)
    return [
        {
            "dtype": dtype,
            "codec": entry.name,
            "raw_bytes": raw_bytes,
            "ratio": round(sum(map(entry.stored_bytes, coded[entry.name])) / raw_bytes, 4),
            "encode_mb_per_cpu_s": round(statistics.median(rates[entry.name, "encode"])),
            "decode_mb_per_cpu_s": round(statistics.median(rates[entry.name, "decode"])),
            "target": TARGETS.get(dtype) if entry.name == "thetastore" else None,
        }
        for entry in entries
    ]


def scaling(dtype: str, chunks: list[bytes], rounds: int) -> dict[str, Any]:
    """Return by which factor two threads are faster than one."""
    entry = contenders(dtype)[0]
    coded = [entry.encode(raw) for raw in chunks]
    outs = [memoryview(bytearray(CHUNK_BYTES)) for _ in range(2)]

    def encode_part(part: int, parts: int) -> None:
        for raw in chunks[part::parts]:
            entry.encode(raw)

    def decode_part(part: int, parts: int) -> None:
        for stored, raw in zip(coded[part::parts], chunks[part::parts], strict=True):
            entry.decode(stored, outs[part][: len(raw)])

    result: dict[str, Any] = {"dtype": dtype}
    with ThreadPoolExecutor(2) as threads:
        for name, work in (("encode", encode_part), ("decode", decode_part)):
            factors = []
            for _ in range(rounds):
                started_s = time.perf_counter()
                list(threads.map(work, [0], [1]))
                single_s = time.perf_counter() - started_s
                started_s = time.perf_counter()
                list(threads.map(work, [0, 1], [2, 2]))
                factors.append(single_s / (time.perf_counter() - started_s))
            result[name] = round(statistics.median(factors), 2)
    return result


def table(report: dict[str, Any]) -> str:
    lines = [f"{'dtype':14} {'codec':22} {'ratio':>7} {'encode':>8} {'decode':>8}   target (ratio, encode, decode)"]
    for row in report["rows"]:
        target = "" if row["target"] is None else "  ".join(map(str, row["target"]))
        lines.append(
            f"{row['dtype']:14} {row['codec']:22} {row['ratio']:7.4f} {row['encode_mb_per_cpu_s']:8} "
            f"{row['decode_mb_per_cpu_s']:8}   {target}"
        )
    lines.append("raw MB per CPU second of one thread; two threads against one, by the clock:")
    lines += [f"{row['dtype']:14} encode x{row['encode']}, decode x{row['decode']}" for row in report["scaling"]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE.safetensors")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=24, help="MiB of weights to draw for each element type")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout, the table on stderr")
    arguments = parser.parse_args()
    sets: dict[str, list[bytes]] = {}
    for path in arguments.files:
        for dtype, chunks in chunks_of_file(path).items():
            sets.setdefault(dtype, []).extend(chunks)
    if not sets:
        names = ("bfloat16", "float32", "float16", "float64", "float8_e5m2", "int8")
        sets = {dtype: cut(weights(dtype, arguments.mib << 20)) for dtype in names}
    report: dict[str, Any] = {"schema": 1, "source": arguments.files or "synthetic", "rows": [], "scaling": []}
    for dtype, chunks in sets.items():
        if sum(map(len, chunks)) >= CHUNK_BYTES:
            report["rows"] += measure(dtype, chunks, arguments.rounds)
            report["scaling"].append(scaling(dtype, chunks, arguments.rounds))
    if arguments.json:
        print(json.dumps(report, indent=1))
    print(table(report), file=sys.stderr if arguments.json else sys.stdout)


if __name__ == "__main__":
    main()
