"""Every decoder against damaged input: an error of ours or a result, never another error, much memory, or much time.

Each target has valid samples, damaged here as `thetastore.testing.formats.mutations` does it. Where checksums stand in
the way, half of the damaged copies get theirs made right again ("resealed"), so that what lies behind them is reached,
as an attacker would. Formats of checkpoints are tested so in their conformance suite; here all meet each other's files.
"""

from __future__ import annotations

import functools
import io
import json
import re
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitbridge.errors import BridgeError, PointerError
from gitbridge.index_file import parse_index
from gitbridge.journal import parse_journal
from gitbridge.pointers import parse_pointer, pointer_text, render_pointer
from thetastore.backends.memory import MemoryBackend
from thetastore.codecs import (
    CODEC_NAMES,
    Coded,
    decode,
    encode,
    encode_copies,
    encode_difference,
    encode_update,
    planes,
)
from thetastore.codecs.copies import Patch, Range, Recipe
from thetastore.codecs.for_numcodecs import Planes
from thetastore.codecs.payload import read_header
from thetastore.descriptor import Descriptor, encode_descriptor, parse_descriptor
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import MalformedError, NotThisFormat, UnsupportedError
from thetastore.formats.registry import candidates
from thetastore.layout import checked_layout
from thetastore.manifest import (
    Chunk,
    Manifest,
    PageRef,
    Tensor,
    encode_manifest,
    encode_page,
    parse_manifest,
    parse_page,
)
from thetastore.objects import Objects
from thetastore.packs.index import Place, Run, word_of
from thetastore.packs.locations import Located
from thetastore.packs.locator import Body, encode_locator, parse_locator
from thetastore.packs.preamble import PREAMBLE_BYTES, checksum64
from thetastore.packs.reader import Pack
from thetastore.packs.records import HEAD_BYTES, Entry, decode_head, encode_head
from thetastore.packs.retirement_notes import read_note, write_note
from thetastore.pins import Pin, PinName, encode_pin, parse_pin
from thetastore.ref_entries import Entry as RefEntry
from thetastore.ref_entries import RefFile, encode_entry, parse_entry
from thetastore.representations.anchor_table import AnchorRun
from thetastore.representations.anchor_table import write_run as write_anchor_run
from thetastore.representations.anchors import anchors_of
from thetastore.testing.formats import mutations, scan_bytes
from thetastore.updates.arithmetic import apply
from thetastore.updates.recipe import Recipe as UpdateRecipe

MOST_BYTES = 8 << 20
"""Of memory, for any input here; scratch memory of codecs, which stays, is a few times that of a chunk."""
MOST_S = 2.0
CANARY = b"\xa5" * 64
MALFORMED = (MalformedError, UnsupportedError)


class Target(NamedTuple):
    """A decoder."""

    samples: Callable[[], list[bytes]]
    """Valid input."""
    decode: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = MALFORMED
    reseal: Callable[[bytearray], None] | None = None
    """Makes the checksums right again, as far as lengths allow."""


def weights(count: int, dtype: str = "<u2", seed: int = 1) -> bytes:
    bits = (np.random.default_rng(seed).standard_normal(count, dtype=np.float32) * np.float32(0.02)).view(np.uint32)
    return (bits >> 16).astype("<u2").tobytes() if dtype == "<u2" else bits.tobytes()


BASE = weights(10_000)
OTHER_BASE = weights(9_000, seed=2)


def moved(share: float) -> bytes:
    rng = np.random.default_rng(3)
    words = np.frombuffer(BASE, "<u2").copy()
    words += ((rng.random(words.size) < share) * rng.integers(1, 5, words.size)).astype("<u2")
    return words.tobytes() + b"x"


def moved_by_exponents() -> bytes:
    """Move most elements of low exponents, and few of others."""
    rng = np.random.default_rng(5)
    words = np.frombuffer(BASE, "<u2").copy()
    share = np.where((words & 0x7FFF) >> 7 < 120, 0.7, 0.01)
    words += ((rng.random(words.size) < share) * rng.choice([1, 0xFFFF, 9], words.size)).astype("<u2")
    return words.tobytes() + b"x"


UPDATE_BASE = np.random.default_rng(5).standard_normal((64, 64), dtype="f4").tobytes()


def updated() -> tuple[Coded | None, int]:
    """Return what a low-rank update makes of a base, some elements off by a bit."""
    rng = np.random.default_rng(6)
    left, right = rng.standard_normal((64, 4), dtype="f4"), rng.standard_normal((4, 64), dtype="f4")
    window = UpdateRecipe(64, left, right, 2.0).window(0, 4096)
    assert window is not None
    raw = bytearray(len(UPDATE_BASE))
    apply(window, memoryview(UPDATE_BASE), "float32", memoryview(raw))
    np.frombuffer(raw, "u4")[::50] += 1
    return encode_update(raw, UPDATE_BASE, "float32", window), len(raw)


@functools.cache
def coded_samples() -> dict[str, list[tuple[bytes, int]]]:
    """Return payloads and raw lengths by codec."""
    recipe = Recipe((Range(10, 5000, 0, 100), Range(6000, 12_000, 1, 2000)), (Patch(0, 10), Patch(5010, 1000)))
    copied = bytearray(18_000)
    for start, nbytes, number, base_start in recipe.ranges:
        copied[start : start + nbytes] = (BASE, OTHER_BASE)[number][base_start : base_start + nbytes]
    found: list[tuple[Coded | None, int]] = [
        (encode(b"\0" * 40, None), 40),
        (encode(bytes(range(16)) * 9, None), 144),
        (encode(b"some text that repeats, " * 90, None), 2160),
        (encode(np.random.default_rng(4).bytes(300), None), 300),
        (encode(weights(4000), "bfloat16"), 8000),
        (encode(weights(2000, "<u4") + b"xyz", "float32"), 8003),
        (encode(weights(3000, "<u4"), "float16"), 12_000),
        *((encode_difference(moved(share), BASE + b"y", "bfloat16"), 20_001) for share in (0.003, 0.05, 0.4, 1.0)),
        (encode_difference(moved_by_exponents(), BASE + b"y", "bfloat16"), 20_001),
        (encode_copies(bytes(copied), recipe, "bfloat16"), 18_000),
        updated(),
    ]
    samples: dict[str, list[tuple[bytes, int]]] = {}
    for coded, raw_bytes in found:
        assert coded is not None
        samples.setdefault(coded.codec, []).append((bytes(coded.stored), raw_bytes))
    assert set(samples) == set(CODEC_NAMES)
    return samples


def decode_codec(codec: str, stored: bytes) -> object:
    """Decode to every raw length that the samples have, between bytes that must stay as they are."""
    for raw_bytes in {length for _, length in coded_samples()[codec]}:
        memory = bytearray(CANARY + bytes(raw_bytes) + CANARY)
        out = memoryview(memory)[len(CANARY) : -len(CANARY)]
        by_codec = {"difference": [BASE + b"y"], "copies": [BASE, OTHER_BASE], "update": [UPDATE_BASE]}
        bases: list[bytes] = by_codec.get(codec, [])
        try:
            decode(codec, b"", stored, out, bases)
        except MALFORMED:
            continue
        finally:
            assert memory.startswith(CANARY), "bytes before the memory were written to"
            assert memory.endswith(CANARY), "bytes after the memory were written to"
    return None


def decode_by_numcodecs(stored: bytes) -> object:
    """Decode as numcodecs does, but for large claims that are consistent, for which it has to say how much memory."""
    claimed_bytes = planes.raw_bytes_of(memoryview(stored))
    if claimed_bytes > 1 << 20:
        read_header(memoryview(stored), claimed_bytes)
        return None
    return Planes("float32").decode(stored)


def digests(count: int) -> list[Digest]:
    return [digest_of(str(number).encode()) for number in range(count)]


def manifests() -> list[bytes]:
    chunks = tuple(Chunk(1000 + number, digest) for number, digest in enumerate(digests(20)))
    file_bytes = sum(chunk.raw_bytes for chunk in chunks)
    tensors = tuple(
        Tensor(f"layer.{number}", "bfloat16", (5, 100), 1000 * number, None, digest)
        for number, digest in enumerate(digests(10))
    )
    plain = Manifest("safetensors", 1, file_bytes, digests(1)[0], tensors, chunks)
    pages = tuple(PageRef(1 << 20, 300, digest) for digest in digests(3))
    return [
        encode_manifest(plain),
        encode_manifest(plain._replace(chunks=(), pages=pages, file_bytes=3 << 20)),
        encode_manifest(Manifest("opaque", 0, 0, digests(1)[0], (), ())),
    ]


def reparse_manifest(raw: bytes) -> object:
    manifest = parse_manifest(raw)
    assert encode_manifest(manifest) == raw, "two encodings of one manifest"
    return manifest


PAGE = tuple(Chunk(4096, digest) for digest in digests(40))


def parse_any_page(raw: bytes) -> object:
    return parse_page(raw, PageRef(4096 * len(PAGE), len(PAGE), digests(1)[0]))


ENTRY = Entry(Kind.CHUNK, digests(1)[0], "difference", b"p", 5000, 300, tuple(digests(4)[2:]), 2, bytes(16))


def reseal_head(raw: bytearray) -> None:
    if len(raw) >= HEAD_BYTES:
        fixed = HEAD_BYTES - 8
        end = HEAD_BYTES + struct.unpack_from("<H", raw, 8)[0] + 32 * raw[5]
        raw[fixed:HEAD_BYTES] = checksum64(bytes(raw[:fixed]) + bytes(raw[HEAD_BYTES:end]))


@functools.cache
def store_files() -> dict[str, bytes]:
    """Return the files of a store with whole chunks, differences and copies, by name."""
    backend = MemoryBackend()
    with Objects(backend) as objects:
        base = objects.put(Kind.CHUNK, weights(200_000), "bfloat16")
        later = np.frombuffer(weights(200_000), "<u2").copy()
        later[::50] += 1
        objects.put(Kind.CHUNK, later.tobytes(), "bfloat16", [base])
        objects.put(Kind.CHUNK, weights(200_000)[2000:350_000] + weights(100, seed=9), "bfloat16")
        for number in range(5):
            objects.put(Kind.MANIFEST, b"manifest %d" % number)
    return {name: bytes(backend.view(name)) for part in ("packs", "index", "anchors") for name in backend.list(part)}


def files(prefix: str) -> Callable[[], list[bytes]]:
    def samples() -> list[bytes]:
        found = [raw for name, raw in store_files().items() if name.startswith(prefix)]
        assert found, prefix
        return found

    return samples


def reseal_preamble(raw: bytearray) -> None:
    if len(raw) >= PREAMBLE_BYTES:
        raw[PREAMBLE_BYTES - 8 : PREAMBLE_BYTES] = checksum64(bytes(raw[: PREAMBLE_BYTES - 8]))


def reseal_pack(raw: bytearray) -> None:
    """Trailer: offset and length of the table, rows, checksum of the table; its own checksum; the end."""
    reseal_preamble(raw)
    trailer_at = len(raw) - 16 - 40
    if trailer_at > PREAMBLE_BYTES:
        offset, nbytes = struct.unpack_from("<QQ", raw, trailer_at)
        if offset + nbytes <= trailer_at:
            raw[trailer_at + 24 : trailer_at + 40] = checksum_of(bytes(raw[offset : offset + nbytes]))
        raw[trailer_at + 40 : trailer_at + 48] = checksum64(bytes(raw[trailer_at : trailer_at + 40]))


def read_pack(raw: bytes) -> object:
    backend = MemoryBackend()
    backend.create("packs/a.pack", raw)
    pack = Pack(backend.open("packs/a.pack"), "packs/a.pack")
    whole = list(pack.records())
    for record in pack.table():
        assert record.offset + record.nbytes <= len(raw)
    return whole


def reseal_run(raw: bytearray) -> None:
    reseal_preamble(raw)
    trailer_at = len(raw) - 16 - struct.calcsize("<QQ16s16s16s")
    if trailer_at > PREAMBLE_BYTES:
        raw[-16:-8] = checksum64(bytes(raw[trailer_at:-16]))


def read_run(raw: bytes) -> object:
    run = Run(memoryview(raw), "index/a.run")
    run.is_intact()
    rows = list(run.rows())
    for digest in (*digests(2), *(row.digest for _, row in rows[:3])):
        list(run.find(digest, word_of(digest)))
    return rows


LOCATED_CHUNKS = [Chunk(1000 + n, digest) for n, digest in enumerate(digests(40))]
LOCATED = encode_manifest(
    Manifest(
        "opaque", 1, sum(chunk.raw_bytes for chunk in LOCATED_CHUNKS), Digest(bytes(32)), (), tuple(LOCATED_CHUNKS)
    )
)


def locators() -> list[bytes]:
    base = Digest(b"b" * 32)
    at = {chunk.digest: 32 + 2000 * n for n, chunk in enumerate(LOCATED_CHUNKS)}
    objects = {one: Located(Place("packs/" + "0" * 32 + ".pack", offset, 1500), (base,)) for one, offset in at.items()}
    return [
        encode_locator(
            LOCATED, [], {**objects, base: Located(Place("packs/" + "1" * 32 + ".pack", 32, 500), ())}, ["2" * 32]
        )
    ]


def locator_bodies() -> list[bytes]:
    return [zstandard.ZstdDecompressor().decompress(locator[104:]) for locator in locators()]


def reseal_locator(raw: bytearray) -> None:
    reseal_preamble(raw)
    if len(raw) > 104:
        raw[80:96] = checksum_of(bytes(raw[104:]))
        raw[96:104] = checksum64(bytes(raw[32:96]))


def read_locator(raw: bytes) -> object:
    return parse_locator(memoryview(raw), digest_of(LOCATED, Kind.MANIFEST))


def read_locator_body(raw: bytes) -> object:
    found = Body(memoryview(raw), "a").parse(digest_of(LOCATED, Kind.MANIFEST))
    assert len(found.objects) <= 1 + 2 * len(raw) // 32
    return found


def reseal_anchors(raw: bytearray) -> None:
    reseal_preamble(raw)
    trailer_at = len(raw) - 16 - 32
    if trailer_at > PREAMBLE_BYTES:
        raw[trailer_at + 16 : trailer_at + 32] = checksum_of(bytes(raw[PREAMBLE_BYTES:trailer_at]))
        raw[-16:-8] = checksum64(bytes(raw[trailer_at:-16]))


ANCHORS = anchors_of(weights(200_000), 2)


def read_anchors(raw: bytes) -> object:
    run = AnchorRun(memoryview(raw), "anchors/a.run")
    run.is_intact()
    ascending = sorted(ANCHORS, key=lambda anchor: anchor.identity)
    return run.find(ascending, np.array([anchor.identity for anchor in ascending], dtype="<u8"))


def many_anchors() -> list[bytes]:
    """Return a run that is searched by interpolation, too, cut down to what a test can damage."""
    backend = MemoryBackend()
    identities = np.sort(np.array([anchor.identity for anchor in ANCHORS], dtype="<u8"))
    places = np.stack([np.arange(identities.size) % 3, np.arange(identities.size)], axis=1).astype("<u4")
    name = write_anchor_run(backend, identities, places, b"".join(digests(3)))
    return [*files("anchors")(), bytes(backend.view(name))]


def pointers() -> list[bytes]:
    return [render_pointer(parse_manifest(raw), digests(1)[0]) for raw in manifests()]


def reparse_pointer(raw: bytes) -> object:
    pointer = parse_pointer(raw)
    assert pointer_text(pointer) == raw, "two renderings of one pointer"
    return pointer


PIN = Pin("https://example.org/m", "1" * 40, tuple(sorted(digests(5))), ("2" * 40,), ("refs/heads/main",))


def pins() -> list[bytes]:
    return [encode_pin(PIN), json.dumps({"format": "theta-pin", "version": [[]]}).encode()]


REF = RefEntry(
    "models/bert", 2, "0" * 32, 1, 1_763_900_000_000, "ada", "why", (RefFile("a/b.st", 10, digests(1)[0]),), {"k": "v"}
)


def refs() -> list[bytes]:
    return [encode_entry(REF), encode_entry(REF._replace(files=(), oldest=3, metadata={}))]


def reseal_ref(raw: bytearray) -> None:
    line = bytes(raw).partition(b"\n")[0] + b"\n"
    raw[:] = line + f"{digest_of(line)}\n".encode()


def descriptors() -> list[bytes]:
    return [encode_descriptor(Descriptor(0)), encode_descriptor(Descriptor(1, ("a",), ("b",), "many", "thetastore 2"))]


def notes() -> list[bytes]:
    backend = MemoryBackend()
    return [bytes(backend.view(write_note(backend, ["0" * 32, "1" * 32], ["2" * 32])))]


def read_any_note(raw: bytes) -> object:
    backend = MemoryBackend()
    name = f"retired/{'0' * 32}.note"
    backend.create(name, raw)
    return read_note(backend, name)


def reseal_note(raw: bytearray) -> None:
    if len(raw) >= PREAMBLE_BYTES + 16:
        raw[-16:] = checksum_of(bytes(raw[PREAMBLE_BYTES:-16]))


def journals() -> list[bytes]:
    """Return the one in the document."""
    document = (Path(__file__).parents[2] / "docs" / "format" / "journal.md").read_text()
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2}(?: |$))+)", document, re.MULTILINE)
    return [bytes.fromhex("".join(lines))]


def reseal_journal(raw: bytearray) -> None:
    at = 8 + struct.unpack_from("<H", raw, 6)[0] if len(raw) >= 8 else len(raw)
    while at + 4 <= len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        body = bytes(raw[at + 4 : at + 4 + size])
        if len(raw) < at + 4 + size + 8:
            return
        raw[at + 4 + size : at + 12 + size] = xxhash.xxh3_64_digest(body)
        at += 12 + size


def git_index() -> list[bytes]:
    """Return indexes of versions 2 and 4 with two entries, as git writes them but for the checksum."""
    found = []
    for version in (2, 4):
        raw = struct.pack(">4sII", b"DIRC", version, 2)
        for name in (b"a.bin", b"ab/c.bin"):
            entry = bytes(40) + b"\x11" * 20 + struct.pack(">H", len(name))
            raw += entry + (b"\0" if version == 4 else b"") + name + b"\0"
            if version == 2:
                raw += b"\0" * (-(len(entry) + len(name) + 1) % 8)
        found.append(raw + bytes(20))
    return found


def read_index(raw: bytes) -> object:
    return list(parse_index(raw, "sha1"))


def checkpoints() -> list[bytes]:
    fixtures = Path(__file__).parents[1] / "fixtures"
    small = [
        path.read_bytes() for path in sorted(fixtures.rglob("*")) if path.is_file() and path.stat().st_size < 30_000
    ]
    tensors = {"a": np.arange(12, dtype="<f4").reshape(3, 4), "b": np.zeros((2, 0), "<f2")}
    for save in (lambda file: np.save(file, tensors["a"]), lambda file: np.savez(file, **tensors)):
        file = io.BytesIO()
        save(file)
        small.append(file.getvalue())
    header = json.dumps({"a": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode()
    return [*small, struct.pack("<Q", len(header)) + header + bytes(48)]


def scan_as_anything(raw: bytes) -> object:
    for format in candidates(raw[:64]):
        try:
            layout = scan_bytes(format, raw)
        except NotThisFormat:
            continue
        checked_layout(layout.format, layout.version, layout.file_bytes, list(layout.spans), list(layout.tensors))
    return None


TARGETS: dict[str, Target] = {
    **{
        f"codec {codec}": Target(
            lambda codec=codec: [stored for stored, _ in coded_samples()[codec]], functools.partial(decode_codec, codec)
        )
        for codec in CODEC_NAMES
    },
    "planes through numcodecs": Target(lambda: [Planes("float32").encode(weights(2000, "<u4"))], decode_by_numcodecs),
    "manifest": Target(manifests, reparse_manifest),
    "manifest page": Target(lambda: [encode_page(PAGE)], parse_any_page),
    "record head": Target(lambda: [encode_head(ENTRY)], lambda raw: decode_head(raw, "a", 0), reseal=reseal_head),
    "pack": Target(files("packs"), read_pack, reseal=reseal_pack),
    "index run": Target(files("index"), read_run, reseal=reseal_run),
    "locator": Target(locators, read_locator, reseal=reseal_locator),
    "locator body": Target(locator_bodies, read_locator_body),
    "anchors": Target(many_anchors, read_anchors, reseal=reseal_anchors),
    "pointer": Target(pointers, reparse_pointer, (PointerError,)),
    "pin": Target(pins, lambda raw: parse_pin(raw, PinName(PIN.repository, PIN.commit, "0" * 32))),
    "ref": Target(refs, lambda raw: parse_entry(raw, REF.name, REF.number), reseal=reseal_ref),
    "descriptor": Target(descriptors, lambda raw: parse_descriptor(raw, "a store")),
    "note of retired packs": Target(notes, read_any_note, (), reseal=reseal_note),
    "journal": Target(journals, parse_journal, (), reseal=reseal_journal),
    "git index": Target(git_index, read_index, (BridgeError,)),
    "checkpoint formats": Target(checkpoints, scan_as_anything, ()),
}


def attack(name: str, seed: int) -> None:
    """Decode one damaged sample, and fail where that breaks a promise."""
    target = TARGETS[name]
    samples = target.samples()
    (damaged,) = mutations(samples[seed % len(samples)], 1, seed)
    if target.reseal is not None and seed % 2:
        made_right = bytearray(damaged)
        target.reseal(made_right)
        damaged = bytes(made_right)
    tracemalloc.start()
    started_s = time.thread_time()
    try:
        target.decode(damaged)
    except target.errors:
        pass
    finally:
        taken_s = time.thread_time() - started_s
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes < MOST_BYTES, f"{peak_bytes} bytes for {damaged[:200]!r}"
    assert taken_s < MOST_S, f"{taken_s} s for {damaged[:200]!r}"


def attack_often(name: str, count: int) -> None:
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, (1 << 48) - 1))
    def attack_once(seed: int) -> None:
        attack(name, seed)

    attack_once()


@pytest.mark.parametrize("name", TARGETS)
def test_valid_samples_are_decoded(name: str) -> None:
    target = TARGETS[name]
    for sample in target.samples():
        if name == "pin" and b"[[]]" in sample:
            continue
        target.decode(sample)
        if target.reseal is not None:
            resealed = bytearray(sample)
            target.reseal(resealed)

            assert resealed == sample, "resealing is wrong here, and reaches nothing"


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_refused_or_decoded_in_bounds(name: str) -> None:
    attack_often(name, 120)


def test_planes_that_only_claim_their_length_take_no_memory() -> None:
    payload = bytearray(Planes("float32").encode(weights(2000, "<u4")))
    payload[4:8] = b"\xf0\xff\xff\xff"
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            Planes("float32").decode(bytes(payload))

        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.deep
@pytest.mark.parametrize("name", TARGETS)
def test_much_damaged_input_is_refused_or_decoded_in_bounds(name: str) -> None:
    attack_often(name, 5_000)
