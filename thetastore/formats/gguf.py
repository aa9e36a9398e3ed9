"""The GGUF layout: a head, metadata, the list of tensors, then the tensors, each at a multiple of the alignment.

The directory comes first but does not say how long it is: it ends where the last tensor's entry does. Metadata are
walked over without being kept; a vocabulary of 256,000 strings is nearly all of a directory, and takes 30 ms.

GGML lists the fastest axis first; shapes here are in C order, so that a tensor has the shape, and is cut as, in a
safetensors file.

Two plug-ins make the one format, since a format that is read from its start has to know where the file ends.

Source: https://github.com/ggml-org/ggml, docs/gguf.md; what a reader refuses: llama.cpp, ggml/src/gguf.cpp.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from thetastore.dtypes import big_endian
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, NeedBytes
from thetastore.layout import MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, Layout, Span, Tensor, checked_layout

_NAME = "gguf"
_VERSION = 1

MAX_METADATA = 200_000
"""Of these, and of arrays in arrays. Keys are held to find one that is there twice; real files have under a hundred."""
MAX_KEY_BYTES = 65_535
MAX_NESTING = 8
"""How many arrays may lie in each other. The specification sets no limit, llama.cpp allows one."""

_DEFAULT_ALIGNMENT = 32
_ALIGNMENT_KEY = b"general.alignment"

_VERSION_AT = 4


class _Order:
    """What is read, in one of the two byte orders."""

    def __init__(self, sign: str) -> None:
        self.sign = sign
        self.head = struct.Struct(f"{sign}4sIQQ")
        self.u32 = struct.Struct(f"{sign}I")
        self.u64 = struct.Struct(f"{sign}Q")
        self.type_and_offset = struct.Struct(f"{sign}IQ")
        self.array_head = struct.Struct(f"{sign}IQ")


_LITTLE, _BIG = _Order("<"), _Order(">")
_ORDERS = {b"\2\0\0\0": _LITTLE, b"\3\0\0\0": _LITTLE, b"\0\0\0\2": _BIG, b"\0\0\0\3": _BIG}
"""By the version, as it lies in the file: the magic is the same in both."""

_MIN_METADATA_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8

_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""By type of a metadata value: its length, where that is fixed."""
_UINT32, _STRING, _ARRAY = 4, 8, 9

_DTYPES = {
    0: "float32",
    1: "float16",
    2: "gguf_q4_0",
    3: "gguf_q4_1",
    6: "gguf_q5_0",
    7: "gguf_q5_1",
    8: "gguf_q8_0",
    9: "gguf_q8_1",
    10: "gguf_q2_k",
    11: "gguf_q3_k",
    12: "gguf_q4_k",
    13: "gguf_q5_k",
    14: "gguf_q6_k",
    15: "gguf_q8_k",
    16: "gguf_iq2_xxs",
    17: "gguf_iq2_xs",
    18: "gguf_iq3_xxs",
    19: "gguf_iq1_s",
    20: "gguf_iq4_nl",
    21: "gguf_iq3_s",
    22: "gguf_iq2_s",
    23: "gguf_iq4_xs",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    29: "gguf_iq1_m",
    30: "bfloat16",
    34: "gguf_tq1_0",
    35: "gguf_tq2_0",
    39: "gguf_mxfp4",
    40: "gguf_nvfp4",
    41: "gguf_q1_0",
}


class Gguf:
    """`*.gguf`, versions 2 and 3, of either byte order, padded at the end too, as GGML's own writers do."""

    name = _NAME
    version = _VERSION

    def sniff(self, head: bytes) -> bool:
        """Tell whether the magic and a known version are there."""
        return _is_gguf(head)

    def scan_header(self, prefix: bytes) -> Layout:
        """Locate the tensors; see `HeaderFormat.scan_header`. Peak memory: 460 bytes a tensor beside the prefix."""
        directory = _read_directory(prefix)
        return _layout_of(directory, _aligned(directory.end, directory.alignment))


class UnpaddedGguf:
    """The same without padding at the end, which the specification does not ask for and some writers leave out."""

    name = _NAME
    version = _VERSION

    def sniff(self, head: bytes) -> bool:
        """Tell whether the magic and a known version are there."""
        return _is_gguf(head)

    def scan_header(self, prefix: bytes) -> Layout:
        """Locate the tensors; see `HeaderFormat.scan_header`. Peak memory: 460 bytes a tensor beside the prefix."""
        directory = _read_directory(prefix)
        if not directory.end % directory.alignment:
            raise NotThisFormat("a file that needs no padding at its end")
        return _layout_of(directory, directory.end)


class _Directory(NamedTuple):
    tensors: list[Tensor]
    alignment: int
    end: int
    """Where the last tensor ends, or without tensors the directory."""


def _is_gguf(head: bytes) -> bool:
    """Tell whether a file is of a known version."""
    return head[:_VERSION_AT] == b"GGUF" and head[_VERSION_AT : _VERSION_AT + 4] in _ORDERS


def _read_directory(prefix: bytes) -> _Directory:
    order = _ORDERS.get(prefix[_VERSION_AT : _VERSION_AT + 4], _LITTLE)
    cursor = _Cursor(prefix, order)
    _, _, tensor_count, metadata_count = cursor.unpack(order.head)
    if not _is_gguf(prefix):
        raise NotThisFormat("not the magic of GGUF, or a version that is not known")
    if tensor_count > MAX_TENSORS or metadata_count > MAX_METADATA:
        raise NotThisFormat(f"{tensor_count} tensors and {metadata_count} metadata are beyond the limit")
    cursor.expect(metadata_count * _MIN_METADATA_BYTES + tensor_count * _MIN_TENSOR_BYTES)
    alignment = _read_alignment(cursor, metadata_count)
    infos = [_read_tensor(cursor) for _ in range(tensor_count)]
    start = _aligned(cursor.at, alignment)
    for info in infos:
        if info.offset % alignment:
            raise NotThisFormat(f"tensor '{info.name[:80]}' is not at a multiple of {alignment} bytes")
    tensors = [info._replace(offset=start + info.offset) for info in infos]
    end = max((tensor.offset + tensor.raw_bytes for tensor in tensors), default=cursor.at)
    return _Directory(tensors, alignment, end)


def _layout_of(directory: _Directory, file_bytes: int) -> Layout:
    spans = [Span(tensor.offset, tensor.raw_bytes, tensor.dtype, tensor.shape) for tensor in directory.tensors]
    return checked_layout(_NAME, _VERSION, file_bytes, spans, directory.tensors)


def _aligned(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment


class _Cursor:
    """A place in the prefix; every method moves it over what it names, or raises `NotThisFormat` or `NeedBytes`."""

    def __init__(self, prefix: bytes, order: _Order) -> None:
        self._prefix = prefix
        self.order = order
        self.at = 0
        self.nested_count = 0
        """Arrays in arrays so far."""

    def expect(self, nbytes: int) -> None:
        """Make sure that so many bytes follow, without moving."""
        end = self.at + nbytes
        if end > MAX_HEADER_BYTES:
            raise NotThisFormat(f"its directory would reach to byte {end}, beyond the limit of {MAX_HEADER_BYTES}")
        if end > len(self._prefix):
            raise NeedBytes(end)

    def skip(self, nbytes: int) -> None:
        self.expect(nbytes)
        self.at += nbytes

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        start = self.at
        self.skip(form.size)
        return form.unpack_from(self._prefix, start)

    def string(self, limit_bytes: int) -> bytes:
        """Return a string of at most `limit_bytes`."""
        (nbytes,) = self.unpack(self.order.u64)
        if nbytes > limit_bytes:
            raise NotThisFormat(f"a name of {nbytes} bytes is longer than {limit_bytes}")
        self.skip(nbytes)
        return self._prefix[self.at - nbytes : self.at]

    def skip_strings(self, count: int) -> None:
        """Move over strings of any length: 0.1 us each, since there may be four million."""
        u64 = self.order.u64
        self.expect(count * u64.size)
        prefix, last, unpack = self._prefix, len(self._prefix) - u64.size, u64.unpack_from
        at = self.at
        for _ in range(count):
            if at > last:
                self.expect(at - self.at + u64.size)
            at += u64.size + unpack(prefix, at)[0]
        self.skip(at - self.at)


def _read_alignment(cursor: _Cursor, metadata_count: int) -> int:
    """Move over the metadata; return the alignment that they set."""
    alignment = _DEFAULT_ALIGNMENT
    keys: set[bytes] = set()
    for _ in range(metadata_count):
        key = cursor.string(MAX_KEY_BYTES)
        if not key or key in keys:
            raise NotThisFormat(f"the metadata key {key[:80]!r} is empty, or there twice")
        keys.add(key)
        (value_type,) = cursor.unpack(cursor.order.u32)
        if key != _ALIGNMENT_KEY:
            _skip_value(cursor, value_type)
            continue
        if value_type != _UINT32:
            raise NotThisFormat(f"an alignment of type {value_type}")
        (alignment,) = cursor.unpack(cursor.order.u32)
        if alignment.bit_count() != 1:
            raise NotThisFormat(f"an alignment of {alignment} bytes is not a power of two")
    return alignment


def _skip_value(cursor: _Cursor, value_type: int) -> None:
    if value_type == _STRING:
        cursor.skip_strings(1)
    elif value_type == _ARRAY:
        _skip_array(cursor, 1)
    else:
        cursor.skip(_fixed_bytes(value_type))


def _skip_array(cursor: _Cursor, depth: int) -> None:
    element_type, count = cursor.unpack(cursor.order.array_head)
    if element_type == _STRING:
        cursor.skip_strings(count)
    elif element_type == _ARRAY:
        cursor.nested_count += count
        if depth == MAX_NESTING or cursor.nested_count > MAX_METADATA:
            raise NotThisFormat(f"metadata with {cursor.nested_count} arrays in arrays, {depth + 1} deep")
        for _ in range(count):
            _skip_array(cursor, depth + 1)
    else:
        cursor.skip(count * _fixed_bytes(element_type))


def _fixed_bytes(value_type: int) -> int:
    nbytes = _VALUE_BYTES.get(value_type)
    if nbytes is None:
        raise NotThisFormat(f"metadata of the unknown type {value_type}")
    return nbytes


def _read_tensor(cursor: _Cursor) -> Tensor:
    """Return a tensor with its offset counted from where the tensors begin, which is not known yet."""
    try:
        name = cursor.string(MAX_NAME_BYTES).decode()
    except UnicodeDecodeError:
        raise NotThisFormat("the name of a tensor is not valid UTF-8") from None
    (dimensions,) = cursor.unpack(cursor.order.u32)
    if dimensions > MAX_DIMENSIONS:
        raise NotThisFormat(f"tensor '{name[:80]}' has {dimensions} dimensions")
    lengths = cursor.unpack(struct.Struct(f"{cursor.order.sign}{dimensions}Q"))
    type_number, offset = cursor.unpack(cursor.order.type_and_offset)
    dtype = _DTYPES.get(type_number)
    if dtype is None:
        raise NotThisFormat(f"tensor '{name[:80]}' has the unknown type {type_number}")
    return Tensor(name, big_endian(dtype) if cursor.order is _BIG else dtype, lengths[::-1], offset)
