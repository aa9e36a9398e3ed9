"""Stored bytes are hostile: whatever they say, decoding fails with our errors and takes no memory on their word."""

from __future__ import annotations

import os
import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.codecs import CODEC_NAMES, decode, encode
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError, UnsupportedError

HEADER = struct.Struct("<BBBBI")
GROUP = struct.Struct("<BBI")


def decode_to(codec: str, stored: bytes, raw_bytes: int, params: bytes = b"") -> bytes:
    out = bytearray(raw_bytes)
    decode(codec, params, stored, memoryview(out))
    return bytes(out)


def planes_of(
    groups: list[tuple[int, int, int]],
    data: bytes,
    width: int = 4,
    arrangement: int = 0,
    raw_bytes: int = 32,
    version: int = 0,
    group_count: int | None = None,
) -> bytes:
    count = len(groups) if group_count is None else group_count
    header = HEADER.pack(version, arrangement, width, count, raw_bytes)
    return header + b"".join(GROUP.pack(*group) for group in groups) + data


@pytest.fixture(scope="module")
def stored_by_codec() -> dict[str, tuple[bytes, int]]:
    rng = np.random.default_rng(1)
    weights = (rng.standard_normal(1100) * 0.02).astype(np.float32).tobytes() + b"xyz"
    text = b"some text that repeats, " * 9 + rng.bytes(40)
    coded = {"planes": encode(weights, "float32"), "zstd": encode(text, None)}
    assert [name for name, value in coded.items() if value.codec == name] == ["planes", "zstd"]
    return {
        "planes": (bytes(coded["planes"].stored), len(weights)),
        "zstd": (bytes(coded["zstd"].stored), len(text)),
        "literal": (text, len(text)),
    }


@pytest.mark.parametrize("codec", ["planes", "zstd", "literal"])
def test_every_truncation_is_refused(codec, stored_by_codec) -> None:
    stored, raw_bytes = stored_by_codec[codec]
    for length in range(len(stored)):
        with pytest.raises(MalformedError):
            decode_to(codec, stored[:length], raw_bytes)


@pytest.mark.parametrize("codec", ["planes", "zstd", "literal"])
def test_bytes_after_the_end_are_refused(codec, stored_by_codec) -> None:
    stored, raw_bytes = stored_by_codec[codec]
    for garbage in (b"\0", b"x" * 7, stored):
        with pytest.raises(MalformedError):
            decode_to(codec, stored + garbage, raw_bytes)


@pytest.mark.parametrize("codec", ["planes", "zstd", "literal"])
def test_another_raw_length_is_refused(codec, stored_by_codec) -> None:
    stored, raw_bytes = stored_by_codec[codec]
    for other in {0, 1, raw_bytes - 1, raw_bytes + 1, 2 * raw_bytes} - {raw_bytes}:
        with pytest.raises(MalformedError):
            decode_to(codec, stored, other)


@pytest.mark.parametrize("codec", ["planes", "zstd"])
def test_a_flipped_bit_is_an_error_of_ours_or_other_bytes_which_the_digest_tells(codec, stored_by_codec) -> None:
    stored, raw_bytes = stored_by_codec[codec]
    for position in range(min(len(stored), 200)):
        for bit in range(8):
            damaged = bytearray(stored)
            damaged[position] ^= 1 << bit
            try:
                decode_to(codec, bytes(damaged), raw_bytes)
            except (MalformedError, UnsupportedError):
                continue

    assert len(decode_to(codec, stored, raw_bytes)) == raw_bytes


@settings(max_examples=500, deadline=None)
@given(codec=st.sampled_from(CODEC_NAMES), stored=st.binary(max_size=120), raw_bytes=st.integers(0, 200))
def test_any_bytes_are_an_error_of_ours_or_decode(codec: str, stored: bytes, raw_bytes: int) -> None:
    try:
        decode_to(codec, stored, raw_bytes)
    except (MalformedError, UnsupportedError):
        pass


@settings(max_examples=500, deadline=None)
@given(
    width=st.sampled_from([1, 2, 4, 8]),
    arrangement=st.integers(0, 1),
    groups=st.lists(
        st.tuples(st.sampled_from([1, 1, 2, 4]), st.integers(0, 3), st.sampled_from([0, 1, 8, 16, 32])), max_size=8
    ),
    raw_bytes=st.sampled_from([0, 7, 8, 64, 67]),
    data=st.binary(max_size=90),
)
def test_any_header_of_planes_is_an_error_of_ours_or_decodes(width, arrangement, groups, raw_bytes, data) -> None:
    try:
        decode_to("planes", planes_of(groups, data, width, arrangement, raw_bytes), raw_bytes)
    except (MalformedError, UnsupportedError):
        pass


RAW, CONSTANT, ZSTD, CODES = 0, 1, 2, 3


@pytest.mark.parametrize(
    ("why", "payload"),
    [
        ("width 3", planes_of([(1, RAW, 8)], bytes(8), width=3)),
        ("width 0", planes_of([(1, RAW, 8)], bytes(8), width=0)),
        ("unknown arrangement", planes_of([(4, RAW, 32)], bytes(32), arrangement=2)),
        ("a byte has no exponent to go first", planes_of([(1, RAW, 32)], bytes(32), width=1, arrangement=1)),
        ("no groups", planes_of([], bytes(32))),
        ("more groups than bytes", planes_of([(1, CONSTANT, 1)] * 5, bytes(5))),
        ("groups cover too little", planes_of([(2, RAW, 16)], bytes(16))),
        ("groups cover too much", planes_of([(4, RAW, 32), (4, RAW, 32)], bytes(64))),
        ("a group of no bytes", planes_of([(0, RAW, 0), (4, RAW, 32)], bytes(32))),
        ("a group of three bytes", planes_of([(1, RAW, 8), (3, RAW, 24)], bytes(32))),
        ("a group at an odd byte", planes_of([(1, RAW, 8), (2, RAW, 16), (1, RAW, 8)], bytes(32))),
        ("a group with the exponent", planes_of([(2, RAW, 16), (2, RAW, 16)], bytes(32), arrangement=1)),
        ("a constant of two bytes", planes_of([(2, CONSTANT, 1), (2, RAW, 16)], bytes(17))),
        ("a coded group of two bytes", planes_of([(2, ZSTD, 7), (2, RAW, 16)], bytes(23))),
        ("codes of two bytes", planes_of([(2, CODES, 15), (2, RAW, 16)], bytes(31))),
        ("unknown coding", planes_of([(2, 4, 16), (2, RAW, 16)], bytes(32))),
        ("raw group too short", planes_of([(2, RAW, 15), (2, RAW, 16)], bytes(31))),
        ("constant of two values", planes_of([(1, CONSTANT, 2)] * 4, bytes(8))),
        ("frame no shorter than its plane", planes_of([(1, ZSTD, 8)] * 4, bytes(32))),
        ("stored length beyond the end", planes_of([(4, RAW, 1 << 31)], bytes(32))),
        ("raw length of 4 GiB", planes_of([(4, RAW, (1 << 32) - 4)], bytes(32), raw_bytes=(1 << 32) - 1)),
        ("group count beyond the end", planes_of([(4, RAW, 32)], b"", group_count=4)),
        ("a byte too many", planes_of([(4, RAW, 32)], bytes(33))),
    ],
)
def test_a_header_of_planes_that_breaks_a_rule_is_refused(why, payload) -> None:
    with pytest.raises(MalformedError):
        decode_to("planes", payload, 32)


def plane_frame(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(raw)


def codes_of(
    packed: bytes = b"\0" * 15 + b"\xe4", others: bytes = b"\7", other_count: int = 1, after: bytes = b"", zero: int = 0
) -> bytes:
    """Return a plane of 64 elements: 0 but for the last ones, which are 1, 2 and another."""
    frame = plane_frame(packed)
    stored = struct.pack("<II4B", other_count, len(frame), 0, 1, 2, zero) + frame
    stored += (plane_frame(others) if others else b"") + after
    return planes_of([(1, CODES, len(stored))], stored, width=1, raw_bytes=64)


def test_a_plane_of_codes_that_is_right_comes_back() -> None:
    assert decode_to("planes", codes_of(), 64) == bytes(61) + b"\1\2\7"
    assert decode_to("planes", codes_of(b"\0" * 16, b"", 0), 64) == bytes(64)


@pytest.mark.parametrize(
    "payload",
    [
        codes_of(other_count=0),
        codes_of(other_count=2),
        codes_of(other_count=(1 << 32) - 1),
        codes_of(others=b"", other_count=1),
        codes_of(others=b"\7\7"),
        codes_of(b"\0" * 16),
        codes_of(b"\0" * 16, b"", 0, after=b"x"),
        codes_of(after=b"x"),
        codes_of(b"\0" * 14 + b"\xe4"),
        codes_of(zero=1),
        planes_of([(1, CODES, 11)], bytes(11), width=1, raw_bytes=64),
        planes_of([(1, CODES, 20)], struct.pack("<II", 0, 1 << 31) + bytes(12), width=1, raw_bytes=64),
    ],
)
def test_a_plane_of_codes_that_breaks_a_rule_is_refused(payload) -> None:
    with pytest.raises(MalformedError):
        decode_to("planes", payload, 64)


def test_a_constant_plane_of_no_elements_is_refused() -> None:
    with pytest.raises(MalformedError):
        decode_to("planes", planes_of([(1, CONSTANT, 1)] * 4, b"abcdxyz", raw_bytes=3), 3)


def test_a_later_version_of_planes_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedError):
        decode_to("planes", planes_of([(4, RAW, 32)], bytes(32), version=1), 32)


def test_an_unknown_codec_and_unexpected_parameters_are_refused() -> None:
    with pytest.raises(UnsupportedError):
        decode_to("brotli", b"", 0)
    for codec in CODEC_NAMES:
        with pytest.raises(MalformedError):
            decode_to(codec, b"\0", 1, params=b"\0")


def test_a_pattern_has_one_to_sixteen_bytes_and_is_no_longer_than_what_it_fills() -> None:
    for stored, raw_bytes in [(b"", 5), (bytes(17), 100), (b"abc", 2), (b"a", 0)]:
        with pytest.raises(MalformedError):
            decode_to("constant", stored, raw_bytes)
    assert decode_to("constant", b"abc", 8) == b"abcabcab"


RAW_TEXT = bytes(range(64)) * 200


def frame_of(**parameters: object) -> bytes:
    return zstandard.ZstdCompressor(**parameters).compress(RAW_TEXT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("why", "frame"),
    [
        ("checksum", frame_of(write_checksum=True)),
        ("no content size", frame_of(write_content_size=False)),
        ("a dictionary", b"\x28\xb5\x2f\xfd\x61\x07" + struct.pack("<H", len(RAW_TEXT) - 256) + bytes(3)),
        ("skippable frame first", struct.pack("<II", 0x184D2A50, 4) + bytes(4) + frame_of()),
        ("two frames", frame_of() + frame_of()),
        ("no magic", b"\0" + frame_of()[1:]),
        ("a reserved block", b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", len(RAW_TEXT) - 256) + b"\x07\0\0"),
        ("fewer bytes than it says", b"\x28\xb5\x2f\xfd\x60" + struct.pack("<H", len(RAW_TEXT) - 256) + b"\x01\0\0"),
        ("more bytes than it says", b"\x28\xb5\x2f\xfd\x20\x10" + frame_of()[7:]),
        ("nothing", b""),
    ],
)
def test_a_frame_that_breaks_a_rule_is_refused(why, frame) -> None:
    with pytest.raises(MalformedError):
        decode_to("zstd", frame, len(RAW_TEXT))


def test_a_frame_of_no_bytes_is_refused() -> None:
    with pytest.raises(MalformedError):
        decode_to("zstd", zstandard.ZstdCompressor().compress(b""), 0)


def test_a_decoder_is_as_good_as_new_after_an_error() -> None:
    good = bytes(encode(RAW_TEXT, None).stored)
    damaged = good[:-9] + bytes([good[-9] ^ 0xFF]) + good[-8:]
    for _ in range(3):
        try:
            decode_to("zstd", damaged, len(RAW_TEXT))
        except MalformedError:
            pass

        assert decode_to("zstd", good, len(RAW_TEXT)) == RAW_TEXT


def peak_bytes_of(codec: str, stored: bytes, raw_bytes: int) -> int:
    out = memoryview(bytearray(raw_bytes))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError):
            decode(codec, b"", stored, out)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_huge_claims_take_no_memory() -> None:
    huge_frame = b"\x28\xb5\x2f\xfd\xc0\xff" + struct.pack("<Q", 1 << 62) + b"\x03\0\0"
    frame_in_plane = planes_of([(1, ZSTD, len(huge_frame))], huge_frame, width=1, raw_bytes=4096)
    one_window = b"\x28\xb5\x2f\xfd\x80\xff" + struct.pack("<I", 4096) + b"\x03\0\0a"
    claims = [
        ("zstd", huge_frame),
        ("zstd", one_window),
        ("planes", frame_in_plane),
        ("planes", planes_of([(1, RAW, (1 << 32) - 1)], b"", width=1, raw_bytes=(1 << 32) - 1)),
        ("planes", planes_of([(1, ZSTD, (1 << 32) - 1)], b"", width=1, raw_bytes=4096)),
    ]
    decode_to("planes", bytes(encode(np.arange(512, dtype="<u8").tobytes() * 2, "float64").stored), 8192)
    for codec, stored in claims:
        assert peak_bytes_of(codec, stored, 4096) < 64 << 10


def test_a_bomb_fills_no_more_than_what_was_allocated() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))

    assert peak_bytes_of("zstd", bomb, 4096) < 64 << 10


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_damage_in_the_middle_never_escapes_as_another_error(dtype) -> None:
    rng = np.random.default_rng(int.from_bytes(dtype.encode()[-2:], "little"))
    raw = (rng.standard_normal(2000) * 0.02).astype(np.float32).tobytes() + os.urandom(3)
    coded = encode(raw, dtype)
    for _ in range(40):
        damaged = bytearray(coded.stored)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            decode_to(coded.codec, bytes(damaged), len(raw))
        except (MalformedError, UnsupportedError):
            continue
