"""Files as torch wrote them before 1.6 show what torch sees in them, and share their tensors with newer ones."""

from __future__ import annotations

import json
import os
import pickle
import struct
from typing import Any

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats.registry import candidates
from thetastore.formats.torch_legacy import TorchLegacy
from thetastore.formats.torch_zip import TorchZip
from thetastore.layout import Layout
from thetastore.testing.formats import BytesFile, FormatConformance, Sample

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "torch")


def fixture(name: str) -> bytes:
    with open(os.path.join(FIXTURES, name), "rb") as file:
        return file.read()


def scan(raw: bytes) -> Layout:
    return TorchLegacy().scan(BytesFile(raw))


class TestConformance(FormatConformance):
    def make_format(self) -> TorchLegacy:
        return TorchLegacy()

    def samples(self) -> list[Sample]:
        expected = json.loads(fixture("expected.json"))
        return [
            Sample(name, fixture(name), {row[0]: (row[1], tuple(row[2]), row[3]) for row in rows})
            for name, rows in expected.items()
            if name.startswith("legacy")
        ]

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 10_000, seed=71)


def test_it_is_known_by_its_magic_in_every_protocol() -> None:
    assert [format.name for format in candidates(fixture("legacy-model.pt")[:64])] == ["torch-legacy"]
    assert [format.name for format in candidates(fixture("legacy-protocol4.pt")[:64])] == ["torch-legacy"]
    assert candidates(pickle.dumps({"a": 1})) == []


def test_the_same_tensors_are_cut_as_in_a_zip_file() -> None:
    raw, zipped = fixture("legacy-model.pt"), fixture("model.pt")

    there = {zipped[span.offset : span.offset + span.raw_bytes] for span in TorchZip().scan(BytesFile(zipped)).spans}

    assert {raw[span.offset : span.offset + span.raw_bytes] for span in scan(raw).spans} == there


def made(
    state: Any = None, keys: Any = ("7",), data: bytes = struct.pack("<q", 2) + bytes(8), version: Any = 1001
) -> bytes:
    """Return a file with a storage of two floats under the key 7, unless told otherwise."""
    parts = [0x1950A86A20F9469CFC6C, version, {"little_endian": True}]
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    storage = b"(Vstorage\nctorch\nFloatStorage\nV7\nVcpu\nI2\nNtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n(I2\nt(I1\ntI00\n}tR."
    return head + (state or tensor) + pickle.dumps(list(keys), 2) + data


def test_the_template_of_what_is_wrong_is_itself_right() -> None:
    assert [tensor[:3] for tensor in scan(made()).tensors] == [("", "float32", (2,))]


VIEW = made().split(b"ctorch._utils")[1].replace(b"I2\nNtQ", b"I2\n(V8\nI0\nI1\nttQ").partition(b"\x80\x02]")[0]
WRONG = {
    "another protocol": made(version=1002),
    "a protocol that is a list of lists": made(version=[[1001]]),
    "no keys": made(keys=()),
    "a key twice": made(keys=("7", "7")),
    "another key": made(keys=("8",)),
    "a key that is a number": made(keys=(7,)),
    "another element count": made(data=struct.pack("<q", 3) + bytes(8)),
    "a count of 2^63": made(data=struct.pack("<Q", 2**63) + bytes(8)),
    "no storages": made(data=b""),
    "a storage cut short": made(data=struct.pack("<q", 2) + bytes(7)),
    "something left over": made() + b"\0",
    "a view of a storage": made(state=b"ctorch._utils" + VIEW),
    "a pickle that is cut off": made()[:60],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_breaks_a_rule_is_declined(name: str) -> None:
    with pytest.raises(NotThisFormat):
        scan(WRONG[name])


def test_pickles_longer_than_the_first_read_are_read() -> None:
    text = b"V" + b"x" * 600_000 + b"\nNVw\n"
    program = made().split(b"ctorch._utils")[1].partition(b"\x80\x02]")[0]
    raw = made(state=b"}(" + text + b"ctorch._utils" + program[:-1] + b"u.")

    assert [tensor[:3] for tensor in scan(raw).tensors] == [("w", "float32", (2,))]
