"""TensorFlow checkpoints: `PREFIX.index` names the tensors that lie in `PREFIX.data-00000-of-00001` and so on.

The index is a sorted table of messages. It holds no tensors itself, so its layout lists none; `outside` reads what it
says. Of a variable that was saved in slices, each slice is a piece.

Source: https://github.com/tensorflow/tensorflow, tensorflow/core/protobuf/tensor_bundle.proto, core/util/tensor_bundle
and core/util/saved_tensor_slice_util.cc, as of TensorFlow 2.21.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from thetastore.dtypes import raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, RandomAccess
from thetastore.formats.forward import Forward
from thetastore.formats.outside import Outside, checked_outside, piece
from thetastore.formats.protobuf import BYTES, VARINT, Field, Messages
from thetastore.formats.sorted_table import Value, values
from thetastore.layout import MAX_DIMENSIONS, MAX_TENSORS, Layout, Tensor, checked_layout

INDEX_ENDING = ".index"
MAX_SHARDS = 99_999
"""More do not fit the five digits of their names."""

# Field numbers of the messages that are read.
_NUM_SHARDS, _ENDIANNESS = 1, 2
_DTYPE, _SHAPE, _SHARD_ID, _OFFSET, _SIZE, _SLICES = 1, 2, 3, 4, 5, 7
_SHAPE_DIM, _SHAPE_UNKNOWN_RANK = 2, 3
_DIM_SIZE = 1
_SLICE_EXTENT = 1
_EXTENT_START, _EXTENT_LENGTH = 1, 2

_DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    11: "int8",
    12: "uint8",
    13: "int32",
    14: "bfloat16",
    15: "int16",
    16: "uint16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    28: "float8_e5m2fnuz",
}
"""Quantised integers are listed as what they are made of. Texts, resources and integers of four bits are not listed."""
_SLICE_KEY = b"\0"
"""Begins the key of a slice; no variable is called so."""
_END_OF_NAME = b"\0\1"


class _Extent(NamedTuple):
    """What a slice takes of one axis."""

    start: int
    length: int
    """-1 for all of the axis."""


class _Entry(NamedTuple):
    """What the index says of a variable, or of a slice."""

    dtype: str | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    nbytes: int
    slices: tuple[tuple[_Extent, ...], ...]
    """In the order of their keys; where there are any, the entry has no bytes itself."""


class TensorflowIndex:
    """`*.index`."""

    name = "tensorflow-index"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether this may be a table that begins with the header of a checkpoint, under the empty key."""
        return len(head) > 4 and head[:2] == b"\0\0" and 2 <= head[2] < 0x40 and head[3] == _NUM_SHARDS << 3

    def scan(self, file: RandomAccess) -> Layout:
        """Check the whole index; it has no tensors of its own. Peak memory: about 1 KiB a tensor that it names."""
        checked_outside(list(_outside(file, "")))
        return checked_layout(self.name, self.version, file.size, [], [])

    def outside(self, file: RandomAccess, file_name: str) -> list[Outside]:
        """Return the tensors that the index names; see `TableFormat.outside`."""
        if not file_name.endswith(INDEX_ENDING):
            raise NotThisFormat(f"the index of a TensorFlow checkpoint is called PREFIX{INDEX_ENDING}: '{file_name}'")
        return checked_outside(list(_outside(file, file_name.removesuffix(INDEX_ENDING))))


def _outside(file: RandomAccess, prefix: str) -> Iterator[Outside]:
    if file.size > MAX_HEADER_BYTES:
        raise NotThisFormat(f"an index of more than {MAX_HEADER_BYTES} bytes")
    forward = Forward(file)
    messages = Messages(forward)
    table = values(forward)
    header = next(table, None)
    if header is None or header.key:
        raise NotThisFormat("an index that does not begin with its header")
    shard_count = _read_header(messages, header)
    tensor_count = 0
    for name, entry, shape, at in _named(messages, table):
        if entry.shard >= shard_count:
            raise NotThisFormat(f"a tensor in file {entry.shard} of {shard_count}")
        if entry.dtype is None:
            continue
        if entry.nbytes != raw_bytes_of(entry.dtype, math.prod(entry.shape)):
            raise NotThisFormat(f"tensor '{name[:80]}' has {entry.nbytes} bytes for {entry.dtype} {entry.shape}")
        tensor_count += 1
        if tensor_count > MAX_TENSORS:
            raise NotThisFormat(f"more than {MAX_TENSORS} tensors")
        file_name = f"{prefix}.data-{entry.shard:05d}-of-{shard_count:05d}"
        yield piece(file_name, Tensor(name, entry.dtype, entry.shape, entry.offset), shape, at)


def _read_header(messages: Messages, header: Value) -> int:
    """Return how many data files there are."""
    shard_count = 0
    for field in messages.fields(header.offset, header.nbytes):
        if field.number == _NUM_SHARDS:
            shard_count = field.value
        elif field.number == _ENDIANNESS and field.value:
            raise NotThisFormat("elements whose highest byte is first")
    if not 0 < shard_count <= MAX_SHARDS:
        raise NotThisFormat(f"a checkpoint of {shard_count} data files")
    return shard_count


class _Piece(NamedTuple):
    """What has bytes."""

    name: str
    entry: _Entry
    shape: tuple[int, ...]
    """Of the variable that this is, or is a slice of."""
    at: tuple[int, ...]
    """Index of its first element."""


def _named(messages: Messages, table: Iterable[Value]) -> Iterator[_Piece]:
    """Yield what has bytes, with its name. The slices of all variables come first: their keys begin with a NUL."""
    slices: dict[bytes, list[_Entry]] = {}
    for value in table:
        entry = _read_entry(messages, value)
        if value.key.startswith(_SLICE_KEY):
            name, end, _ = value.key[1:].partition(_END_OF_NAME)
            if not end or entry.slices:
                raise NotThisFormat("a slice without a name, or in slices")
            slices.setdefault(name, []).append(entry)
        elif entry.slices:
            yield from _sliced(_text(value.key), entry, slices.pop(value.key, []))
        else:
            yield _Piece(_text(value.key), entry, entry.shape, (0,) * len(entry.shape))
    if slices:
        raise NotThisFormat("slices of what is no variable")


def _sliced(name: str, whole: _Entry, parts: Sequence[_Entry]) -> Iterator[_Piece]:
    """Yield the slices of a variable, of which the entry of the whole says where they lie in it."""
    if len(parts) != len(whole.slices):
        raise NotThisFormat(f"variable '{name[:80]}' has {len(parts)} of its {len(whole.slices)} slices")
    for extents, part in zip(whole.slices, parts, strict=True):
        ranges = [
            (0, length) if extent.length < 0 else (extent.start, extent.start + extent.length)
            for extent, length in zip(extents, whole.shape, strict=True)
        ]
        is_within = all(stop <= length for (_, stop), length in zip(ranges, whole.shape, strict=True))
        if not is_within or part.shape != tuple(stop - start for start, stop in ranges) or part.dtype != whole.dtype:
            raise NotThisFormat(f"a slice of '{name[:80]}' that is no part of it: {part.dtype} {part.shape}")
        yield _Piece(name, part, whole.shape, tuple(start for start, _ in ranges))


def _read_entry(messages: Messages, value: Value) -> _Entry:
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    numbers = dict.fromkeys((_SHARD_ID, _OFFSET, _SIZE), 0)
    slices: list[tuple[_Extent, ...]] = []
    for field in messages.fields(value.offset, value.nbytes):
        if field.number == _DTYPE:
            dtype = _DTYPES.get(field.value)
        elif field.number == _SHAPE:
            shape = _read_shape(messages, field)
        elif field.number in numbers and field.wire_type == VARINT:
            numbers[field.number] = field.value
        elif field.number == _SLICES:
            slices.append(tuple(_read_extents(messages, field)))
    if any(len(extents) != len(shape) for extents in slices):
        raise NotThisFormat("a slice that has other axes than its variable")
    return _Entry(dtype, shape, numbers[_SHARD_ID], numbers[_OFFSET], numbers[_SIZE], tuple(sorted(slices)))


def _read_shape(messages: Messages, shape: Field) -> tuple[int, ...]:
    lengths = []
    for field in _parts(messages, shape):
        if field.number == _SHAPE_UNKNOWN_RANK and field.value:
            raise NotThisFormat("a tensor of no shape")
        if field.number == _SHAPE_DIM:
            lengths.append(_numbers(messages, field).get(_DIM_SIZE, 0))
            if len(lengths) > MAX_DIMENSIONS:
                raise NotThisFormat(f"a tensor of more than {MAX_DIMENSIONS} dimensions")
    return tuple(lengths)


def _read_extents(messages: Messages, slice_: Field) -> Iterator[_Extent]:
    for count, field in enumerate(_parts(messages, slice_)):
        if field.number != _SLICE_EXTENT or count >= MAX_DIMENSIONS:
            raise NotThisFormat("a slice of other things than axes, or of too many")
        extent = _numbers(messages, field)
        yield _Extent(extent.get(_EXTENT_START, 0), extent.get(_EXTENT_LENGTH, -1))


def _numbers(messages: Messages, field: Field) -> dict[int, int]:
    """Return the integers of a message by their numbers; of several, the last."""
    return {part.number: part.value for part in _parts(messages, field) if part.wire_type == VARINT}


def _parts(messages: Messages, field: Field) -> Iterator[Field]:
    if field.wire_type != BYTES:
        raise NotThisFormat(f"field {field.number} is no message")
    return messages.fields(field.offset, field.nbytes)


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise NotThisFormat("the name of a tensor is not valid UTF-8") from None
