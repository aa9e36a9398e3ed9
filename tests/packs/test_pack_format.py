"""Packs and runs against docs/format/pack.md and index.md."""

from __future__ import annotations

import os
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thetastore.backends.memory import MemoryBackend
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.packs.index import Run, word_of, write_run
from thetastore.packs.preamble import checksum64, preamble
from thetastore.packs.reader import Packs
from thetastore.packs.records import HEAD_BYTES, MAX_HEAD_BYTES, MAX_RAW_BYTES, Entry, decode_head, encode_head
from thetastore.packs.retirement_notes import MAX_NOTE_IDS, NOTE_MAGIC, RetirementNote, read_note, write_note
from thetastore.packs.writer import PackWriter, Row, SealedPack, sealed_name

HERE = os.path.dirname(__file__)
DOCUMENTS = os.path.join(HERE, "../../docs/format")
GOLDEN_ID = "0" * 31 + "1"


def literal(raw: bytes, kind: Kind = Kind.CHUNK) -> Entry:
    return Entry(kind, digest_of(raw, kind), "literal", b"", len(raw), len(raw), (), 0, checksum_of(raw))


def sealed(backend, pack_id: str, raws: list[bytes]) -> SealedPack:
    writer = PackWriter(pack_id, backend.appender(f"incoming/{pack_id}.pack"))
    for raw in raws:
        writer.append(literal(raw), raw)
    pack = writer.seal()
    writer.close()
    return pack


def golden_files() -> dict[str, bytes]:
    """What the code of today writes for the examples of the documents."""
    backend = MemoryBackend()
    pack = sealed(backend, GOLDEN_ID, [b"abcd"])
    return {
        "pack": backend.read(sealed_name(GOLDEN_ID)),
        "index": backend.read(write_run(backend, [pack])),
        "store": backend.read(write_note(backend, [GOLDEN_ID], ["0" * 31 + "2"])),
    }


@pytest.mark.parametrize("document", ["pack", "index", "store"])
def test_code_golden_file_and_document_agree(document):
    with open(os.path.join(DOCUMENTS, f"{document}.md"), encoding="utf-8") as text:
        lines = re.findall(r"(?m)^    [0-9a-f]{4}  ([0-9a-f ]+)$", text.read())
    with open(os.path.join(HERE, f"golden/v1.{document}"), "rb") as file:
        golden = file.read()

    assert golden_files()[document] == golden
    assert bytes.fromhex("".join(lines)) == golden


entries = st.builds(
    lambda kind, digest, codec, params, sizes, bases, depth, checksum: Entry(
        kind, Digest(digest), codec, params, max(sizes), min(sizes), bases, depth if bases else 0, checksum
    ),
    st.integers(0, 255),
    st.binary(min_size=32, max_size=32),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=16),
    st.binary(max_size=2048),
    st.tuples(st.integers(0, MAX_RAW_BYTES), st.integers(0, MAX_RAW_BYTES)),
    st.lists(st.binary(min_size=32, max_size=32).map(Digest), max_size=16).map(tuple),
    st.integers(1, 8),
    st.binary(min_size=16, max_size=16),
).filter(lambda entry: entry.digest not in entry.bases)


@given(entries, st.binary(max_size=50))
def test_every_entry_survives_its_head(entry, what_follows):
    head = encode_head(entry)

    assert decode_head(head + what_follows, "a", 0) == (entry, len(head))
    assert len(head) <= MAX_HEAD_BYTES


@given(entries, st.data())
def test_a_head_with_a_flipped_bit_is_refused(entry, data):
    head = bytearray(encode_head(entry))
    bit = data.draw(st.integers(0, len(head) * 8 - 1))
    head[bit // 8] ^= 1 << bit % 8

    with pytest.raises(MalformedError):
        decode_head(bytes(head), "a", 0)


@given(st.binary(max_size=300))
def test_noise_is_no_head(noise):
    with pytest.raises(MalformedError):
        decode_head(noise, "a", 0)


def forged(offset: int, fmt: str, value: object) -> bytes:
    """A head with one field changed and the checksum made right."""
    head = bytearray(encode_head(literal(b"abcd")))
    struct.pack_into(fmt, head, offset, value)
    head[96:104] = checksum64(bytes(head[:96]) + bytes(head[104:]))
    return bytes(head) + bytes(4096)


@pytest.mark.parametrize(
    ("offset", "fmt", "value"),
    [
        (0, "<4s", b"nope"),
        (5, "<B", 17),
        (5, "<B", 1),
        (6, "<B", 9),
        (6, "<B", 1),
        (7, "<B", 1),
        (8, "<I", 2049),
        (8, "<I", 0xFFFFFFFF),
        (12, "<I", 1),
        (16, "<Q", 3),
        (16, "<Q", MAX_RAW_BYTES + 1),
        (16, "<Q", 1 << 63),
        (24, "<Q", 5),
        (24, "<Q", 1 << 63),
        (32, "<16s", b""),
        (32, "<16s", b"a\0b"),
        (32, "<16s", b"a\nb"),
        (32, "<16s", "é".encode()),
    ],
)
def test_a_forged_head_with_a_right_checksum_is_refused(offset, fmt, value):
    with pytest.raises(MalformedError, match=r"'some\.pack' is malformed at 77"):
        decode_head(forged(offset, fmt, value), "some.pack", 77)


def test_an_object_that_is_its_own_base_cannot_be_written_down():
    entry = literal(b"abcd")

    with pytest.raises(MalformedError):
        encode_head(entry._replace(bases=(entry.digest,), depth=1))


def test_an_unknown_kind_is_stepped_over_and_listed():
    backend = MemoryBackend()
    writer = PackWriter.new(backend)
    unknown = literal(b"from the future")._replace(kind=99)
    for entry, raw in ((literal(b"a"), b"a"), (unknown, b"from the future"), (literal(b"b"), b"b")):
        writer.append(entry, raw)
    forwards = [record.entry for record in Packs(backend).get(writer.file_name).records()]
    writer.seal()

    backwards = [record.entry for record in Packs(backend).get(writer.file_name).table()]
    assert forwards == backwards == [literal(b"a"), unknown, literal(b"b")]


def test_a_pack_is_read_forwards_up_to_its_torn_end():
    backend = MemoryBackend()
    raws = [b"first", b"", b"third" * 100]
    sealed(backend, GOLDEN_ID, raws)
    whole = backend.read(sealed_name(GOLDEN_ID))
    ends = [record.offset + record.nbytes for record in Packs(backend).get(sealed_name(GOLDEN_ID)).table()]

    for nbytes in range(32, len(whole)):
        torn = MemoryBackend()
        torn.create("incoming/x.pack", whole[:nbytes])
        found = [record.entry.digest for record in Packs(torn).get("incoming/x.pack").records()]
        assert found == [digest_of(raw) for raw, end in zip(raws, ends, strict=True) if end <= nbytes]


def test_a_table_longer_than_the_suffix_takes_a_second_read():
    backend = MemoryBackend()
    raws = [bytes([i % 256, i // 256]) for i in range(1000)]
    pack = sealed(backend, GOLDEN_ID, raws)

    table = Packs(backend).get(sealed_name(GOLDEN_ID)).table()

    assert [Row(record.entry.digest, record.offset, record.nbytes) for record in table] == pack.rows
    assert [record.entry for record in table] == [literal(raw) for raw in raws]


def test_every_truncation_and_every_flipped_bit_of_a_footer_is_refused():
    backend = MemoryBackend()
    sealed(backend, GOLDEN_ID, [b"first", b"second"])
    whole = backend.read(sealed_name(GOLDEN_ID))
    table_at = struct.unpack_from("<Q", whole, len(whole) - 56)[0]

    damaged = [whole[:nbytes] for nbytes in range(32, len(whole))] + [whole + b"\0"]
    for at in range(table_at, len(whole)):
        damaged += [whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for bit in range(8)]
    for number, content in enumerate(damaged):
        backend.create(f"packs/{number}", content)
        with pytest.raises(MalformedError):
            Packs(backend).get(f"packs/{number}").table()


@pytest.mark.parametrize("document", ["pack", "index"])
def test_a_newer_version_or_a_required_feature_is_unsupported_and_an_optional_one_is_not(document):
    golden = golden_files()[document]

    def opened(offset: int, value: int) -> None:
        content = bytearray(golden)
        struct.pack_into("<I", content, offset, value)
        content[24:32] = checksum64(bytes(content[:24]))
        backend = MemoryBackend()
        backend.create("file", bytes(content))
        Packs(backend).get("file") if document == "pack" else Run(backend.view("file"), "file")

    opened(16, 0xFF)
    opened(8, 0)  # the draft, which differs in nothing else
    for offset, value in ((8, 2), (12, 1), (12, 1 << 31)):
        with pytest.raises(UnsupportedError, match="'file'"):
            opened(offset, value)
    with pytest.raises(MalformedError, match="'file'"):
        opened(20, 1)


def test_every_truncation_of_a_run_and_every_flipped_bit_outside_its_body_is_refused():
    golden = golden_files()["index"]

    damaged = [golden[:nbytes] for nbytes in range(len(golden))] + [golden + b"\0"]
    for at in [*range(12), *range(20, 32), *range(32 + 48, len(golden))]:
        damaged += [golden[:at] + bytes([golden[at] ^ 1 << bit]) + golden[at + 1 :] for bit in range(8)]
    for content in damaged:
        with pytest.raises((MalformedError, UnsupportedError)):
            Run(memoryview(content), "index/x.run")


def test_a_flipped_bit_in_the_body_of_a_run_is_seen_when_it_is_looked_for():
    golden = golden_files()["index"]

    assert Run(memoryview(golden), "a").is_intact()
    for at in range(32, 32 + 48):
        damaged = golden[:at] + bytes([golden[at] ^ 1]) + golden[at + 1 :]
        assert not Run(memoryview(damaged), "a").is_intact()


def test_places_that_cannot_be_do_not_exist():
    digest = digest_of(b"abcd")
    golden = golden_files()["index"]

    for fmt, value in (("<I", 1), ("<I", 0xFFFFFFFF)):
        content = bytearray(golden)
        struct.pack_into(fmt, content, 64, value)
        assert list(Run(memoryview(content), "a").find(digest, word_of(digest))) == []
    for offset, fmt, value in ((68, "<I", 0), (68, "<I", HEAD_BYTES - 1), (68, "<I", 0xFFFFFFFF), (72, "<Q", 1 << 63)):
        content = bytearray(golden)
        struct.pack_into(fmt, content, offset, value)
        run = Run(memoryview(content), "a")
        assert list(run.find(digest, word_of(digest))) == []
        assert list(run.rows()) == []


@given(
    st.lists(st.lists(st.binary(min_size=1, max_size=2), max_size=30), max_size=4),
    st.lists(st.binary(min_size=1, max_size=3), max_size=30),
)
def test_a_run_finds_what_a_dict_finds(packs, others):
    """Digests here share words on purpose: 24 equal bytes at either end."""
    backend = MemoryBackend()
    expected: dict[bytes, list[tuple[str, int, int]]] = {}
    sealed_packs = []
    for number, tails in enumerate(packs):
        pack_id = f"{number:032x}"
        rows = [Row(crowded(tail), 32 + 200 * at, 110 + at) for at, tail in enumerate(tails)]
        for row in rows:
            expected.setdefault(row.digest, []).append((sealed_name(pack_id), row.offset, row.nbytes))
        sealed_packs.append(SealedPack(pack_id, 1 << 20, rows))

    run = Run(backend.view(write_run(backend, sealed_packs)), "a")

    for digest in [*expected, *map(crowded, others)]:
        assert list(run.find(digest, word_of(digest))) == expected.get(digest, [])
    assert sorted(row.digest for _, row in run.rows()) == sorted(d for d, places in expected.items() for _ in places)
    assert run.is_intact()


def crowded(tail: bytes) -> Digest:
    return Digest(tail.ljust(4, b"\0") + bytes(26) + tail[:1] + b"\0")


def test_a_note_with_anything_wrong_in_it_is_none():
    golden = golden_files()["store"]
    backend = MemoryBackend()
    damaged = [golden[:nbytes] for nbytes in range(len(golden))] + [golden + b"\0"]
    damaged += [golden[:at] + bytes([golden[at] ^ 1 << at % 8]) + golden[at + 1 :] for at in range(len(golden))]
    for number, content in enumerate(damaged):
        backend.create(f"retired/{number}.note", content)
    backend.create("retired/whole.note", golden)

    assert {read_note(backend, f"retired/{number}.note") for number in range(len(damaged))} == {None}
    whole = read_note(backend, "retired/whole.note")
    assert whole == RetirementNote("retired/whole.note", frozenset([GOLDEN_ID]), frozenset(["0" * 31 + "2"]))
    assert read_note(backend, "retired/gone.note") is None


def test_a_note_beyond_the_limit_is_none():
    backend = MemoryBackend()
    ids = [f"{number:032x}" for number in range(MAX_NOTE_IDS + 1)]
    longest, longer = write_note(backend, ids[:1], ids[1:-1]), write_note(backend, ids[:1], ids[1:])

    note = read_note(backend, longest)

    assert note is not None
    assert note.retired == {ids[0]}
    assert read_note(backend, longer) is None


def test_a_note_that_claims_more_packs_than_it_has_is_none():
    backend = MemoryBackend()
    body = struct.pack("<QQ", 1 << 60, 1 << 60)
    backend.create("retired/a.note", preamble(NOTE_MAGIC) + body + checksum_of(body))

    assert read_note(backend, "retired/a.note") is None
