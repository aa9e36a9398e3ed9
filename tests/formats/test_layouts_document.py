"""The document names the limits that the code has."""

from __future__ import annotations

import os

import pytest

from thetastore.dtypes import BIG_ENDIAN, DTYPES
from thetastore.formats import (
    MAX_HEADER_BYTES,
    flax_msgpack,
    gguf,
    hdf5_datasets,
    hdf5_groups,
    hdf5_heap,
    hdf5_objects,
    npy_header,
    onnx,
    pickle_machine,
    protobuf,
    sorted_table,
    tensorflow,
    torch_dcp,
    torch_state,
    zip_directory,
)
from thetastore.formats.flax_msgpack import FlaxMsgpack
from thetastore.formats.gguf import Gguf, UnpaddedGguf
from thetastore.formats.hdf5 import Hdf5
from thetastore.formats.keras import Keras
from thetastore.formats.npy import FortranNpy, Npy
from thetastore.formats.npz import Npz
from thetastore.formats.onnx import Onnx, OnnxExternal
from thetastore.formats.safetensors import DTYPE_NAMES, Safetensors
from thetastore.formats.tensorflow import TensorflowIndex
from thetastore.formats.torch_dcp import TorchDcp
from thetastore.formats.torch_legacy import TorchLegacy
from thetastore.formats.torch_zip import TorchZip
from thetastore.layout import MAX_AMPLIFICATION, MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TABLE_BYTES, MAX_TENSORS

FOLDER = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "format")


def document(name: str = "layouts.md") -> str:
    with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
        return file.read()


@pytest.mark.parametrize(
    "text",
    [
        f"| tensors | {MAX_TENSORS:,} |",
        f"| dimensions of a tensor | {MAX_DIMENSIONS} |",
        f"{MAX_NAME_BYTES:,} bytes of UTF-8",
        f"| table of tensors as text | {MAX_TABLE_BYTES >> 20} MiB |",
        f"| directory at the start of a file | {MAX_HEADER_BYTES >> 20} MiB |",
        f"| {MAX_AMPLIFICATION} x the file |",
        f"`safetensors` version {Safetensors.version}",
        f"`torch-zip` version {TorchZip.version}",
        f"`gguf` version {Gguf.version}",
        f"`gguf` version {UnpaddedGguf.version}",
        f"`npy` version {Npy.version}",
        f"`npy` version {FortranNpy.version}",
        f"`npz` version {Npz.version}",
        f"more than {MAX_TENSORS:,} tensors or {gguf.MAX_METADATA:,} metadata",
        f"nested more than {gguf.MAX_NESTING} deep",
        f"keys of more than {gguf.MAX_KEY_BYTES:,} bytes",
        f"a header of more than {npy_header.MAX_HEADER_BYTES:,} bytes",
        f"or {zip_directory.MAX_ENTRIES:,} entries",
        f"over {pickle_machine.MAX_PICKLE_BYTES >> 20} MiB",
        f"{pickle_machine.MAX_VALUE_BYTES >> 20} MiB, containers nested more than {torch_state.MAX_DEPTH} deep",
        f"jump by more than {pickle_machine._MAX_MEMO_GAP:,}",
        f"more than {pickle_machine._MAX_INTEGER_DIGITS} digits",
        f"`torch-legacy` version {TorchLegacy.version}",
        f"`torch-dcp` version {TorchDcp.version}",
        f"`hdf5` version {Hdf5.version}",
        f"`keras` version {Keras.version}",
        f"`flax-msgpack` version {FlaxMsgpack.version}",
        f"`onnx` version {Onnx.version}",
        f"`{OnnxExternal.name}` version {OnnxExternal.version}",
        f"`{TensorflowIndex.name}` version {TensorflowIndex.version}",
        f"more than {sorted_table.MAX_ENTRIES:,} entries or {MAX_TABLE_BYTES >> 20} MiB of keys",
        f"more than {tensorflow.MAX_SHARDS:,} data files",
        f"more than {torch_dcp.MAX_ARCHIVES:,} archives",
        f"heaps of names or parts of headers over {hdf5_objects.MAX_PIECE_BYTES >> 20} MiB",
        f"headers of more than {hdf5_objects.MAX_HEADER_PARTS:,} parts or {hdf5_objects.MAX_MESSAGES:,} messages",
        f"nested more than {hdf5_datasets.MAX_DEPTH} deep, B-trees more than {hdf5_groups.MAX_TREE_DEPTH} deep",
        f"a tree of links more than {hdf5_heap.MAX_TREE_DEPTH} deep",
        f"more than {hdf5_datasets.MAX_LINKS:,} links",
        f"a directory of more than {hdf5_objects.MAX_READ_BYTES >> 20} MiB",
        f"nested more than {flax_msgpack.MAX_DEPTH} deep; more than {flax_msgpack.MAX_VALUES:,} values",
        f"more than {protobuf.MAX_FIELDS:,} fields; graphs nested more than {onnx.MAX_DEPTH} deep",
        f"nodes of more than {onnx.MAX_ATTRIBUTES:,} attributes",
        f"({torch_state._FREE_VISITS:,} at least, {torch_state._MAX_VISITS:,} at most)",
    ],
)
def test_a_limit_is_documented_as_it_is(text: str) -> None:
    assert text in " ".join(document().split("\n"))


def test_every_dtype_of_safetensors_is_documented() -> None:
    words = document().replace(",", " ").replace("`", " ").split()

    assert {name.decode() for name in DTYPE_NAMES} | set(DTYPE_NAMES.values()) <= set(words)


def test_every_dtype_of_numpy_is_documented() -> None:
    words = document().replace(",", " ").replace("`", " ").replace("\\|", "|").split()

    assert {code.decode() for code in npy_header._DTYPES} | set(npy_header._DTYPES.values()) <= set(words)


def test_every_block_dtype_is_documented_with_its_sizes() -> None:
    text = document("chunking.md")
    blocks = [dtype for dtype in DTYPES.values() if dtype.kind == "block" and not dtype.name.endswith(BIG_ENDIAN)]

    assert blocks
    for dtype in blocks:
        assert f"| {dtype.name} | {dtype.block_elements} | {dtype.bits // 8} |" in text
