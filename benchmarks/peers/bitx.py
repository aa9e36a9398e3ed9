"""BitX, re-implemented: XOR with the base, exponents apart from signs and mantissas, each through zstd -3.

Source: Z. Wang et al., "ZipLLM: Efficient LLM Storage via Model-Aware Synergistic Data Deduplication and Compression"
(NSDI 2026, arXiv 2505.06252), section 4; their program does the same (ds2-lab/ZipLLM, src/bitx/bitx_bytes.rs). Equal
tensors are stored once, pairs of equal name, dtype and shape by BitX, what has no base by ZipNN, as in their pipeline.
The program knows elements of two bytes; those of four, which the paper has too, are split here into exponents and three
planes of sign and mantissa, which is more than their text asks for.

Their figure for the whole of it is a reduction by 54.1 % over 3,048 models (a ratio of 0.459), base models included.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.peers.contenders import AbsentError, Files, Steps, threads, zipnn_class


class _Tensor(NamedTuple):
    name: str
    code: str
    shape: tuple[int, ...]
    raw: memoryview


class BitX(Steps):
    about = "BitX of ZipLLM, re-implemented; told the base; what has no base by ZipNN"
    splits = True

    def __init__(self, directory: Path) -> None:
        import zstandard

        self._directory = directory
        self._tensors = directory / "tensors"
        self._tensors.mkdir()
        self._zstd = zstandard
        self._zipnn = self._solo()
        self._versions: list[dict[str, Any]] = []

    def _solo(self) -> Any:
        """Return what stores tensors without a base; None for zstd."""
        try:
            return zipnn_class()
        except AbsentError:
            self.about = "BitX of ZipLLM, re-implemented; told the base; what has no base by zstd -3, for want of ZipNN"
            return None

    def add(self, files: Files, base: int | None, parent: int | None) -> None:
        base = self._base_of(base, parent)
        known = (
            {} if base is None else {key: at for file in self._versions[base].values() for key, at in file["tensors"]}
        )
        version = {}
        for name, path in files.items():
            header, tensors = _read(path)
            places = threads(lambda tensor: (_key(tensor), self._add(tensor, known.get(_key(tensor)))), tensors)
            version[name] = {"header": header, "tensors": places}
        self._versions.append(version)
        number = len(self._versions) - 1
        text = json.dumps({name: [file["header"].hex(), file["tensors"]] for name, file in version.items()})
        (self._directory / f"{number}.json.zst").write_bytes(self._zstd.compress(text.encode(), 3))

    def _base_of(self, base: int | None, parent: int | None) -> int | None:
        del parent
        return base

    def _add(self, tensor: _Tensor, base: str | None) -> str:
        """Store a tensor unless there is one like it; return its name there."""
        name = hashlib.blake2b(tensor.raw, digest_size=16).hexdigest()
        place = self._tensors / name
        if place.exists():
            return name
        if base is None:
            place.write_bytes(b"\0" + self._encode_alone(tensor))
        else:
            difference = np.frombuffer(tensor.raw, np.uint8) ^ np.frombuffer(self._tensor(base), np.uint8)
            frames = [self._compress(stream) for stream in self._streams(difference, tensor.code)]
            lengths = b"".join(len(frame).to_bytes(4, "little") for frame in frames)
            head = b"\1" + tensor.code.encode().ljust(4) + bytes.fromhex(base) + bytes([len(frames)]) + lengths
            place.write_bytes(head + b"".join(frames))
        return name

    def _encode_alone(self, tensor: _Tensor) -> bytes:
        if self._zipnn is None or tensor.code not in ("BF16", "F32") or tensor.raw.nbytes < 4096:
            return b"z" + self._compress(tensor.raw)
        dtype = "bfloat16" if tensor.code == "BF16" else "float32"
        return b"n" + bytes(self._zipnn(input_format="byte", bytearray_dtype=dtype).compress(bytearray(tensor.raw)))

    def _compress(self, raw: Any) -> bytes:
        frame: bytes = self._zstd.ZstdCompressor(level=3).compress(raw)
        return frame

    def _streams(self, difference: Any, code: str) -> list[Any]:
        if not self.splits or code not in ("BF16", "F32"):
            return [difference]
        width = 2 if code == "BF16" else 4
        words = difference.view(f"<u{width}")
        shift = 8 * width - 9
        exponents = (words >> shift).astype(np.uint8)
        highest = (words >> (8 * width - 8) & 0x80 | words >> (8 * width - 16) & 0x7F).astype(np.uint8)
        return [exponents, highest, *((words >> 8 * byte).astype(np.uint8) for byte in range(width - 2))]

    def _joined(self, streams: list[Any], code: str) -> Any:
        if len(streams) == 1:
            return streams[0]
        width = 2 if code == "BF16" else 4
        word = np.dtype(f"<u{width}")
        exponents, highest, *lower = (stream.astype(word) for stream in streams)
        words = (
            exponents << (8 * width - 9) | (highest & 0x80) << (8 * width - 8) | (highest & 0x7F) << (8 * width - 16)
        )
        for byte, stream in enumerate(lower):
            words |= stream << 8 * byte
        return words.view(np.uint8)

    def _tensor(self, name: str) -> bytes:
        stored = (self._tensors / name).read_bytes()
        if stored[0] == 0:
            if stored[1:2] == b"z":
                whole: bytes = self._zstd.ZstdDecompressor().decompress(stored[2:])
                return whole
            return bytes(self._zipnn(input_format="byte").decompress(stored[2:]))
        code, base, count = stored[1:5].decode().strip(), stored[5:21].hex(), stored[21]
        lengths = [int.from_bytes(stored[22 + 4 * n : 26 + 4 * n], "little") for n in range(count)]
        at = 22 + 4 * count
        streams = []
        for length in lengths:
            raw = self._zstd.ZstdDecompressor().decompress(stored[at : at + length])
            streams.append(np.frombuffer(raw, np.uint8))
            at += length
        return (self._joined(streams, code) ^ np.frombuffer(self._tensor(base), np.uint8)).tobytes()

    def checkout(self, number: int, target: Path) -> None:
        for name, file in self._versions[number].items():
            with (target / name).open("wb") as sink:
                sink.write(file["header"])
                for raw in threads(lambda place: self._tensor(place[1]), file["tensors"]):
                    sink.write(raw)

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._directory.rglob("*") if path.is_file())


class XorZstd(BitX):
    about = "XOR with the base, zstd -3, re-implemented; told the base; what has no base by zstd -3"
    splits = False

    def _solo(self) -> Any:
        return None


class BitXOnParent(BitX):
    about = "BitX, re-implemented, on the version before: a read takes all versions"

    def _base_of(self, base: int | None, parent: int | None) -> int | None:
        return parent if parent is not None else base


def _key(tensor: _Tensor) -> str:
    return f"{tensor.name} {tensor.code} {tensor.shape}"


def _read(path: Path) -> tuple[bytes, list[_Tensor]]:
    """Return what stands before the tensors, and the tensors in the order of the file."""
    raw = memoryview(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(bytes(raw[8:start]))
    header.pop("__metadata__", None)
    entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    tensors = []
    for name, entry in entries:
        begin, end = entry["data_offsets"]
        tensors.append(_Tensor(name, entry["dtype"], tuple(entry["shape"]), raw[start + begin : start + end]))
    return bytes(raw[:start]), tensors
