"""Stored differences are hostile: decoding fails with our errors, and takes no memory on their word."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.codecs import decode, encode_difference, ordered
from thetastore.errors import MalformedError, UnsupportedError

RAW_BYTES = 4003
DENSE, SPARSE, ORDERED, ORDERED_OF_MATRIX = 0, 1, 2, 3
BITMAP, GAPS, BITMAP_ZSTD = 0, 1, 2
PLANES = struct.Struct("<BBBBI")
GROUP = struct.Struct("<BBI")


def base_bytes(raw_bytes: int = RAW_BYTES) -> bytes:
    return np.random.default_rng(7).bytes(raw_bytes)


def decode_to(stored: bytes, base: bytes, raw_bytes: int | None = None) -> bytes:
    out = bytearray(len(base) if raw_bytes is None else raw_bytes)
    decode("difference", b"", stored, memoryview(out), [base])
    return bytes(out)


@pytest.fixture(scope="module")
def stored_by_layout() -> dict[str, bytes]:
    base = np.frombuffer(base_bytes(), np.uint8)
    rng = np.random.default_rng(8)
    made = {}
    for name, share in (("gaps", 0.01), ("bitmap", 0.46), ("bitmap in a frame", 0.2), ("dense", 1.0)):
        raw = base.copy()
        words = raw[: RAW_BYTES // 2 * 2].view("<u2")
        words += ((rng.random(words.size) < share) * rng.integers(1, 4, words.size)).astype("<u2")
        raw[-1] ^= 1
        coded = encode_difference(raw, base, "bfloat16")
        assert coded is not None
        made[name] = bytes(coded.stored)
        assert decode_to(made[name], base.tobytes()) == raw.tobytes()
    made["ordered"] = made_in_order(base.tobytes(), rng)
    made["rows in order"] = made_in_order(base.tobytes(), rng, 23)
    assert [stored[1] for stored in made.values()] == [SPARSE, SPARSE, SPARSE, DENSE, ORDERED, ORDERED_OF_MATRIX]
    assert [stored[3] for stored in made.values()] == [GAPS, BITMAP, BITMAP_ZSTD, 0, 7, 7]
    return made


def made_in_order(base: bytes, rng: np.random.Generator, columns: int = 0) -> bytes:
    """Code changes of most elements of low exponents, and of few of high ones; with columns, of a third of the rows."""
    words = np.frombuffer(base, "<u2", RAW_BYTES // 2)
    steps = rng.choice(np.array([1, 0xFFFF, 7], "<u2"), words.size)
    differs = rng.random(words.size) < np.where((words & 0x7FFF) < 0x2000, 0.7, 0.01)
    if columns:
        differs &= (rng.random(words.size // columns) < 0.3).repeat(columns)
    differences = (steps * differs).astype("<u2")
    part = ordered.part_of(differences, differs, words, columns)
    of_matrix, stored = ordered.encode(part, int(differs.sum()), 7, memoryview(b"!"), RAW_BYTES)
    payload = bytes((0, ORDERED_OF_MATRIX if of_matrix else ORDERED, 2, 7)) + bytes(stored)
    assert decode_to(payload, base) == (words + differences).tobytes() + b"!"
    return payload


LAYOUTS = ["gaps", "bitmap", "bitmap in a frame", "dense", "ordered", "rows in order"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_truncation_is_refused(name, stored_by_layout) -> None:
    stored = stored_by_layout[name]
    for length in range(len(stored)):
        with pytest.raises(MalformedError):
            decode_to(stored[:length], base_bytes())


@pytest.mark.parametrize("name", LAYOUTS)
def test_bytes_after_the_end_are_refused(name, stored_by_layout) -> None:
    for garbage in (b"\0", b"x" * 7, stored_by_layout[name]):
        with pytest.raises(MalformedError):
            decode_to(stored_by_layout[name] + garbage, base_bytes())


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_base_or_a_chunk_of_another_length_is_refused(name, stored_by_layout) -> None:
    for length in (0, 1, RAW_BYTES - 1, RAW_BYTES + 1, 2 * RAW_BYTES):
        with pytest.raises(MalformedError):
            decode_to(stored_by_layout[name], base_bytes(length), RAW_BYTES)
        with pytest.raises(MalformedError):
            decode_to(stored_by_layout[name], base_bytes(), length)
        with pytest.raises(MalformedError):
            decode_to(stored_by_layout[name], base_bytes(length), length)


def test_another_number_of_bases_is_refused(stored_by_layout) -> None:
    out = memoryview(bytearray(RAW_BYTES))
    for bases in ([], [base_bytes()] * 2):
        with pytest.raises(MalformedError, match="1 base"):
            decode("difference", b"", stored_by_layout["dense"], out, bases)
    with pytest.raises(MalformedError, match="0 bases"):
        decode("literal", b"", bytes(RAW_BYTES), out, [base_bytes()])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_flipped_bit_is_an_error_of_ours_or_other_bytes_which_the_digest_tells(name, stored_by_layout) -> None:
    stored = stored_by_layout[name]
    for position in [*range(min(len(stored), 120)), *range(120, len(stored), 37)]:
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[position] ^= 1 << bit
            try:
                decode_to(bytes(damaged), base_bytes())
            except (MalformedError, UnsupportedError):
                continue

    assert len(decode_to(stored, base_bytes())) == RAW_BYTES


def planes_of(raw_bytes: int, groups: list[tuple[int, int, int]], data: bytes, width: int = 1) -> bytes:
    return PLANES.pack(0, 0, width, len(groups), raw_bytes) + b"".join(GROUP.pack(*group) for group in groups) + data


def raw_planes(data: bytes, width: int = 1) -> bytes:
    """Return planes that store `data` as it is, for elements of 1 byte, or of `width` whose bytes lie together."""
    return planes_of(len(data), [(width, 0, len(data) // width * width)], data, width)


def sparse(
    changed_count: int, coding: int, places: bytes, digits: bytes, raw_bytes: int = 16, places_bytes: int | None = None
) -> bytes:
    length = len(places) if places_bytes is None else places_bytes
    return struct.pack("<BBBBIII", 0, SPARSE, 1, coding, raw_bytes, changed_count, length) + places + digits


def frame_of(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(raw)


def in_order(
    mantissa_bits: int = 7,
    raw_bytes: int = 16,
    head: int = 3,
    named: int = 2,
    others: int = 1,
    codes: bytes | None = b"\x39\1",
    gaps: bytes = b"\0\3",
    digits: bytes = raw_planes(b"\x85\0", 2),
    columns: int = 0,
    rows: bytes = b"",
    directions: bytes = b"",
) -> bytes:
    """Return a payload of eight elements: less, digits, more; the last one less too."""
    code_frame = frame_of(codes) if codes is not None else b"\x39\1"
    of_matrix = bool(columns or rows)
    fields = struct.pack(
        "<BBBBIIIIIII",
        0,
        ORDERED_OF_MATRIX if of_matrix else ORDERED,
        2,
        mantissa_bits,
        raw_bytes,
        head,
        named,
        others,
        len(gaps),
        len(code_frame),
        len(frame_of(gaps)),
    )
    fields += struct.pack("<II", columns, len(rows)) if of_matrix else b""
    return fields + rows + directions + code_frame + frame_of(gaps) + digits


TWO_GAPS = raw_planes(struct.pack("<II", 3, 5), 4)
TWO = raw_planes(b"\1\2")


def test_payloads_made_here_are_right_where_they_are_not_made_wrong() -> None:
    changed = b"\0\0\0\1\0\0\0\0\0\2" + bytes(6)
    assert decode_to(sparse(2, GAPS, TWO_GAPS, TWO), bytes(16)) == changed
    assert decode_to(sparse(2, BITMAP, b"\x08\x02", TWO), bytes(16)) == changed
    assert decode_to(b"\0\0\1\0" + raw_planes(changed), bytes(16)) == changed
    assert decode_to(in_order(), bytes(16)) == struct.pack("<8H", 0xFFFF, 5, 1, 0, 0, 0, 0, 0xFFFF)
    turned = struct.pack("<8H", 1, 5, 0xFFFF, 0, 0, 0, 0, 0xFFFF)  # row 0 and column 1
    assert decode_to(in_order(columns=4, directions=b"\x09"), bytes(16)) == turned
    twice = in_order(raw_bytes=32, columns=4, rows=b"\1\1", directions=b"\x09")
    assert decode_to(twice, bytes(32)) == bytes(8) + turned[:8] + bytes(8) + turned[8:]
    assert decode_to(sparse(0, BITMAP, bytes(2), planes_of(0, [(1, 0, 0)], b"")), bytes(16)) == bytes(16)


@pytest.mark.parametrize(
    ("why", "payload"),
    [
        ("nothing", b""),
        ("unknown layout", b"\0\4\1\0" + raw_planes(bytes(16))),
        ("bytes in order", b"\0\2\1\7" + in_order()[4:]),
        ("exponents of 9 bits", in_order(mantissa_bits=6)),
        ("no exponents", in_order(mantissa_bits=15)),
        ("another raw length in order", in_order(raw_bytes=15)),
        ("codes of more elements than there are", in_order(head=9)),
        ("more elements named than there are", in_order(named=6)),
        ("fewer elements named than gaps have", in_order(named=1)),
        ("more digits than codes", in_order(others=6)),
        ("other digits than codes say", in_order(others=0, digits=raw_planes(b"", 2))),
        ("gaps longer than elements", in_order(gaps=b"\0\0\xff")),
        ("a gap beyond the end of the order", in_order(gaps=b"\0\4")),
        ("gaps that end with an escape", in_order(gaps=b"\0\xff")),
        ("codes that are no frame", in_order(codes=None)),
        ("codes of another length", in_order(codes=b"\x39\1\0")),
        ("digits of another width in order", in_order(digits=raw_planes(b"\5"))),
        ("columns that are no part of the elements", in_order(columns=3, directions=b"\0")),
        ("more columns than elements", in_order(columns=16, directions=bytes(3))),
        ("rows without columns", in_order(rows=b"\0\0")),
        ("a row beyond the last", in_order(columns=4, rows=b"\0\1", directions=b"\x09")),
        ("rows that end with an escape", in_order(columns=4, rows=b"\0\0\xff", directions=b"\x09")),
        ("fewer rows than elements are named in", in_order(columns=4, rows=b"\0", directions=b"\x01")),
        ("no directions", in_order(columns=4)),
        ("directions of no column", in_order(columns=4, directions=b"\x49")),
        ("width 3", b"\0\0\3\0" + raw_planes(bytes(16))),
        ("width 0", b"\0\0\0\0" + raw_planes(bytes(16))),
        ("a fourth byte in a dense one", b"\0\0\1\1" + raw_planes(bytes(16))),
        ("planes of another width", b"\0\0\2\0" + raw_planes(bytes(16))),
        ("planes of another raw length", b"\0\0\1\0" + raw_planes(bytes(15))),
        ("digits of another width", sparse(2, BITMAP, b"\x08\x02", raw_planes(b"\1\2", 2))),
        ("unknown coding of places", sparse(2, 3, b"\x08\x02", TWO)),
        ("too few bits", sparse(2, BITMAP, b"\x08\x00", TWO)),
        ("too many bits", sparse(2, BITMAP, b"\x08\x03", TWO)),
        ("a bitmap too long", sparse(2, BITMAP, b"\x08\x02\0", TWO)),
        ("a bitmap too short", sparse(1, BITMAP, b"\x08", raw_planes(b"\1"))),
        ("an empty bitmap", sparse(0, BITMAP, b"", planes_of(0, [(1, 0, 0)], b""))),
        ("a bitmap that is no frame", sparse(2, BITMAP_ZSTD, b"\x08\x02", TWO)),
        ("another raw length", sparse(2, GAPS, TWO_GAPS, TWO, raw_bytes=15)),
        ("more digits than places", sparse(2, GAPS, TWO_GAPS, raw_planes(b"\1\2\3"))),
        ("more elements than there are", sparse(17, BITMAP, b"\xff\xff", raw_planes(bytes(17)))),
        (
            "too many elements for gaps",
            sparse(3, GAPS, raw_planes(struct.pack("<III", 1, 1, 1), 4), raw_planes(bytes(3))),
        ),
        ("a gap beyond the end", sparse(2, GAPS, raw_planes(struct.pack("<II", 3, 12), 4), TWO)),
        ("a gap of 4 Gi", sparse(2, GAPS, raw_planes(b"\xff" * 8, 4), TWO)),
        ("other gaps than elements", sparse(2, GAPS, raw_planes(struct.pack("<I", 3), 4), TWO)),
        ("places beyond the end", sparse(2, GAPS, TWO_GAPS, TWO, places_bytes=(1 << 32) - 1)),
        ("places up to the end", sparse(2, GAPS, TWO_GAPS, TWO, places_bytes=len(TWO_GAPS + TWO))),
        ("places that end too early", sparse(2, GAPS, TWO_GAPS, TWO, places_bytes=len(TWO_GAPS) - 1)),
    ],
)
def test_a_payload_that_breaks_a_rule_is_refused(why, payload) -> None:
    with pytest.raises(MalformedError):
        decode_to(payload, bytes(16))


def test_a_bit_after_the_last_element_is_refused() -> None:
    with pytest.raises(MalformedError):
        decode_to(sparse(1, BITMAP, b"\0\x80", raw_planes(b"\1"), raw_bytes=15), bytes(15))


def test_a_later_version_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedError):
        decode_to(b"\1\0\1\0" + raw_planes(bytes(16)), bytes(16))


@settings(max_examples=500, deadline=None)
@given(
    header=st.tuples(st.integers(0, 1), st.integers(0, 4), st.sampled_from([1, 2, 4, 8, 3]), st.integers(0, 8)),
    counts=st.tuples(st.sampled_from([16, 0, 15]), st.integers(0, 18), st.integers(0, 60)),
    pieces=st.lists(
        st.sampled_from([TWO_GAPS, TWO, b"\x08\x02", raw_planes(bytes(16)), raw_planes(bytes(2), 2), b"\0\xff"]),
        max_size=3,
    ),
    noise=st.binary(max_size=30),
)
def test_any_payload_is_an_error_of_ours_or_decodes(header, counts, pieces, noise) -> None:
    payload = struct.pack("<BBBBIII", *header, *counts) + b"".join(pieces) + noise
    for attempt in (payload, payload[:4] + payload[16:], noise):
        try:
            decode_to(attempt, bytes(16))
        except (MalformedError, UnsupportedError):
            continue


def test_huge_claims_take_no_memory() -> None:
    claims = [
        sparse((1 << 32) - 1, GAPS, TWO_GAPS, TWO, raw_bytes=4096),
        sparse((1 << 32) - 1, BITMAP, bytes(512), TWO, raw_bytes=(1 << 32) - 1),
        sparse(512, GAPS, raw_planes(bytes(8), 4), TWO, raw_bytes=4096),
        sparse(
            2, BITMAP_ZSTD, b"\x28\xb5\x2f\xfd\xc0\xff" + struct.pack("<Q", 1 << 62) + b"\3\0\0", TWO, raw_bytes=4096
        ),
        in_order(raw_bytes=4096, head=(1 << 32) - 1),
        in_order(raw_bytes=4096, columns=1, directions=bytes(64)),
        in_order(raw_bytes=4096, columns=1, rows=bytes(2048) + b"\xff"),
        in_order(raw_bytes=4096, named=(1 << 32) - 1),
        in_order(raw_bytes=4096, others=(1 << 32) - 1),
        in_order(raw_bytes=(1 << 32) - 1),
        b"\0\0\1\0" + planes_of((1 << 32) - 1, [(1, 0, (1 << 32) - 1)], b""),
    ]
    base, out = bytes(4096), memoryview(bytearray(4096))
    tracemalloc.start()
    try:
        for payload in claims:
            with pytest.raises(MalformedError):
                decode("difference", b"", payload, out, [base])
        assert tracemalloc.get_traced_memory()[1] < 256 << 10
    finally:
        tracemalloc.stop()


def test_a_decoder_is_as_good_as_new_after_an_error(stored_by_layout) -> None:
    for name in LAYOUTS:
        good = stored_by_layout[name]
        expected = decode_to(good, base_bytes())
        with pytest.raises(MalformedError):
            decode_to(good[:-9], base_bytes())

        assert decode_to(good, base_bytes()) == expected
