"""What is written in docs/format/codecs.md is what the code reads: released bytes decode for ever."""

from __future__ import annotations

import os
import re

import pytest

from thetastore.codecs import CODEC_NAMES, decode, places
from thetastore.codecs.payload import Coding

DOCUMENT = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "format", "codecs.md")


def document() -> str:
    with open(DOCUMENT, encoding="utf-8") as file:
        return file.read()


def bytes_of(dump: str) -> bytes:
    dump = re.sub("#.*", "", dump)
    return bytes.fromhex(re.sub(r"(\w\w)\*(\d+)", lambda repeated: repeated[1] * int(repeated[2]), dump))


def golden_vectors() -> list[tuple[str, list[bytes], bytes, bytes]]:
    blocks = re.findall(r"```golden (\w+)\n((?:base\n.*?)*)raw(.*?)\nstored\n(.*?)```", document(), re.DOTALL)
    return [
        (codec, [bytes_of(base) for base in bases.split("base\n")[1:]], bytes_of(raw), bytes_of(stored))
        for codec, bases, raw, stored in blocks
    ]


@pytest.mark.parametrize(("codec", "bases", "raw", "stored"), golden_vectors())
def test_a_golden_vector_of_the_document_decodes(codec, bases, raw, stored) -> None:
    out = bytearray(len(raw))

    decode(codec, b"", stored, memoryview(out), bases)

    assert out == raw


def test_every_codec_and_every_coding_of_planes_has_a_golden_vector() -> None:
    vectors = golden_vectors()
    codings = {
        stored[9 + 6 * group] for codec, _, _, stored in vectors if codec == "planes" for group in range(stored[3])
    }

    assert {codec for codec, *_ in vectors} == set(CODEC_NAMES)
    assert codings == set(Coding)
    assert {stored[1] for codec, _, _, stored in vectors if codec == "planes"} == {0, 1}


def test_the_document_lists_the_numbers_of_the_code() -> None:
    for coding in (*Coding, *places.Coding):
        assert f"| {coding.value} {coding.name.lower()} |" in document()


def test_every_layout_and_every_coding_of_places_have_a_golden_vector() -> None:
    stored = [stored for codec, _, _, stored in golden_vectors() if codec == "difference"]

    assert any(layout == 3 and rows for layout, rows in ((one[1], one[36:40].strip(b"\0")) for one in stored))
    assert {(layout, coding) for _, layout, _, coding, *_ in stored} == {(0, 0), (2, 7), (3, 7)} | {
        (1, c) for c in places.Coding
    }
