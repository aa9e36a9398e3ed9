"""Files made by the real torch show what torch sees in them (tests/fixtures/make_torch_fixtures.py made both)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from typing import Any

import pytest

from thetastore.chunking import grid_lengths
from thetastore.errors import NotThisFormat
from thetastore.formats.safetensors import Safetensors
from thetastore.formats.torch_zip import TorchZip
from thetastore.layout import Layout, Tensor
from thetastore.strided import iter_c_order
from thetastore.testing.formats import BytesFile, FormatConformance, Sample

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures", "torch")


def fixture(name: str) -> bytes:
    with open(os.path.join(FIXTURES, name), "rb") as file:
        return file.read()


def expected() -> dict[str, list[Any]]:
    return json.loads(fixture("expected.json"))  # type: ignore[no-any-return]


def scan(raw: bytes) -> Layout:
    return TorchZip().scan(BytesFile(raw))


def tensor(layout: Layout, name: str) -> Tensor:
    return next(tensor for tensor in layout.tensors if tensor.name == name)


class TestConformance(FormatConformance):
    def make_format(self) -> TorchZip:
        return TorchZip()

    def samples(self) -> list[Sample]:
        return [
            Sample(name, fixture(name), {row[0]: (row[1], tuple(row[2]), row[3]) for row in rows})
            for name, rows in expected().items()
            if name.endswith(".pt") and name != "module.pt" and not name.startswith("legacy")
        ]


def test_a_whole_module_shows_its_tensors_by_the_paths_of_its_attributes() -> None:
    raw = fixture("module.pt")
    layout = scan(raw)

    names = [tensor.name for tensor in layout.tensors]
    assert "_modules.0._parameters.weight" in names
    assert "_modules.1._buffers.running_mean" in names
    assert len(names) == 7


def test_the_same_tensors_are_cut_alike_in_both_formats() -> None:
    raw = fixture("model.pt")
    there = fixture("model.safetensors")
    torch_spans = {
        (span.dtype, span.shape): raw[span.offset : span.offset + span.raw_bytes] for span in scan(raw).spans
    }
    header_spans = {
        (span.dtype, span.shape): there[span.offset : span.offset + span.raw_bytes]
        for span in Safetensors().scan_header(there).spans
    }

    assert torch_spans == header_spans
    assert all(list(grid_lengths(*key)) for key in torch_spans)


def test_views_of_one_storage_are_placed_within_it() -> None:
    layout = scan(fixture("views.pt"))

    whole = tensor(layout, "whole")
    assert tensor(layout, "tied")._replace(name="whole") == whole
    assert tensor(layout, "rows") == Tensor("rows", "float32", (2, 8), whole.offset + 32)
    assert tensor(layout, "columns") == Tensor("columns", "float32", (6, 3), whole.offset + 8, (8, 1))
    assert tensor(layout, "element") == Tensor("element", "float32", (), whole.offset + 19 * 4)
    assert tensor(layout, "transposed") == Tensor("transposed", "float32", (8, 6), whole.offset, (1, 8))
    assert tensor(layout, "expanded").strides == (1, 0)
    assert tensor(layout, "one_row_odd_stride").strides is None


def test_a_storage_is_cut_by_the_largest_tensor_at_each_place() -> None:
    layout = scan(fixture("views.pt"))
    shapes = {span.offset: (span.dtype, span.shape) for span in layout.spans}

    assert shapes[tensor(layout, "whole").offset] == ("float32", (6, 8))
    assert [shapes[tensor(layout, name).offset] for name in "qkv"] == [("float32", (4, 4))] * 3
    head = tensor(layout, "offset.tail").offset - 7 * 4
    assert shapes[head] == ("float32", (7,)), "what no tensor begins is one-dimensional"
    assert shapes[head + 28] == ("float32", (23,))


def test_a_transposed_matrix_is_cut_as_it_lies_in_the_file() -> None:
    layout = scan(fixture("views.pt"))
    shapes = {span.offset: span.shape for span in layout.spans}

    assert tensor(layout, "only_transposed").shape == (7, 5)
    assert shapes[tensor(layout, "only_transposed").offset] == (5, 7)
    assert shapes[tensor(layout, "channels_last").offset] == (4, 2, 5, 3)


def test_tensors_whose_values_are_not_their_bytes_are_spans_without_a_name() -> None:
    raw = fixture("unlisted.pt")
    layout = scan(raw)

    assert [tensor.name for tensor in layout.tensors] == ["fp4", "half_complex", "listed", "sparse.1.0", "sparse.1.1"]
    assert tensor(layout, "half_complex")[1:3] == ("complex32", (2,))
    assert tensor(layout, "fp4")[1:3] == ("float4_e2m1fn", (2, 6)), "packed pairs are counted singly, as in safetensors"
    storages = [name for name in zipfile.ZipFile(io.BytesIO(raw)).namelist() if "/data/" in name and "/." not in name]
    assert len(layout.spans) == len(storages)


def test_a_file_of_the_legacy_serialisation_is_declined() -> None:
    assert not TorchZip().sniff(fixture("legacy.pt")[:64])


def repacked(raw: bytes, replace: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return the archive with entries replaced (by their last name), or compressed."""
    source = zipfile.ZipFile(io.BytesIO(raw))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name in source.namelist():
            archive.writestr(name, replace.get(name.split("/", 1)[1], source.read(name)))
    return target.getvalue()


def test_an_archive_that_another_program_packed_again_is_read() -> None:
    raw = repacked(fixture("model.pt"), {})

    assert [tensor[:3] for tensor in scan(raw).tensors] == [tensor[:3] for tensor in scan(fixture("model.pt")).tensors]


def test_a_big_endian_archive_has_dtypes_that_say_so() -> None:
    layout = scan(repacked(fixture("model.pt"), {"byteorder": b"big"}))

    assert {tensor.dtype for tensor in layout.tensors} == {span.dtype for span in layout.spans} == {"bfloat16_be"}
    with pytest.raises(NotThisFormat, match="byte order b'odd'"):
        scan(repacked(fixture("model.pt"), {"byteorder": b"odd"}))


def test_a_compressed_archive_is_declined() -> None:
    with pytest.raises(NotThisFormat, match="compressed"):
        scan(repacked(fixture("model.pt"), {}, zipfile.ZIP_DEFLATED))


def test_a_storage_of_the_wrong_length_is_declined() -> None:
    with pytest.raises(NotThisFormat, match="has 3 of"):
        scan(repacked(fixture("model.pt"), {"data/0": b"abc"}))


def test_a_zip_file_of_something_else_is_declined() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")

    with pytest.raises(NotThisFormat, match="0 entries"):
        scan(target.getvalue())


REAL = [
    ("chgnet-0.2.0.pth.tar", 287, "d8060e52"),
    ("chgnet-0.3.0.pth.tar", 517, "d0c6bb1f"),
]


@pytest.mark.parametrize(("name", "tensor_count", "digest"), REAL)
def test_a_real_checkpoint_shows_what_torch_sees(name: str, tensor_count: int, digest: str) -> None:
    path = os.path.join(os.path.dirname(__file__), "..", "..", "..", "shared", "data", name)
    if not os.path.exists(path):
        pytest.skip(f"'{path}' is not on this machine")
    with open(path, "rb") as file:
        raw = file.read()
    layout = scan(raw)
    rows = [
        [
            tensor.name,
            tensor.dtype,
            list(tensor.shape),
            hashlib.sha256(b"".join(iter_c_order(BytesFile(raw), tensor))).hexdigest(),
        ]
        for tensor in layout.tensors
    ]

    assert len(rows) == tensor_count
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:8] == digest
