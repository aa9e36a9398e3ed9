"""The text of pointers: docs/format/pointer.md."""

import math
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitbridge.errors import PointerError, PointerVersionError
from gitbridge.pointers import (
    MIN_POINTER_BYTES,
    Pointer,
    PointerTensor,
    is_pointer,
    parse_pointer,
    pointer_text,
    render_pointer,
)
from thetastore.digest import Digest, digest_of
from thetastore.dtypes import DTYPES
from thetastore.manifest import Chunk, Manifest, Tensor

digests = st.binary(min_size=32, max_size=32).map(Digest)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
lines = st.builds(
    PointerTensor,
    digests,
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 2**62), max_size=4)
    .filter(lambda shape: math.prod(n for n in shape if n) <= 2**62)
    .map(tuple),
    names,
)
pointers = st.builds(
    Pointer,
    st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True),
    st.integers(0, 65535),
    st.integers(0, 2**62),
    digests,
    digests,
    st.lists(lines, max_size=6, unique_by=lambda t: t.name).map(lambda ts: tuple(sorted(ts, key=lambda t: t.name))),
    st.sampled_from([0, 1]),
)

ABCD = digest_of(b"abcd")
SMALL = Pointer(
    "safetensors",
    1,
    90,
    ABCD,
    ABCD,
    (PointerTensor(ABCD, "float32", (2, 3), "a b"), PointerTensor(ABCD, "bool", (), "ä\n")),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine, not of the code
@given(pointers)
def test_a_pointer_comes_back_from_its_text(pointer):
    text = pointer_text(pointer)

    assert parse_pointer(text) == pointer
    assert is_pointer(text[:64])
    assert len(text) >= MIN_POINTER_BYTES
    assert text.isascii()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine, not of the code
@given(pointers, st.data())
def test_whatever_is_accepted_is_the_rendering_of_its_values(pointer, data):
    text = bytearray(pointer_text(pointer))
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] = data.draw(st.integers(0, 255))

    try:
        parsed = parse_pointer(bytes(text))
    except PointerError:
        return
    assert pointer_text(parsed) == text


def test_the_text_is_what_people_and_plain_git_diff_will_see():
    lines = pointer_text(SMALL).decode().splitlines()

    assert lines[0] == "version https://pypi.org/project/thetastore/#pointer-1"
    assert lines[3:8] == ["format safetensors 1", "size 90", f"digest {ABCD}", f"manifest {ABCD}", "tensors 2"]
    assert lines[8:] == [f'{ABCD} float32 [2,3] "a b"', f'{ABCD} bool [] "\\u00e4\\n"']


def test_a_manifest_is_rendered_with_all_its_tensors():
    tensor = Tensor("w", "float32", (1,), 0, None, ABCD)
    manifest = Manifest("opaque", 0, 4, ABCD, (tensor,), (Chunk(4, ABCD),))

    pointer = parse_pointer(render_pointer(manifest, digest_of(b"manifest")))

    assert pointer == Pointer(
        "opaque", 0, 4, ABCD, digest_of(b"manifest"), (PointerTensor(ABCD, "float32", (1,), "w"),)
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"size 90", b"size 090"),
        (b"size 90", b"size -1"),
        (b"tensors 2", b"tensors 3"),
        (b"tensors 2", b"tensors 1"),
        (b"[2,3]", b"[2, 3]"),
        (b"[2,3]", b"[2,,3]"),
        (b"[2,3]", b"[,]"),
        (b"[2,3]", b"[%d,2]" % 2**62),
        (b"[2,3]", b"[" + b"9" * 4000 + b"]"),
        (b"[2,3]", b"[" + b"1," * 64 + b"1]"),
        (b"bool", b"boool"),
        (b"# The weights", b"# the weights"),
        (b'"a b"\n', b'"\\u00ff"\n'),
        (b"\n", b"\r\n"),
        (b"tensors 2\n", b"tensors 2\n<<<<<<< ours\n"),
        (b'"a b"\n', b'"a b"'),
    ],
)
def test_an_edited_pointer_is_refused(old, new):
    text = pointer_text(SMALL).replace(old, new)

    with pytest.raises(PointerError):
        parse_pointer(text)


def test_the_version_of_a_pointer_is_that_of_its_manifest():
    draft = Manifest("opaque", 0, 4, ABCD, (), (Chunk(4, ABCD),), version=0)
    released = draft._replace(version=1)

    texts = [render_pointer(manifest, ABCD) for manifest in (draft, released)]

    assert [text.split(b"\n")[0][-2:] for text in texts] == [b"-0", b"-1"]
    assert [parse_pointer(text).version for text in texts] == [0, 1]
    assert [parse_pointer(text)._replace(version=1) for text in texts] == 2 * [parse_pointer(texts[1])]


def test_an_element_type_of_a_newer_version_is_not_called_an_edit():
    with pytest.raises(PointerVersionError, match="'float99'.*a newer one is needed"):
        parse_pointer(pointer_text(SMALL).replace(b"float32", b"float99"))


def test_a_pointer_of_a_newer_version_says_to_update():
    text = pointer_text(SMALL).replace(b"#pointer-1", b"#pointer-7")

    assert is_pointer(text)
    with pytest.raises(PointerError, match="version '7'.*a newer one is needed"):
        parse_pointer(text)


@pytest.mark.parametrize("filler", [b"\n", b",", b"1,", b'"', b"\\u0001"])
def test_a_hostile_pointer_takes_memory_in_proportion_to_its_text(filler):
    start = pointer_text(SMALL).replace(b"[2,3]", b"[2,")
    text = start + filler * ((8 << 20) // len(filler))

    tracemalloc.start()
    try:
        with pytest.raises(PointerError):
            parse_pointer(text)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 4 * len(text)


def test_what_a_pointer_says_cannot_steer_the_terminal():
    newer = pointer_text(SMALL).replace(b"#pointer-1", b"#pointer-\x1b[31m")
    edited = pointer_text(SMALL).replace(b'"a b"', b'"\x1b]0;a\x07')

    for text in (newer, edited):
        with pytest.raises(PointerError) as caught:
            parse_pointer(text)
        assert str(caught.value).isprintable()


def test_the_document_shows_the_head_that_the_code_writes():
    document = (Path(__file__).parents[2] / "docs/format/pointer.md").read_text()

    for line in pointer_text(SMALL).decode().splitlines()[:4]:
        assert f"    {line}\n" in document
