"""Manifests as bytes: docs/format/manifest.md."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from thetastore.digest import Digest, Kind, digest_of
from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.layout import MAX_AMPLIFICATION, contiguous_strides
from thetastore.manifest import (
    INLINE_CHUNKS,
    MAX_PAGES,
    OLDEST_VERSION,
    PAGE_MAX_CHUNKS,
    PAGE_MIN_CHUNKS,
    VERSION,
    Chunk,
    Manifest,
    PageRef,
    Tensor,
    encode_manifest,
    encode_page,
    paginate,
    parse_manifest,
    parse_page,
)

DOCUMENT = Path(__file__).parents[2] / "docs/format/manifest.md"

digests = st.binary(min_size=32, max_size=32).map(Digest)
chunk_lists = st.lists(st.builds(Chunk, st.integers(1, 2 << 20), digests), max_size=20).map(tuple)


@st.composite
def manifests(draw):
    chunks = draw(chunk_lists)
    file_bytes = sum(chunk.raw_bytes for chunk in chunks)
    tensors = []
    for name in sorted(draw(st.sets(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=5))):
        dtype = draw(st.sampled_from([d for d in sorted(DTYPES) if DTYPES[d].bits >= 8 and DTYPES[d].kind != "block"]))
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        room = file_bytes - raw_bytes_of(dtype, 125)
        if room >= 0:
            strides = contiguous_strides(shape[::-1])[::-1] if draw(st.booleans()) else None
            tensors.append(Tensor(name, dtype, shape, draw(st.integers(0, room)), strides, draw(digests)))
    assume(sum(tensor.raw_bytes for tensor in tensors) <= MAX_AMPLIFICATION * file_bytes)
    version = draw(st.sampled_from([OLDEST_VERSION, VERSION]))
    layout_version = draw(st.integers(0, 65535))
    return Manifest("some-format", layout_version, file_bytes, draw(digests), tuple(tensors), chunks, version=version)


def abcd() -> Manifest:
    digest = digest_of(b"abcd")
    return Manifest("opaque", 1, 4, digest, (), (Chunk(4, digest),))


@given(manifests())
def test_a_manifest_comes_back_from_its_bytes(manifest):
    assert parse_manifest(encode_manifest(manifest)) == manifest


@given(manifests(), st.data())
def test_a_manifest_that_is_cut_or_lengthened_is_refused(manifest, data):
    raw = encode_manifest(manifest)
    cut = data.draw(st.integers(0, len(raw) - 1))

    for damaged in (raw[:cut], raw + b"\0"):
        with pytest.raises((MalformedError, UnsupportedError)):
            parse_manifest(damaged)


@given(manifests(), st.data())
def test_whatever_is_accepted_has_one_encoding(manifest, data):
    raw = bytearray(encode_manifest(manifest))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8

    try:
        parsed = parse_manifest(bytes(raw))
    except (MalformedError, UnsupportedError):
        return
    assert encode_manifest(parsed) == raw


def test_the_example_dumps_of_the_document_are_what_the_code_writes():
    raw = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    chunks = (Chunk(8, digest_of(b"HEADERS!")), Chunk(8, digest_of(raw)))
    tensor = Tensor("w", "float32", (2, 1), 8, None, digest_of(raw))
    small = Manifest("safetensors", 1, 16, digest_of(b"HEADERS!" + raw), (tensor,), chunks)
    written = [
        (encode_manifest(abcd()), Kind.MANIFEST),
        (encode_manifest(small), Kind.MANIFEST),
        (encode_page(abcd().chunks), Kind.PAGE),
    ]
    text = DOCUMENT.read_text()
    dumps = re.findall(r"(?m)((?:^    [0-9a-f]{4}  .*\n)+)\nIts digest is `([0-9a-f]{64})`", text)

    documented = [
        (bytes.fromhex("".join(line[10:] for line in dump.splitlines())), Digest.parse(digest))
        for dump, digest in dumps
    ]

    assert documented == [(stored, digest_of(stored, kind)) for stored, kind in written]


@pytest.mark.parametrize(
    ("offset", "field"),
    [(0, b"XXXX"), (8, struct.pack("<Q", 5)), (50, b"\0"), (51, b"\1"), (52, b"\xff\xff\xff\xff")],
    ids=["magic", "file length", "no format name", "reserved", "four billion tensors"],
)
def test_a_root_with_a_wrong_field_is_refused(offset, field):
    raw = bytearray(encode_manifest(abcd()))
    raw[offset : offset + len(field)] = field

    with pytest.raises(MalformedError):
        parse_manifest(bytes(raw))


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [(4, 2, "version 2"), (5, 1, "version 257"), (6, 2, "version 1 with flags 0x2"), (7, 1, "with flags 0x100")],
)
def test_what_a_newer_version_may_say_is_not_called_damaged(offset, value, words):
    raw = bytearray(encode_manifest(abcd()))
    raw[offset] = value

    with pytest.raises(UnsupportedError, match=f"{words}:.*a newer one is needed"):
        parse_manifest(bytes(raw))


def test_an_element_type_of_a_newer_version_is_not_called_damaged():
    tensor = Tensor("w", "float32", (1,), 0, None, digest_of(b"abcd"))
    raw = encode_manifest(abcd()._replace(tensors=(tensor,)))

    with pytest.raises(UnsupportedError, match="element type 'float99'.*a newer one is needed"):
        parse_manifest(raw.replace(b"float32", b"float99"))
    with pytest.raises(MalformedError, match="unknown dtype"):
        parse_manifest(raw.replace(b"float32", b"FLOAT32"))
    newer = bytearray(raw)
    newer[60 + 6 + 36 + 4] = 2  # flags of the tensor
    with pytest.raises(UnsupportedError, match="a tensor with flags 0x2"):
        parse_manifest(newer)


def test_what_the_draft_wrote_is_read_and_keeps_its_name():
    draft = abcd()._replace(version=0, layout_version=0)

    parsed = parse_manifest(encode_manifest(draft))

    assert parsed == draft
    assert str(digest_of(encode_manifest(parsed), Kind.MANIFEST)) == (
        "d28cde449b2829414ad8b4113578539fc0cff29f23fdcb1190405d9de72bd462"
    )
    ref = PageRef(4, 1, digest_of(b""))
    assert parse_page(encode_page(abcd().chunks, 0), ref) == parse_page(encode_page(abcd().chunks), ref)


@pytest.mark.parametrize("length", [0, (2 << 20) + 1])
def test_an_empty_or_endless_chunk_is_refused(length):
    manifest = abcd()._replace(file_bytes=length, chunks=(Chunk(length, digest_of(b"")),))

    with pytest.raises(MalformedError, match="chunk"):
        parse_manifest(encode_manifest(manifest))


def test_tensors_outside_of_the_file_and_in_wrong_order_are_refused():
    tensors = (Tensor("b", "uint8", (4,), 0, None, digest_of(b"")), Tensor("a", "uint8", (4,), 0, None, digest_of(b"")))
    outside = (Tensor("b", "uint8", (4,), 1, None, digest_of(b"")),)

    for wrong in (tensors, outside, (tensors[0], tensors[0])):
        with pytest.raises(MalformedError):
            parse_manifest(encode_manifest(abcd()._replace(tensors=wrong)))


@pytest.mark.parametrize(
    "tensors",
    [
        (Tensor("a", "uint8", (2**61,), 0, (0,), digest_of(b"")),),
        (Tensor("a", "uint8", (2,) * 60, 0, (0,) * 60, digest_of(b"")),),
        tuple(Tensor(f"{at:02}", "uint8", (1000 - at,), at, None, digest_of(b"")) for at in range(9)),
    ],
    ids=["one element for ever", "in many dimensions", "overlapping"],
)
def test_tensors_that_would_be_hashed_for_ever_are_refused(tensors):
    whole = abcd()._replace(file_bytes=1000, chunks=(Chunk(1000, digest_of(b"")),), tensors=tensors)

    with pytest.raises(MalformedError, match="times the bytes of the file"):
        parse_manifest(encode_manifest(whole))


def test_tied_tensors_are_no_trap():
    tensors = tuple(Tensor(f"{at:02}", "uint8", (4,), 0, None, digest_of(b"abcd")) for at in range(99))

    assert parse_manifest(encode_manifest(abcd()._replace(tensors=tensors))).tensors == tensors


def test_a_root_that_lists_more_than_any_file_has_is_refused():
    inline = abcd()._replace(file_bytes=INLINE_CHUNKS + 1, chunks=(Chunk(1, digest_of(b"")),) * (INLINE_CHUNKS + 1))
    tiny = (PageRef(2048, 2048, digest_of(b"")),) * 3000
    many = (PageRef(2048 << 20, 2048, digest_of(b"")),) * (MAX_PAGES + 1)

    for wrong in (
        inline,
        abcd()._replace(file_bytes=2048 * 3000, chunks=(), pages=tiny),
        abcd()._replace(file_bytes=(2048 << 20) * len(many), chunks=(), pages=many),
    ):
        with pytest.raises(MalformedError, match="chunks|pages"):
            parse_manifest(encode_manifest(wrong))


def long_list(count: int) -> list[Chunk]:
    return [Chunk(1000, digest_of(number.to_bytes(4, "little"))) for number in range(count)]


def test_a_short_list_has_no_pages_and_a_long_one_is_covered_by_them():
    assert list(paginate(long_list(512))) == []

    pages = list(paginate(long_list(9000)))

    assert [chunk for page in pages for chunk in page] == long_list(9000)
    assert all(PAGE_MIN_CHUNKS <= len(page) <= PAGE_MAX_CHUNKS for page in pages[:-1])


def test_one_inserted_chunk_changes_one_page_or_two():
    chunks = long_list(9000)
    before = {encode_page(page) for page in paginate(chunks)}

    after = {encode_page(page) for page in paginate([*chunks[:4000], Chunk(7, digest_of(b"new")), *chunks[4000:]])}

    assert len(after - before) <= 2


def test_a_page_must_be_the_one_that_its_root_describes():
    chunks = long_list(3)
    page = encode_page(chunks)
    digest = digest_of(page, Kind.PAGE)

    assert parse_page(page, PageRef(3000, 3, digest)) == tuple(chunks)
    for ref in (PageRef(2999, 3, digest), PageRef(3000, 4, digest)):
        with pytest.raises(MalformedError):
            parse_page(page, ref)


def test_a_paged_manifest_comes_back():
    refs = tuple(
        PageRef(1000 * len(p), len(p), digest_of(encode_page(p), Kind.PAGE)) for p in paginate(long_list(2000))
    )
    manifest = Manifest("opaque", 0, 2_000_000, digest_of(b"file"), (), (), refs)

    parsed = parse_manifest(encode_manifest(manifest))

    assert parsed == manifest
    assert parsed.chunk_count == 2000
