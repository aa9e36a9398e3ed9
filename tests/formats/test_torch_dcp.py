"""Data files of distributed checkpoints show each item's tensors, under its place in the file."""

from __future__ import annotations

import json
import os
import zipfile
from io import BytesIO

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats.torch_dcp import TorchDcp
from thetastore.formats.torch_zip import TorchZip
from thetastore.layout import Layout
from thetastore.testing.formats import BytesFile, FormatConformance, Sample

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "torch")


def fixture(name: str) -> bytes:
    with open(os.path.join(FIXTURES, name), "rb") as file:
        return file.read()


def scan(raw: bytes) -> Layout:
    return TorchDcp().scan(BytesFile(raw))


class TestConformance(FormatConformance):
    mutation_count = 600

    def make_format(self) -> TorchDcp:
        return TorchDcp()

    def samples(self) -> list[Sample]:
        expected = json.loads(fixture("expected.json"))
        raw = fixture("shard.distcp")
        rows = expected["shard.distcp"]
        return [Sample("shard.distcp", raw, {row[0]: (row[1], tuple(row[2]), row[3]) for row in rows})]

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        self.check_damaged(self.samples()[0], 20_000, seed=72)


def test_an_item_that_is_a_state_has_the_names_of_its_tensors_behind_its_number() -> None:
    model, script = fixture("model.pt"), fixture("tensor.pt")
    layout = scan(model + script)

    names = [f"0.{tensor.name}" for tensor in TorchZip().scan(BytesFile(model)).tensors]
    assert [tensor.name for tensor in layout.tensors] == [*names, "1"]


def test_a_single_archive_is_left_to_torch_zip() -> None:
    with pytest.raises(NotThisFormat, match="single"):
        scan(fixture("model.pt"))


def other_zip() -> bytes:
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a", b"text")
    return target.getvalue()


@pytest.mark.parametrize(
    "raw",
    [
        other_zip() * 2,
        fixture("model.pt") + other_zip(),
        b"PK\3\4" + fixture("model.pt"),
        fixture("model.pt") + b"\0" + fixture("model.pt"),
        fixture("model.pt") * 2 + b"\0",
        b"",
    ],
)
def test_what_is_not_archives_of_torch_throughout_is_declined(raw: bytes) -> None:
    with pytest.raises(NotThisFormat):
        scan(raw)
