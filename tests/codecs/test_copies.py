"""Codec `copies`: any raw bytes and any bases come back; whatever else is stored is refused before a byte is copied."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.codecs import decode, encode, encode_copies
from thetastore.codecs.copies import MAX_PATCHES, MAX_RANGES, MIN_RANGE_BYTES, Patch, Range, Recipe, gaps, read_recipe
from thetastore.errors import MalformedError, UnsupportedError

HEADER = struct.Struct("<BBBBHHI")
BASE = bytes(range(256)) * 64


def payload_of(
    ranges: list[tuple[int, int, int, int]],
    patches: list[tuple[int, int]],
    literals: bytes = b"",
    raw_bytes: int = 8192,
    *,
    version: int = 0,
    codec: int = 0,
    zero: int = 0,
    zeros: int = 0,
) -> bytes:
    header = HEADER.pack(version, len(ranges), codec, zero, len(patches), zeros, raw_bytes)
    packed = [struct.pack("<IIII", *at) for at in ranges] + [struct.pack("<II", *patch) for patch in patches]
    return header + b"".join(packed) + literals


def decoded(stored: bytes, bases: list[bytes], raw_bytes: int = 8192) -> bytes:
    out = bytearray(b"\xa5" * raw_bytes)
    decode("copies", b"", stored, memoryview(out), bases)
    return bytes(out)


@st.composite
def recipes(draw: st.DrawFn) -> tuple[bytes, Recipe, list[bytes], str | None]:
    """Any valid recipe, and raw bytes that it fits."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    bases = [rng.bytes(draw(st.integers(MIN_RANGE_BYTES, 20_000))) for _ in range(draw(st.integers(1, 4)))]
    raw = bytearray()
    ranges = []
    for number in [*range(len(bases)), *draw(st.lists(st.integers(0, len(bases) - 1), max_size=4))]:
        raw += rng.bytes(draw(st.sampled_from([0, 0, 1, 100, 5000])))
        base = bases[number]
        nbytes = draw(st.integers(MIN_RANGE_BYTES, len(base)))
        start = draw(st.integers(0, len(base) - nbytes))
        ranges.append(Range(len(raw), nbytes, number, start))
        raw += base[start : start + nbytes]
    raw += rng.bytes(draw(st.sampled_from([0, 3, 5000])))
    needed = list(gaps(((at.start, at.start + at.nbytes) for at in ranges), len(raw)))
    extra = draw(st.lists(st.integers(0, len(raw) - 1), max_size=20))
    for start in extra:
        raw[start] ^= 1
    covered = np.zeros(len(raw) + 2, bool)
    for start, stop in [*needed, *((start, start + 1) for start in extra)]:
        covered[start + 1 : stop + 1] = True
    edges = np.flatnonzero(np.diff(covered)).tolist()
    patches = [Patch(start, stop - start) for start, stop in zip(edges[0::2], edges[1::2], strict=True)]
    dtype = draw(st.sampled_from([None, "float32", "bfloat16", "uint8"]))
    return bytes(raw), Recipe(tuple(ranges), tuple(patches)), bases, dtype


@settings(max_examples=150, deadline=None)
@given(recipes())
def test_any_recipe_gives_the_raw_bytes_again(example) -> None:
    raw, recipe, bases, dtype = example
    coded = encode_copies(raw, recipe, dtype)

    if coded is None:
        assert sum(patch.nbytes for patch in recipe.patches) + 16 * 12 + 8 * 40 > len(raw) - 4 * MIN_RANGE_BYTES
    else:
        assert coded.codec == "copies"
        assert coded.params == b""
        assert len(coded.stored) < len(raw)
        assert decoded(coded.stored, bases, len(raw)) == raw
        assert read_recipe(memoryview(coded.stored), len(raw))[1] == recipe


@settings(max_examples=100, deadline=None)
@given(recipes(), st.data())
def test_a_damaged_payload_is_refused_or_gives_as_many_bytes(example, data) -> None:
    raw, recipe, bases, dtype = example
    coded = encode_copies(raw, recipe, dtype)
    if coded is None:
        return
    stored = bytearray(coded.stored)
    for _ in range(20):
        at = data.draw(st.integers(0, min(len(stored), 12 + 16 * 9 + 8 * 30) - 1))
        damaged = stored.copy()
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        try:
            assert len(decoded(bytes(damaged), bases, len(raw))) == len(raw)
        except (MalformedError, UnsupportedError):
            continue


@settings(max_examples=300, deadline=None)
@given(
    stored=st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda rest: HEADER.pack(0, 1, 0, 0, 0, 0, 8192) + rest),
    bases=st.lists(st.sampled_from([b"", BASE]), max_size=3),
)
def test_any_bytes_are_refused_or_decode(stored: bytes, bases: list[bytes]) -> None:
    try:
        decoded(stored, bases)
    except (MalformedError, UnsupportedError):
        pass


def test_copies_keep_the_type_of_the_literals() -> None:
    weights = (np.random.default_rng(1).standard_normal(4096) * 0.02).astype("<f4").tobytes()
    raw = weights + BASE
    recipe = Recipe((Range(len(weights), len(BASE), 0, 0),), (Patch(0, len(weights)),))

    coded = encode_copies(raw, recipe, "float32")

    assert coded is not None
    assert len(coded.stored) < len(encode(weights, "float32").stored) + 64
    assert coded.stored[2] == 3  # planes


def test_copies_that_save_nothing_are_not_made() -> None:
    noise = np.random.default_rng(1).bytes(1 << 20)
    raw = BASE[:MIN_RANGE_BYTES] + noise
    patches = tuple(Patch(start, 1) for start in range(0, MIN_RANGE_BYTES, 2))[:255]
    recipe = Recipe((Range(0, MIN_RANGE_BYTES, 0, 0),), (*patches, Patch(MIN_RANGE_BYTES, len(noise))))

    assert encode_copies(raw, recipe, None) is not None
    assert encode_copies(noise, Recipe((Range(0, MIN_RANGE_BYTES, 0, 0),), (Patch(0, len(noise)),)), None) is None


WHOLE = [(0, 8192, 0, 0)]

VALID = {
    "one range": payload_of(WHOLE, []),
    "two ranges that touch": payload_of([(0, 4096, 0, 0), (4096, 4096, 0, 0)], []),
    "a patch over a range": payload_of(WHOLE, [(5, 3)], b"abc"),
    "patches at both ends": payload_of([(2000, 4096, 0, 12288)], [(0, 2000), (6096, 2096)], b"x" * 4096),
    "a constant patch": payload_of(WHOLE, [(0, 8192)], b"x", codec=1),
    "as many ranges as may be": payload_of([(4096 * n, 4096, 0, n) for n in range(MAX_RANGES)], [], b"", 65536),
    "as many patches as may be": payload_of(WHOLE, [(2 * n, 1) for n in range(MAX_PATCHES)], b"y" * MAX_PATCHES),
}


@pytest.mark.parametrize("name", VALID)
def test_what_keeps_to_the_rules_decodes(name) -> None:
    decoded(VALID[name], [BASE], int.from_bytes(VALID[name][8:12], "little"))


MALFORMED = {
    "no range": payload_of([], [(0, 8192)], b"x" * 8192),
    "too many ranges": payload_of([(4096 * n, 4096, 0, n) for n in range(17)], [], b"", 17 * 4096),
    "too many patches": payload_of(WHOLE, [(2 * n, 1) for n in range(257)], b"y" * 257),
    "a literal codec that is none": payload_of(WHOLE, [(0, 1)], b"x", codec=4),
    "a reserved byte": payload_of(WHOLE, [], zero=1),
    "reserved bytes": payload_of(WHOLE, [], zeros=1),
    "another raw length": payload_of(WHOLE, [], raw_bytes=8191),
    "a short range": payload_of([(0, 4095, 0, 0)], [(4095, 4097)], b"x" * 4097),
    "an empty range": payload_of([*WHOLE, (8192, 0, 0, 0)], []),
    "overlapping ranges": payload_of([(0, 4097, 0, 0), (4096, 4096, 0, 0)], []),
    "ranges out of order": payload_of([(4096, 4096, 0, 0), (0, 4096, 0, 0)], []),
    "a range beyond the raw bytes": payload_of([(0, 8193, 0, 0)], []),
    "a range that wraps around": payload_of([(0xFFFFFFFF, 0xFFFFFFFF, 0, 0)], [(0, 8192)], b"x" * 8192),
    "a range beyond its base": payload_of([(0, 8192, 0, 8193)], []),
    "a range from beyond its base": payload_of([(0, 8192, 0, 0xFFFFFFFF)], []),
    "a base that is not there": payload_of([(0, 8192, 1, 0)], []),
    "an empty patch": payload_of(WHOLE, [(5, 0)]),
    "patches that touch": payload_of(WHOLE, [(5, 1), (6, 1)], b"xy"),
    "patches out of order": payload_of(WHOLE, [(9, 1), (5, 1)], b"xy"),
    "overlapping patches": payload_of(WHOLE, [(5, 9), (6, 20)], b"x" * 29),
    "a patch beyond the raw bytes": payload_of(WHOLE, [(8191, 2)], b"xy"),
    "a patch that wraps around": payload_of(WHOLE, [(1, 0xFFFFFFFF)], b"xy"),
    "a gap at the beginning": payload_of([(1, 8191, 0, 0)], []),
    "a gap at the end": payload_of([(0, 8191, 0, 0)], []),
    "a gap between": payload_of([(0, 4096, 0, 0), (4097, 4095 + 1, 0, 0)], [], b"", 8193),
    "a gap half patched": payload_of([(0, 4096, 0, 0)], [(4096, 4095)], b"x" * 4095),
    "a gap patched too late": payload_of([(0, 4096, 0, 0)], [(4097, 4095)], b"x" * 4095),
    "too few literals": payload_of(WHOLE, [(0, 2)], b"x"),
    "bytes after the literals": payload_of(WHOLE, [(0, 2)], b"xyz"),
    "literals without patches": payload_of(WHOLE, [], b"x"),
    "a constant without patches": payload_of(WHOLE, [], b"x", codec=1),
    "no literals": payload_of(WHOLE, [(0, 2)]),
    "a zstd frame that is none": payload_of(WHOLE, [(0, 2)], b"xyz", codec=2),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_breaks_a_rule_is_refused(name) -> None:
    stored = MALFORMED[name]
    raw_bytes = 8192 if name == "another raw length" else int.from_bytes(stored[8:12], "little")

    with pytest.raises(MalformedError):
        decoded(stored, [BASE], raw_bytes)


@pytest.mark.parametrize("name", VALID)
def test_every_truncation_and_every_addition_is_refused(name) -> None:
    stored = VALID[name]
    raw_bytes = int.from_bytes(stored[8:12], "little")
    for length in range(0, len(stored), max(1, len(stored) // 300)):
        with pytest.raises(MalformedError):
            decoded(stored[:length], [BASE], raw_bytes)
    if stored[2] == 0:
        with pytest.raises(MalformedError):
            decoded(stored + b"\0", [BASE], raw_bytes)


def test_bases_are_as_many_as_are_used() -> None:
    for bases in ([], [BASE, BASE], [BASE] * 17, [BASE[:8191]]):
        with pytest.raises(MalformedError):
            decoded(VALID["one range"], bases)


def test_a_later_version_asks_for_an_upgrade() -> None:
    with pytest.raises(UnsupportedError):
        decoded(payload_of(WHOLE, [], version=1), [BASE])


def test_a_hostile_payload_takes_no_memory() -> None:
    huge = [payload_of([(0, 1 << 31, 0, 0)], [(0, 0xFFFFFFFF)]), payload_of(WHOLE, [(0, 0xFFFFFFF0)], b"x", codec=1)]
    tracemalloc.start()
    try:
        for stored in huge:
            with pytest.raises(MalformedError):
                decoded(stored, [BASE])
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 200_000


def mutated(stored: bytes, rng: np.random.Generator) -> bytes:
    """Return a payload with a few bytes, numbers or lengths changed."""
    made = bytearray(stored)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(made)))
        match int(rng.integers(0, 4)):
            case 0:
                made[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                field = at // 4 * 4
                value = rng.choice([0, 1, 4095, 4096, 8192, 0x7FFFFFFF, 0xFFFFFFFF])
                made[field : field + 4] = int(value).to_bytes(4, "little")
            case 2:
                del made[at:]
                made += rng.bytes(int(rng.integers(1, 9)))
            case 3:
                made[at:at] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(made)


def fuzz(rounds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = list(VALID)
    for _ in range(rounds):
        stored = VALID[names[int(rng.integers(0, len(names)))]]
        raw_bytes = int.from_bytes(stored[8:12], "little")
        try:
            decoded(mutated(stored, rng), [BASE], raw_bytes)
        except (MalformedError, UnsupportedError):
            continue


def test_mutations_are_refused_or_decode() -> None:
    fuzz(2000, 1)


@pytest.mark.deep
def test_very_many_mutations_are_refused_or_decode() -> None:
    for seed in range(2, 32):
        fuzz(10_000, seed)
