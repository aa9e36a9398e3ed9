"""What files say of tensors in other files is what frameworks read there (`make_framework_fixtures.py` made them)."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Sequence

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats.onnx import Onnx, OnnxExternal
from thetastore.formats.outside import TableFormat, Whole
from thetastore.formats.tensorflow import TensorflowIndex
from thetastore.testing.formats import BytesFile, mutations

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures")


def fixture(folder: str, name: str) -> bytes:
    with open(os.path.join(FIXTURES, folder, name), "rb") as file:
        return file.read()


def listed(folder: str, listing: str, key: str) -> dict[str, tuple[str, tuple[int, ...], str]]:
    rows = json.loads(fixture(folder, listing))[key]
    return {name: (dtype, tuple(shape), digest) for name, dtype, shape, digest in rows}


def found(format: TableFormat, folder: str, name: str) -> dict[str, tuple[str, tuple[int, ...], str]]:
    tensors = {}
    for file_name, tensor, _, _ in format.outside(BytesFile(fixture(folder, name)), name):
        raw = fixture(folder, file_name)[tensor.offset :][: tensor.raw_bytes]
        tensors[tensor.name] = tensor.dtype, tensor.shape, hashlib.sha256(raw).hexdigest()
    return tensors


@pytest.mark.parametrize("name", ["checkpoint.index", "dtypes.index", "sharded.index", "sliced.index"])
def test_an_index_names_what_tensorflow_reads(name: str) -> None:
    assert found(TensorflowIndex(), "tensorflow", name) == listed("tensorflow", "expected.json", name)


def test_slices_say_which_variable_they_are_of() -> None:
    found = TensorflowIndex().outside(BytesFile(fixture("tensorflow", "sliced.index")), "sliced.index")

    assert {one.tensor.name: one.whole for one in found} == {
        "table[0:4,0:4]": Whole("table", (10, 4), (0, 0)),
        "table[4:7,0:4]": Whole("table", (10, 4), (4, 0)),
        "table[7:10,0:4]": Whole("table", (10, 4), (7, 0)),
        "wide[0:3,0:3]": Whole("wide", (3, 6), (0, 0)),
        "wide[0:3,3:6]": Whole("wide", (3, 6), (0, 3)),
        "plain": None,
    }


@pytest.mark.parametrize("name", ["external.onnx", "mixed.onnx"])
def test_a_model_names_what_onnx_loads_from_other_files(name: str) -> None:
    assert found(OnnxExternal(), "onnx", name) == listed("onnx", "external.json", f"{name} outside")


def test_a_model_is_either_whole_or_has_tensors_in_other_files() -> None:
    for name in ("external.onnx", "mixed.onnx"):
        with pytest.raises(NotThisFormat, match="tensors in other files"):
            Onnx().scan(BytesFile(fixture("onnx", name)))
    with pytest.raises(NotThisFormat, match="no tensors in other files"):
        OnnxExternal().scan(BytesFile(fixture("onnx", "model.onnx")))


def test_an_index_by_another_name_does_not_tell_where_its_tensors_are() -> None:
    with pytest.raises(NotThisFormat, match=r"PREFIX\.index"):
        TensorflowIndex().outside(BytesFile(fixture("tensorflow", "sliced.index")), "sliced.idx")


@pytest.mark.parametrize(
    ("format", "folder", "name"),
    [(TensorflowIndex(), "tensorflow", "sliced.index"), (OnnxExternal(), "onnx", "mixed.onnx")],
)
def test_damaged_files_name_tensors_that_could_be_or_are_declined(format: TableFormat, folder: str, name: str) -> None:
    for raw in mutations(fixture(folder, name), 400, seed=5):
        try:
            tensors = format.outside(BytesFile(raw), name)
        except NotThisFormat:
            continue
        assert all(one.tensor.offset >= 0 and ".." not in one.file_name.split("/") for one in tensors)


# Files of other writers


def varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, *parts: bytes) -> bytes:
    raw = b"".join(parts)
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def block(entries: Iterable[tuple[bytes, bytes]], kind: int = 0) -> bytes:
    raw = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    return raw + struct.pack("<II", 0, 1) + bytes([kind]) + b"crc."


def table(entries: Sequence[tuple[bytes, bytes]], kind: int = 0, block_entries: int = 2) -> bytes:
    """Write a sorted table of blocks of few entries."""
    raw, index = b"", []
    for start in range(0, len(entries), block_entries):
        part = block(entries[start : start + block_entries], kind)
        index.append((entries[start : start + block_entries][-1][0], varint(len(raw)) + varint(len(part) - 5)))
        raw += part
    named = b""
    for part in (block([]), block(index)):
        named += varint(len(raw)) + varint(len(part) - 5)
        raw += part
    return raw + named.ljust(40, b"\0") + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"


HEADER = b"", number(1, 1)


def entry(dtype: int, shape: Sequence[int], offset: int, nbytes: int, shard: int = 0) -> bytes:
    dims = [message(2, number(1, length)) for length in shape]
    return number(1, dtype) + message(2, *dims) + number(3, shard) + number(4, offset) + number(5, nbytes)


def outside(raw: bytes) -> list[tuple[str, str, tuple[int, ...]]]:
    found = TensorflowIndex().outside(BytesFile(raw), "m.index")
    return [(one.file_name, one.tensor.name, one.tensor.shape) for one in found]


def test_an_index_of_several_blocks_is_read_in_order() -> None:
    entries = [(f"w{n}".encode(), entry(1, [n], 4 * n, 4 * n)) for n in range(1, 6)]

    assert outside(table([HEADER, *entries])) == [("m.data-00000-of-00001", f"w{n}", (n,)) for n in range(1, 6)]


TENSOR = b"w", entry(1, [2], 0, 8)
DECLINED = {
    "compressed": table([HEADER, TENSOR], kind=1),
    "other byte order": table([(b"", number(1, 1) + number(2, 1)), TENSOR]),
    "no data files": table([(b"", number(1, 0)), TENSOR]),
    "too many data files": table([(b"", number(1, 100_000)), TENSOR]),
    "no header": table([TENSOR]),
    "a file that is none of them": table([HEADER, (b"w", entry(1, [2], 0, 8, shard=1))]),
    "lengths that do not fit": table([HEADER, (b"w", entry(1, [2], 0, 9))]),
    "a negative axis": table([HEADER, (b"w", entry(1, [2**64 - 1], 0, 8))]),
    "beyond any file": table([HEADER, (b"w", entry(1, [2], 2**62, 8))]),
    "keys out of order": table([HEADER, (b"x", entry(1, [2], 0, 8)), TENSOR]),
    "one key twice": table([HEADER, TENSOR, TENSOR]),
    "a name that is no text": table([HEADER, (b"\xff", entry(1, [2], 0, 8))]),
    "a slice of nothing": table([HEADER, (b"\0w\0\1", entry(1, [2], 0, 8))]),
    "a variable without its slices": table([HEADER, (b"w", entry(1, [2], 0, 0) + message(7, message(1)))]),
    "a slice beyond its variable": table(
        [
            HEADER,
            (b"\0w\0\1", entry(1, [2], 0, 8)),
            (b"w", entry(1, [2], 0, 0) + message(7, message(1, number(1, 1), number(2, 2)))),
        ]
    ),
    "a slice of other axes": table(
        [HEADER, (b"\0w\0\1", entry(1, [2], 0, 8)), (b"w", entry(1, [2], 0, 0) + message(7, message(1), message(1)))]
    ),
    "a file beyond its end": table([HEADER, TENSOR])[:-1],
}


@pytest.mark.parametrize("name", DECLINED)
def test_an_index_that_breaks_a_rule_is_declined(name: str) -> None:
    assert outside(table([HEADER, TENSOR])) == [("m.data-00000-of-00001", "w", (2,))]
    for act in (outside, lambda raw: TensorflowIndex().scan(BytesFile(raw))):
        with pytest.raises(NotThisFormat):
            act(DECLINED[name])


def onnx_model(**where: str) -> bytes:
    """Write a model of one tensor of 8 bytes in another file."""
    pairs = [message(13, message(1, key.encode()), message(2, value.encode())) for key, value in where.items()]
    tensor = message(5, number(1, 2), number(2, 1), message(8, b"w"), *pairs, number(14, 1))
    return number(1, 8) + message(7, tensor)


def test_a_model_may_say_no_more_than_the_name_of_the_other_file() -> None:
    (one,) = OnnxExternal().outside(BytesFile(onnx_model(location="./sub/w.bin")), "m.onnx")

    assert (one.file_name, one.tensor.offset, one.tensor.shape) == ("sub/w.bin", 0, (2,))


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"location": "../w.bin"},
        {"location": "/etc/passwd"},
        {"location": "a/../../w.bin"},
        {"location": "w\0bin"},
        {"location": "w.bin", "length": "9"},
        {"location": "w.bin", "offset": "-1"},
        {"location": "w.bin", "offset": "9" * 30},
        {"location": "w.bin", "offset": "١"},
    ],
)
def test_a_model_whose_tensors_could_not_be_there_is_declined(where: dict[str, str]) -> None:
    with pytest.raises(NotThisFormat):
        OnnxExternal().scan(BytesFile(onnx_model(**where)))
