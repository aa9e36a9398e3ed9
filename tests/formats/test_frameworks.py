"""Files of the real h5py, Keras, Flax and ONNX show what these see in them (`make_framework_fixtures.py` made them)."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest

from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.formats import WholeFormat
from thetastore.formats.flax_msgpack import FlaxMsgpack
from thetastore.formats.hdf5 import Hdf5
from thetastore.formats.keras import Keras
from thetastore.formats.onnx import Onnx, OnnxExternal
from thetastore.formats.registry import candidates
from thetastore.formats.tensorflow import TensorflowIndex
from thetastore.layout import Layout
from thetastore.store import Store
from thetastore.testing.formats import BytesFile, FormatConformance, Sample

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures")


def fixture(folder: str, name: str) -> bytes:
    with open(os.path.join(FIXTURES, folder, name), "rb") as file:
        return file.read()


def samples_of(folder: str, ending: str) -> list[Sample]:
    expected: dict[str, list[Any]] = json.loads(fixture(folder, "expected.json"))
    return [
        Sample(name, fixture(folder, name), {row[0]: (row[1], tuple(row[2]), row[3]) for row in rows})
        for name, rows in expected.items()
        if name.endswith(ending)
    ]


def scan(format: WholeFormat, raw: bytes) -> Layout:
    return format.scan(BytesFile(raw))


class TestHdf5(FormatConformance):
    def make_format(self) -> Hdf5:
        return Hdf5()

    def samples(self) -> list[Sample]:
        return samples_of("hdf5", ".h5")

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 4000, seed=81)


class TestKeras(FormatConformance):
    mutation_count = 400

    def make_format(self) -> Keras:
        return Keras()

    def samples(self) -> list[Sample]:
        return samples_of("hdf5", ".keras")

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 5000, seed=82)


class TestFlax(FormatConformance):
    def make_format(self) -> FlaxMsgpack:
        return FlaxMsgpack()

    def samples(self) -> list[Sample]:
        return samples_of("flax", ".msgpack")

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 20_000, seed=83)


class TestOnnx(FormatConformance):
    def make_format(self) -> Onnx:
        return Onnx()

    def samples(self) -> list[Sample]:
        return samples_of("onnx", ".onnx")

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 20_000, seed=84)


def tables_of(folder: str, listing: str, ending: str) -> list[Sample]:
    """Return files that name tensors in others; only tensors in the file itself are expected of its layout."""
    expected: dict[str, list[Any]] = json.loads(fixture(folder, listing))
    names = sorted({name.partition(" ")[0] for name in expected})
    inside = {name: expected.get(f"{name} inside", []) for name in names if name.endswith(ending)}
    return [
        Sample(name, fixture(folder, name), {row[0]: (row[1], tuple(row[2]), row[3]) for row in rows})
        for name, rows in inside.items()
    ]


class TestOnnxExternal(FormatConformance):
    def make_format(self) -> OnnxExternal:
        return OnnxExternal()

    def samples(self) -> list[Sample]:
        return tables_of("onnx", "external.json", ".onnx")

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 20_000, seed=85)


class TestTensorflowIndex(FormatConformance):
    def make_format(self) -> TensorflowIndex:
        return TensorflowIndex()

    def samples(self) -> list[Sample]:
        return tables_of("tensorflow", "expected.json", ".index")

    @pytest.mark.deep
    def test_many_damaged_files_give_a_layout_or_are_declined(self) -> None:
        for sample in self.samples():
            self.check_damaged(sample, 20_000, seed=86)


MODELS = {
    "hdf5/model.h5": "hdf5",
    "flax/model.msgpack": "flax-msgpack",
    "onnx/model.onnx": "onnx",
    "torch/legacy-model.pt": "torch-legacy",
    "torch/model.pt": "torch-zip",
}


@pytest.mark.parametrize("path", MODELS)
def test_the_same_weights_of_another_framework_add_nothing_but_a_skeleton(path: str, tmp_path: Any) -> None:
    with Store.open(str(tmp_path / "store"), create=True) as store:
        _, first = store.put_file(io.BytesIO(fixture("torch", "model.safetensors")))
        raw = fixture(*path.split("/"))
        digest, manifest = store.put_file(io.BytesIO(raw))
        known = {placed.chunk.digest for placed in iter_chunks(store.objects, first)}
        new = [placed.chunk for placed in iter_chunks(store.objects, manifest) if placed.chunk.digest not in known]

        assert manifest.format == MODELS[path]
        assert b"".join(bytes(piece) for piece in store.read_file(manifest, digest)) == raw
        assert {(t.dtype, t.shape, t.digest) for t in manifest.tensors} == {
            (t.dtype, t.shape, t.digest) for t in first.tensors
        }
        assert sum(chunk.raw_bytes for chunk in new) == len(raw) - sum(t.raw_bytes for t in first.tensors)


def test_a_file_whose_tensors_are_named_in_another_file_is_opaque() -> None:
    for folder, name in (
        ("tensorflow", "checkpoint.data-00000-of-00001"),
        ("onnx", "external.data"),
        ("torch", "shard.metadata"),
    ):
        assert candidates(fixture(folder, name)[:64]) == [], name


def test_opaque_elements_of_h5py_are_cut_by_their_width_and_not_listed() -> None:
    raw = fixture("hdf5", "model.h5").replace(b"bfloat16", b"bfloat99")
    layout = scan(Hdf5(), raw)

    assert layout.tensors == ()
    assert [span[1:] for span in layout.spans] == [span[1:] for span in scan(Hdf5(), fixture("hdf5", "model.h5")).spans]


def test_packed_types_of_ml_dtypes_take_a_byte_in_flax_and_are_not_listed() -> None:
    layout = scan(FlaxMsgpack(), fixture("flax", "dtypes.msgpack"))

    assert ("uint8", (5,)) in {span[2:] for span in layout.spans}
    assert "int4" not in {tensor.name for tensor in layout.tensors}
