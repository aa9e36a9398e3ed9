"""The memory that hostile input takes: peak resident bytes by bytes of input, each in a process of its own.

What is read is either refused, or has all that it claims: then what it claims is what takes the memory.
"""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from gitbridge.pointers import parse_pointer, render_pointer
from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import NotThisFormat, ThetaError
from thetastore.formats import SNIFF_BYTES
from thetastore.formats.registry import candidates
from thetastore.manifest import MAX_PAGES, Manifest, PageRef, Tensor, encode_manifest, parse_manifest
from thetastore.objects import Objects
from thetastore.packs.index import Run, write_run
from thetastore.packs.reader import Pack
from thetastore.packs.records import Entry
from thetastore.packs.writer import PackWriter, Row, SealedPack, new_id
from thetastore.pins import PinName, parse_pin
from thetastore.ref_entries import parse_entry
from thetastore.testing.formats import scan_bytes

DIGEST = digest_of(b"")


class Trap(NamedTuple):
    """Input that was made to take memory."""

    what: str
    build: Callable[[], bytes]
    read: Callable[[bytes], object]


class Taken(NamedTuple):
    """What reading one took."""

    what: str
    input_bytes: int
    peak_bytes: int
    """Resident, above what the process had, with the input."""
    outcome: str

    @property
    def per_byte(self) -> float:
        """Peak by byte of input."""
        return self.peak_bytes / max(self.input_bytes, 1)


def _many_pages() -> bytes:
    pages = tuple(PageRef(4096 * 16, 16, DIGEST) for _ in range(MAX_PAGES))
    return encode_manifest(Manifest("opaque", 0, 4096 * 16 * MAX_PAGES, DIGEST, (), (), pages))


def _many_tensors() -> Manifest:
    tensors = tuple(Tensor(f"{n:06}", "uint8", (1,), n, None, DIGEST) for n in range(200_000))
    return Manifest("opaque", 0, 200_000, DIGEST, tensors, (), (PageRef(200_000, 2, DIGEST),))


def _run_bytes() -> bytes:
    backend = MemoryBackend()
    rows = [Row(digest_of(str(n).encode()), 32 + 200 * n, 200) for n in range(200_000)]
    return backend.read(write_run(backend, [SealedPack(new_id(), 32 + 200 * len(rows) + 100, rows)]))


def _pack_bytes() -> bytes:
    backend = MemoryBackend()
    writer = PackWriter.new(backend)
    for n in range(50_000):
        writer.append(
            Entry(Kind.CHUNK, digest_of(str(n).encode()), "literal", b"", 1, 1, (), 0, checksum_of(b"x")), b"x"
        )
    writer.seal()
    writer.close()
    return backend.read(next(backend.list("packs")))


def _read_pack(content: bytes) -> object:
    backend = MemoryBackend()
    backend.create("packs/x.pack", content)
    return Pack(backend.open("packs/x.pack"), "packs/x.pack").table()


def _constant() -> bytes:
    """A store with one record of some 110 bytes that stands for the longest object there may be."""
    backend = MemoryBackend()
    writer = PackWriter.new(backend)
    writer.append(Entry(Kind.CHUNK, DIGEST, "constant", b"", 128 << 20, 1, (), 0, checksum_of(b"\0")), b"\0")
    writer.seal()
    return backend.read(next(backend.list("packs")))


def _read_object(content: bytes) -> object:
    backend = MemoryBackend()
    backend.create(f"packs/{new_id()}.pack", content)
    return Objects(backend).get(Kind.CHUNK, DIGEST)


def _pickle_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + b"]" * (8 << 20) + b".")
        archive.writestr("m/version", b"3\n")
    return out.getvalue()


def _pickle_of_names() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({f"name {n}": n for n in range(500_000)}, protocol=2))
        archive.writestr("m/version", b"3\n")
    return out.getvalue()


def _header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def _names() -> bytes:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return _header(json.dumps({f"{n:x}": entry for n in range(190_000)}).encode())


def _ref() -> bytes:
    line = b'{"format": "theta-ref", "files": [' + b"{}," * (5 << 20) + b"{}]}\n"
    return line + f"{digest_of(line)}\n".encode()


def _pin() -> bytes:
    return b'{"format": "theta-pin", "version": 0, "manifests": [' + b"{}," * (5 << 20) + b"{}]}"


def _scan(content: bytes) -> object:
    """Locate tensors as adding a file does."""
    for candidate in candidates(content[:SNIFF_BYTES]):
        try:
            return scan_bytes(candidate, content)
        except NotThisFormat:
            continue
    return None


TRAPS = (
    Trap("manifest that claims 262,144 pages", _many_pages, parse_manifest),
    Trap("manifest of 200,000 tensors", lambda: encode_manifest(_many_tensors()), parse_manifest),
    Trap("pointer of 200,000 tensors", lambda: render_pointer(_many_tensors(), DIGEST), parse_pointer),
    Trap("index run of 200,000 digests", _run_bytes, lambda raw: Run(memoryview(raw), "index/x.run")),
    Trap("pack of 50,000 records of a byte", _pack_bytes, _read_pack),
    Trap("record that stands for 128 MiB of zeros", _constant, _read_object),
    Trap("ref of 5 million objects", _ref, lambda raw: parse_entry(raw, "models/x", 1)),
    Trap("pin of 5 million objects", _pin, lambda raw: parse_pin(raw, PinName("0" * 40, "0" * 40, False))),
    Trap("safetensors header of 190,000 names", _names, _scan),
    Trap("safetensors header of 8 MiB of brackets", lambda: _header(b"[" * (8 << 20)), _scan),
    Trap("torch file whose pickle nests 8 million lists", _pickle_bomb, _scan),
    Trap("torch file whose pickle has 500,000 names", _pickle_of_names, _scan),
)


def taken() -> Iterator[Taken]:
    """Read each trap in a process of its own."""
    root = str(Path(__file__).parents[2])
    with TemporaryDirectory() as directory:
        for number, trap in enumerate(TRAPS):
            path = Path(directory) / str(number)
            path.write_bytes(trap.build())
            code = f"from benchmarks.reliability.memory import measure\nmeasure({number}, {str(path)!r})"
            done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
            peak_bytes, outcome = done.stdout.strip().split(" ", 1)
            yield Taken(trap.what, path.stat().st_size, int(peak_bytes), outcome)


def measure(number: int, path: str) -> None:
    """Read a trap, and print what that took; begins a process."""
    for trap in TRAPS:  # what reading anything at all imports is none of the input's
        _outcome(trap, b"")
    _scan(_header(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
    _scan(b"PK\x03\x04" + bytes(100))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    content = Path(path).read_bytes()
    outcome = _outcome(TRAPS[number], content)
    print(_status("VmHWM") - before, outcome)


def _outcome(trap: Trap, content: bytes) -> str:
    try:
        kept = trap.read(content)
        return "read" if kept is not None else "kept as plain bytes"
    except ThetaError as error:
        return f"refused ({error.code})"


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise AssertionError(field)


__all__ = ["TRAPS", "Digest", "Taken", "Trap", "measure", "taken"]
