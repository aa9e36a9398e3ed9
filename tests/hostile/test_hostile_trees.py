"""HDF5, msgpack and ONNX files that are made to exhaust a reader are declined, or read, within set time and memory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from typing import Any

import pytest

from thetastore.errors import NotThisFormat
from thetastore.formats.flax_msgpack import MAX_DEPTH, FlaxMsgpack
from thetastore.formats.hdf5 import Hdf5
from thetastore.formats.hdf5_types import dtype_of
from thetastore.formats.onnx import Onnx
from thetastore.layout import Layout
from thetastore.testing.formats import BytesFile

FIXTURES = os.path.join(os.path.dirname(__file__), "..", "fixtures")


def scan_msgpack(raw: bytes) -> Layout:
    return FlaxMsgpack().scan(BytesFile(raw))


def array(shape: bytes = b"\x91\x02", dtype: bytes = b"\xa5uint8", raw: bytes = b"\xc4\x02xy") -> bytes:
    body = b"\x93" + shape + dtype + raw
    return b"\xc7" + bytes([len(body), 1]) + body


def test_the_template_of_msgpack_is_itself_right() -> None:
    assert [tensor[:3] for tensor in scan_msgpack(b"\x81\xa1w" + array()).tensors] == [("w", "uint8", (2,))]


MSGPACK = {
    "nothing": b"",
    "only a map of arrays that is cut off": b"\x82\xa1w" + array(),
    "something behind the value": b"\x81\xa1w" + array() + b"\0",
    "the type that is not used": b"\x82\xa1a\xc1\xa1w" + array(),
    "no array at all": b"\x81\xa1w\x01",
    "a map of 2^32 - 1 pairs": b"\xdf\xff\xff\xff\xff\xa1w" + array(),
    "a list of 2^32 - 1 values": b"\x81\xa1w\xdd\xff\xff\xff\xff" + array(),
    "a text of 2^32 - 1 bytes": b"\x82\xa1w" + array() + b"\xa1x\xdb\xff\xff\xff\xff",
    "an array of 2^32 - 1 bytes": b"\x81\xa1w\xc9\xff\xff\xff\xff\x01" + array(),
    "an array of four parts": b"\x81\xa1w" + array().replace(b"\x93", b"\x94"),
    "a shape that is no list": b"\x81\xa1w" + array(shape=b"\x02"),
    "a negative length": b"\x81\xa1w" + array(shape=b"\x91\xff"),
    "a length that is text": b"\x81\xa1w" + array(shape=b"\x91\xa12"),
    "a shape of 65 lengths": b"\x81\xa1w" + array(shape=b"\xdc\x00\x41" + b"\x01" * 65),
    "a shape that does not fit": b"\x81\xa1w" + array(shape=b"\x91\x03"),
    "a dtype that is a number": b"\x81\xa1w" + array(dtype=b"\x07"),
    "elements that are text": b"\x81\xa1w" + array(raw=b"\xa2xy"),
    "an array longer than its value": b"\x81\xa1w"
    + array().replace(b"\x01\x93", b"\x01\x93", 1)[:1]
    + b"\x03"
    + array()[2:],
    "a key that is a number": b"\x81\x01" + array(),
    "a key that is not UTF-8": b"\x81\xa1\xff" + array(),
    "nested beyond the limit": b"\x81\xa1w" * (MAX_DEPTH + 1) + array(),
    "lists nested a million deep": b"\x81\xa1w" + b"\x91" * 1_000_000 + array(),
}


@pytest.mark.parametrize("name", MSGPACK)
def test_a_msgpack_file_that_breaks_a_rule_is_declined(name: str) -> None:
    with pytest.raises(NotThisFormat):
        scan_msgpack(MSGPACK[name])


def test_two_paths_of_one_name_are_told_apart() -> None:
    raw = b"\x82\xa3a/b" + array() + b"\xa1a\x81\xa1b" + array()

    assert [tensor.name for tensor in scan_msgpack(raw).tensors] == ["a/b", "a/b#2"]


def field(number: int, raw: bytes | int) -> bytes:
    """Return a field of a protocol buffer: a varint, or bytes."""
    if isinstance(raw, int):
        return varint(number << 3) + varint(raw)
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


TENSOR = field(1, 2) + field(2, 2) + field(8, b"w") + field(9, b"xy")


def model(graph: bytes, before: bytes = field(1, 10)) -> bytes:
    return before + field(7, graph)


def scan_onnx(raw: bytes) -> Layout:
    return Onnx().scan(BytesFile(raw))


def test_the_template_of_onnx_is_itself_right() -> None:
    assert [tensor[:3] for tensor in scan_onnx(model(field(5, TENSOR))).tensors] == [("w", "uint8", (2,))]
    packed = field(1, varint(1) + varint(2)) + TENSOR[2:]
    assert [tensor[:3] for tensor in scan_onnx(model(field(5, packed))).tensors] == [("w", "uint8", (1, 2))]


def nested(depth: int) -> bytes:
    graph = field(5, TENSOR)
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return graph


ONNX = {
    "nothing": b"",
    "no graph": field(1, 10),
    "two graphs": model(field(5, TENSOR)) + field(7, field(5, TENSOR)),
    "a graph that is a number": field(1, 10) + field(7, 5),
    "no version": field(7, field(5, TENSOR)),
    "a tensor that is a number": model(field(5, 3)),
    "a group": model(field(5, TENSOR)) + b"\x0b\x0c",
    "field 0": model(field(5, TENSOR)) + b"\x02\x00",
    "a varint of eleven bytes": model(field(5, TENSOR)) + b"\x08" + b"\xff" * 11,
    "a varint of 70 bits": model(field(5, TENSOR)) + b"\x08" + b"\xff" * 9 + b"\x7f",
    "a field longer than its message": model(field(5, TENSOR)[:-1] + b"y")[:-1],
    "a field of 2^63 bytes": model(field(5, TENSOR)) + b"\x12" + varint(2**63),
    "another length": model(field(5, field(1, 3) + TENSOR[2:])),
    "a shape of 2^64 - 1": model(field(5, field(1, 2**64 - 1) + TENSOR[2:])),
    "65 dimensions": model(field(5, field(1, 1) * 65 + TENSOR)),
    "65 dimensions, packed": model(field(5, field(1, b"\1" * 65) + TENSOR)),
    "dimensions that end within one": model(field(5, field(1, b"\1\x80") + TENSOR)),
    "a name that is a number": model(field(5, TENSOR.replace(field(8, b"w"), field(8, 5)))),
    "a name that is not UTF-8": model(field(5, TENSOR.replace(b"w", b"\xff"))),
    "graphs nested beyond the limit": model(nested(32)),
    "graphs nested 500 deep": model(nested(500)),
}


@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_file_that_breaks_a_rule_is_declined(name: str) -> None:
    with pytest.raises(NotThisFormat):
        scan_onnx(ONNX[name])


def test_graphs_may_nest() -> None:
    assert len(scan_onnx(model(nested(31))).tensors) == 1


def hdf5(name: str) -> bytes:
    with open(os.path.join(FIXTURES, "hdf5", name), "rb") as file:
        return file.read()


def scan_hdf5(raw: bytes) -> Layout:
    return Hdf5().scan(BytesFile(raw))


def patched(name: str, old: bytes, new: bytes, at: int = 0) -> bytes:
    raw = bytearray(hdf5(name))
    start = raw.index(old) + at
    raw[start : start + len(new)] = new
    assert raw != hdf5(name)
    return bytes(raw)


HDF5 = {
    "nothing": b"",
    "the magic alone": hdf5("model.h5")[:8],
    "a superblock of version 1": patched("model.h5", b"\x89HDF", b"\1", 8),
    "a superblock of version 9": patched("model.h5", b"\x89HDF", b"\t", 8),
    "addresses of four bytes": patched("model.h5", b"\x89HDF", b"\4", 13),
    "addresses that begin elsewhere": patched("model.h5", b"\x89HDF", b"\1", 24),
    "a file cut short": hdf5("model.h5")[:-1],
    "a root beyond the file": patched("model.h5", b"\x89HDF", b"\xff" * 7, 64),
    "a root that is data": patched("model.h5", b"\x89HDF", b"\x08", 64),
    "a heap without its magic": patched("model.h5", b"HEAP", b"H", 1),
    "a heap of 2^63 bytes": patched("model.h5", b"HEAP", b"\x80", 15),
    "a heap of 2^32 bytes": patched("model.h5", b"HEAP", b"\1", 12),
    "a tree without its magic": patched("model.h5", b"TREE", b"X"),
    "a tree of another kind": patched("model.h5", b"TREE", b"\1", 4),
    "a tree of 65535 entries": patched("model.h5", b"TREE", b"\xff\xff", 6),
    "a tree that is its own child": patched("model.h5", b"TREE", b"\1\1\0" + b"\xff" * 16 + bytes(8) + b"\x88\0", 5),
    "symbols without their magic": patched("model.h5", b"SNOD", b"X"),
    "65535 symbols": patched("model.h5", b"SNOD", b"\xff\xff", 6),
    "a name beyond the heap": patched("model.h5", b"SNOD", b"\xff\xff\xff", 8),
    "an object beyond the file": patched("model.h5", b"SNOD", b"\xff\xff\xff", 16),
    "a heap of links without its magic": patched("dense.h5", b"FRHP", b"X"),
    "a compressed heap of links": patched("dense.h5", b"FRHP", b"\1", 7),
    "a heap of links of no width": patched("dense.h5", b"FRHP", b"\0\0", 110),
    "a heap of blocks of 48 bytes": patched("dense.h5", b"FRHP", b"\x30\0", 112),
    "a heap of links beyond the file": patched("dense.h5", b"FRHP", b"\xff" * 7, 132),
    "a heap of one row": patched("dense.h5", b"FRHP", b"\1\0", 140),
    "a table of a heap without its magic": patched("dense.h5", b"FHIB", b"X"),
    "a tree of links without its magic": patched("dense.h5", b"BTHD", b"X"),
    "a tree of links of another kind": patched("dense.h5", b"BTHD", b"\6", 5),
    "a tree of records of no bytes": patched("dense.h5", b"BTHD", b"\0\0", 10),
    "a tree of links 65535 deep": patched("dense.h5", b"BTHD", b"\xff\xff", 12),
    "a node of links without its magic": patched("dense.h5", b"BTLF", b"X"),
    "an object header of version 7": patched("latest.h5", b"OHDR", b"\7", 4),
}


@pytest.mark.parametrize("name", HDF5)
def test_an_hdf5_file_that_breaks_a_rule_is_declined(name: str) -> None:
    with pytest.raises(NotThisFormat):
        scan_hdf5(HDF5[name])


def test_types_that_nest_for_ever_are_no_numbers() -> None:
    one = bytes((0x18, 2, 0, 0, 1, 0, 0, 0))
    integer = bytes((0x10, 8, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0))

    assert dtype_of(one * 8000 + integer) is None
    assert dtype_of(one + integer) == "int8"
    assert dtype_of(one + integer + b"FALSE\0\0\0TRUE\0\0\0\0\0\1") == "bool"
    assert dtype_of(b"") is None


def test_two_datasets_that_share_bytes_make_a_file_opaque() -> None:
    tensors = {tensor.name: tensor for tensor in scan_hdf5(hdf5("many.h5")).tensors}
    first, second = (struct.pack("<Q", tensors[f"layer_0{n}/w"].offset) for n in (0, 1))
    raw = bytearray(hdf5("many.h5"))
    at = raw.index(second + struct.pack("<Q", 12))
    raw[at : at + 8] = struct.pack("<Q", tensors["layer_00/w"].offset + 4)

    assert first != second
    with pytest.raises(NotThisFormat, match="overlaps"):
        scan_hdf5(bytes(raw))


# Each runs in a process of its own, since peak memory can be measured only from the start.
ATTACKS = {
    "arrays below 128 long keys": (
        "flax_msgpack.FlaxMsgpack",
        "b'\\x81\\xda\\xff\\x00'.join([b''] + [b'k' * 0xff00] * 127) + arrays(150_000)",
    ),
    "millions of nothing": ("flax_msgpack.FlaxMsgpack", "b'\\x81\\xa1w\\xdd\\x02\\0\\0\\0' + b'\\xc0' * (2 << 24)"),
    "as many arrays as may be": (
        "flax_msgpack.FlaxMsgpack",
        "arrays(200_001)",
    ),
    "millions of fields": ("onnx.Onnx", "b'\\x08\\x0a' + b'\\x28\\x01' * (16 << 20)"),
    "millions of attributes": (
        "onnx.Onnx",
        "b'\\x08\\x0a' + message(7, message(1, b'\\x2a\\x00' * (16 << 20)))",
    ),
    "millions of runs of bytes in a tensor": (
        "onnx.Onnx",
        "b'\\x08\\x0a' + message(7, message(5, b'\\x4a\\x00' * (16 << 20)))",
    ),
    "a B-tree whose nodes are all one": ("hdf5.Hdf5", "cyclic_tree()"),
    "a header that continues in itself": ("hdf5.Hdf5", "endless_header()"),
    "millions of messages that mean nothing": ("hdf5.Hdf5", "messages(0)"),
    "millions of attributes of an object": ("hdf5.Hdf5", "messages(0x0C)"),
    "groups in each other": ("hdf5.Hdf5", "deep_groups()"),
}

MEASURE = """
import json, struct, time
from thetastore.errors import NotThisFormat
from thetastore.formats import flax_msgpack, hdf5, onnx
from thetastore.testing.formats import BytesFile
def message(number, raw):
    length, out = len(raw), bytearray([number << 3 | 2])
    while length > 0x7f:
        out.append(length & 0x7f | 0x80)
        length >>= 7
    return bytes(out) + bytes([length]) + raw
def arrays(count):
    one = b"\\xc7\\x0c\\x01\\x93\\x91\\x01\\xa5uint8\\xc4\\x01x"
    return b"\\xdf" + count.to_bytes(4, "big") + b"".join(b"\\xa6%06d" % n + one for n in range(count))
def file(root_messages, rest):
    head = b"\\x89HDF\\r\\n\\x1a\\n" + struct.pack("<BBBBQQQQI", 2, 8, 8, 0, 0, 2**64 - 1, 1 << 20, 48, 0)
    raw = head + b"OHDR" + struct.pack("<BBI", 2, 2, len(root_messages)) + root_messages + bytes(4) + rest
    return raw + bytes((1 << 20) - len(raw))
def cyclic_tree():
    table = struct.pack("<BHBQQ", 0x11, 16, 0, 200, 100_000)
    node = b"TREE" + struct.pack("<BBHQQ", 0, 1, 60_000, 0, 0) + struct.pack("<QQ", 0, 200) * 60_000
    raw = bytearray(file(table, b""))
    raw[200:200 + len(node)] = node
    raw[100_000:100_032] = b"HEAP" + struct.pack("<B3xQQQ", 0, 8, 0, 0)
    return bytes(raw)
def endless_header():
    again = struct.pack("<BHBQQ", 0x10, 16, 0, 82, 28)
    return file(again, b"OCHK" + again + bytes(4))
def messages(kind, count=7 << 20):
    raw = struct.pack("<BHB", kind, 0, 0) * count
    return large(raw)
def large(raw):
    head = b"\\x89HDF\\r\\n\\x1a\\n" + struct.pack("<BBBBQQQQI", 2, 8, 8, 0, 0, 2**64 - 1, 48 + 10 + len(raw), 48, 0)
    return head + b"OHDR" + struct.pack("<BBI", 2, 2, len(raw)) + raw
def deep_groups():
    raw = bytearray(file(b"", b""))
    for n in range(10_000):
        at, to = 48 + 64 * n, 48 + 64 * (n + 1)
        link = struct.pack("<BBB1sQ", 1, 0, 1, b"g", to)
        head = b"OHDR" + struct.pack("<BBI", 2, 2, len(link) + 4) + struct.pack("<BHB", 6, len(link), 0) + link
        raw[at:at + len(head)] = head
    return bytes(raw)
raw = {text}
def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")
before_bytes, started = peak_bytes(), time.process_time()
try:
    {format}().scan(BytesFile(raw))
    outcome = "layout"
except NotThisFormat as error:
    outcome = str(error)
print(json.dumps([outcome, peak_bytes() - before_bytes, time.process_time() - started]))
"""


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_that_is_made_to_exhaust_takes_bounded_memory_and_time(attack: str) -> None:
    format, text = ATTACKS[attack]
    program = MEASURE.replace("{text}", text).replace("{format}", format)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    result: list[Any] = json.loads(done.stdout)
    outcome, extra_bytes, elapsed_s = result

    assert outcome
    assert extra_bytes < 300 << 20, f"{extra_bytes >> 20} MiB beside the file: {outcome}"
    assert elapsed_s < 20, outcome
