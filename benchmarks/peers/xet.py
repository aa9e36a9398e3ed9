"""What Xet does, re-implemented: content-defined chunks of 64 KiB, stored once, with LZ4 after grouping bytes.

Source: the Xet protocol specification (huggingface.co/docs/xet): a gear hash with a 64-bit state that cuts where its
highest 16 bits are zero, chunks of 8 to 128 KiB, three ways to store a chunk (as it is, LZ4, LZ4 after the bytes of
every group of 4 were put together), a header of 8 bytes a chunk. The table of the gear hash is drawn at random here,
which cuts elsewhere and equally well; of the three ways the smallest is kept, where Xet guesses. Its own program is in
Rust and several times as fast as this.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.contenders import AbsentError, Files, Steps, threads

MIN_BYTES, MAX_BYTES = 8 << 10, 128 << 10
_MASK = np.uint64(0xFFFF << 48)
_TABLE = np.random.default_rng(64).integers(0, 1 << 64, 256, dtype=np.uint64)
_BLOCK_BYTES = 64 << 10
_HISTORY = 63
"""Bytes before one that its hash depends on: a bit of the state is shifted out with each."""
_HEADER_BYTES = 8
_RAW, _LZ4, _GROUPED = range(3)


class Xet(Steps):
    about = "Xet's chunks, grouping and LZ4, re-implemented"

    def __init__(self, directory: Path) -> None:
        try:
            from numcodecs import lz4
        except ImportError as error:
            raise AbsentError(f"numcodecs cannot be imported ({error}): pip install numcodecs") from error
        self._lz4 = lz4
        self._directory = directory
        self._chunks: dict[bytes, tuple[int, int, int, int]] = {}
        """Offset in the pack, stored bytes, raw bytes, way."""
        self._versions: list[dict[str, list[bytes]]] = []
        self._pack = directory / "pack"
        self._pack_bytes = 0

    def add(self, files: Files, base: int | None, parent: int | None) -> None:
        del base, parent
        version = {}
        with self._pack.open("ab") as pack:
            for name, path in files.items():
                raw = path.read_bytes()
                version[name] = self._add(raw, pack)
        self._versions.append(version)
        number = len(self._versions) - 1
        digests = b"".join(digest for file in version.values() for digest in file)
        (self._directory / f"{number}.list").write_bytes(digests)

    def _add(self, raw: bytes, pack: Any) -> list[bytes]:
        blocks = range(0, len(raw), _BLOCK_BYTES)
        found = threads(lambda start: _zeros(raw, start, min(len(raw), start + _BLOCK_BYTES)), blocks)
        bounds = list(_bounds(np.concatenate(found), len(raw)))
        pieces = [memoryview(raw)[start:stop] for start, stop in zip([0, *bounds], bounds, strict=False)]
        digests = threads(lambda piece: hashlib.blake2b(piece, digest_size=32).digest(), pieces)
        new = {digest: piece for digest, piece in zip(digests, pieces, strict=True) if digest not in self._chunks}
        for digest, (way, stored) in zip(new, threads(self._encode, new.values()), strict=True):
            pack.write(_header(way, len(stored), new[digest].nbytes) + stored)
            self._chunks[digest] = self._pack_bytes + _HEADER_BYTES, len(stored), len(new[digest]), way
            self._pack_bytes += _HEADER_BYTES + len(stored)
        return digests

    def _encode(self, raw: memoryview) -> tuple[int, bytes]:
        ways = [(_RAW, bytes(raw)), (_LZ4, self._lz4.compress(raw)), (_GROUPED, self._lz4.compress(_grouped(raw)))]
        return min(ways, key=lambda way: len(way[1]))

    def checkout(self, number: int, target: Path) -> None:
        with self._pack.open("rb") as file:
            descriptor = file.fileno()
            for name, digests in self._versions[number].items():
                with (target / name).open("wb") as sink:
                    for raw in threads(lambda digest: self._decode(descriptor, digest), digests):
                        sink.write(raw)

    def _decode(self, descriptor: int, digest: bytes) -> Any:
        import os

        offset, stored_bytes, raw_bytes, way = self._chunks[digest]
        stored = os.pread(descriptor, stored_bytes, offset)
        if way == _RAW:
            return stored
        raw = self._lz4.decompress(stored)
        return raw if way == _LZ4 else _ungrouped(raw, raw_bytes)

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._directory.rglob("*") if path.is_file())


def _header(way: int, stored_bytes: int, raw_bytes: int) -> bytes:
    return b"\0" + stored_bytes.to_bytes(3, "little") + bytes([way]) + raw_bytes.to_bytes(3, "little")


def _zeros(raw: bytes, start: int, stop: int) -> Any:
    """Return after which bytes of [start, stop) the hash is zero above."""
    known = min(start, _HISTORY)
    hashes = _TABLE[np.frombuffer(raw, np.uint8, stop - start + known, start - known)]
    for bits in (1, 2, 4, 8, 16, 32):  # the sum over 1, 2, 4, ... bytes before each
        doubled = hashes.copy()
        doubled[bits:] += hashes[:-bits] << np.uint64(bits)
        hashes = doubled
    return start + 1 + np.flatnonzero(hashes[known:] & _MASK == 0)


def _bounds(zeros: Any, length: int) -> Any:
    """Yield where chunks end: at the first zero after the shortest chunk, after the longest at the latest."""
    start = 0
    while start < length:
        at = int(np.searchsorted(zeros, start + MIN_BYTES))
        end = int(zeros[at]) if at < zeros.size else length
        start = min(end, start + MAX_BYTES, length)
        yield start


def _grouped(raw: memoryview) -> bytes:
    octets = np.frombuffer(raw, np.uint8)
    return b"".join(octets[first::4].tobytes() for first in range(4))


def _ungrouped(grouped: bytes, raw_bytes: int) -> bytes:
    octets = np.frombuffer(grouped, np.uint8)
    out = np.empty(raw_bytes, np.uint8)
    at = 0
    for first in range(4):
        part = out[first::4]
        part[:] = octets[at : at + part.size]
        at += part.size
    return out.tobytes()
