"""The layout of ONNX models: a protocol buffer in whose graphs tensors lie as runs of bytes.

Read are the tensors whose bytes are in the file: initializers, and the constants of nodes, also in subgraphs and in
functions. A model that has tensors in other files (external data), too, is a format of its own: `outside` says which.

Source: https://github.com/onnx/onnx, onnx/onnx.proto (IR version 13), as of onnx 1.23.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator

from thetastore.dtypes import raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.forward import Forward
from thetastore.formats.names import Names
from thetastore.formats.outside import Outside, checked_outside
from thetastore.formats.protobuf import BYTES, VARINT, Field, Messages
from thetastore.layout import MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, Layout, Span, Tensor, checked_layout

MAX_DEPTH = 32
"""How many graphs may lie in each other."""

MAX_ATTRIBUTES = 10_000
"""Of one node, which are held until its name is known."""

# Field numbers of the messages that are read.
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_FUNCTIONS = 1, 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER = 1, 5, 15
_FUNCTION_NODE = 7
_NODE_OUTPUT, _NODE_ATTRIBUTE = 2, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_DIMS, _DATA_TYPE, _FLOATS, _NAME, _RAW_DATA, _DOUBLES, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 4, 8, 9, 10, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_EXTERNAL = 1
_MAX_DIGITS = 19

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
    24: "float8_e8m0fnu",
    25: "uint2",
    26: "int2",
}
_PACKED = {_FLOATS: ("float32", "complex64"), _DOUBLES: ("float64", "complex128")}
"""Fields that hold the elements of these types as they are in memory."""

_FIRST_TAGS = frozenset(
    (number << 3) | wire_type for number, wire_type in ((2, 2), (3, 2), (4, 2), (5, 0), (6, 2), (7, 2), (8, 2), (14, 2))
)


class Onnx:
    """`*.onnx` that hold all of their tensors."""

    name = "onnx"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether this may be a model: its IR version comes first, then a field that models have."""
        return _may_be_model(head)

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: about 600 bytes a tensor."""
        inside, outside = _located(file)
        if outside:
            raise NotThisFormat("a model that has tensors in other files")
        if not inside:
            raise NotThisFormat("a model without tensors")
        return _layout(self.name, self.version, file, inside)


class OnnxExternal:
    """`*.onnx` that have tensors in other files; those in the file itself, if any, are in the layout."""

    name = "onnx-external"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether this may be a model, as `Onnx` does."""
        return _may_be_model(head)

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors that are here; see `Onnx.scan`."""
        inside, outside = _located(file)
        if not outside:
            raise NotThisFormat("a model that has no tensors in other files")
        return _layout(self.name, self.version, file, inside)

    def outside(self, file: RandomAccess, file_name: str) -> list[Outside]:
        """Return the tensors in other files; see `TableFormat.outside`."""
        return _located(file)[1]


def _may_be_model(head: bytes) -> bool:
    return len(head) > 2 and head[0] == _MODEL_IR_VERSION << 3 and 0 < head[1] < 0x40 and head[2] in _FIRST_TAGS


def _layout(name: str, version: int, file: RandomAccess, tensors: list[Tensor]) -> Layout:
    spans = [Span(tensor.offset, tensor.raw_bytes, tensor.dtype, tensor.shape) for tensor in tensors]
    return checked_layout(name, version, file.size, spans, tensors)


def _located(file: RandomAccess) -> tuple[list[Tensor], list[Outside]]:
    """Return the tensors of a model that lie in its file, and those that lie in others."""
    messages = Messages(Forward(file))
    names = Names("/")
    inside: list[Tensor] = []
    outside: list[Outside] = []
    for name, field in _tensor_fields(messages, file.size):
        found = _read_tensor(messages, field, name)
        if isinstance(found, Outside):
            outside.append(found)
        elif found is not None:
            inside.append(found._replace(name=names.claim([found.name])))
        if len(inside) + len(outside) > MAX_TENSORS:
            raise NotThisFormat(f"more than {MAX_TENSORS} tensors")
    # Last, so that what lies in the file is called the same whatever lies elsewhere.
    claimed = [one._replace(tensor=one.tensor._replace(name=names.claim([one.tensor.name]))) for one in outside]
    return inside, checked_outside(claimed)


def _tensor_fields(messages: Messages, file_bytes: int) -> Iterator[tuple[str, Field]]:
    """Yield every tensor of a model, and what it is called where it does not say so itself."""
    graph_count = 0
    for place, field in enumerate(messages.fields(0, file_bytes)):
        if place == 0 and field[:2] != (_MODEL_IR_VERSION, VARINT):
            raise NotThisFormat("a model that does not begin with its version")
        if field.number == _MODEL_GRAPH:
            graph_count += 1
            yield from _graph(messages, field, 1)
        elif field.number == _MODEL_FUNCTIONS and field.wire_type == BYTES:
            for part in messages.fields(field.offset, field.nbytes):
                if part.number == _FUNCTION_NODE:
                    yield from _node(messages, part, 1)
    if graph_count != 1:
        raise NotThisFormat(f"a model of {graph_count} graphs")


def _graph(messages: Messages, graph: Field, depth: int) -> Iterator[tuple[str, Field]]:
    if graph.wire_type != BYTES or depth > MAX_DEPTH:
        raise NotThisFormat(f"graphs nested more than {MAX_DEPTH} deep, or none")
    for field in messages.fields(graph.offset, graph.nbytes):
        if field.number == _GRAPH_INITIALIZER:
            yield "", field
        elif field.number == _GRAPH_NODE:
            yield from _node(messages, field, depth)
        elif field.number == _GRAPH_SPARSE_INITIALIZER:
            for part in messages.fields(field.offset, field.nbytes):
                if part.number in (_SPARSE_VALUES, _SPARSE_INDICES):
                    yield "", part


def _node(messages: Messages, node: Field, depth: int) -> Iterator[tuple[str, Field]]:
    """Yield the tensors of a node's attributes; a constant is called as what the node puts out."""
    attributes: list[Field] = []
    output = ""
    for field in messages.fields(node.offset, node.nbytes):
        if field.number == _NODE_ATTRIBUTE:
            attributes.append(field)
            if len(attributes) > MAX_ATTRIBUTES:
                raise NotThisFormat(f"a node of more than {MAX_ATTRIBUTES} attributes")
        elif field.number == _NODE_OUTPUT and not output:
            output = _text(messages, field)
    for attribute in attributes:
        for field in messages.fields(attribute.offset, attribute.nbytes):
            if field.number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                yield output, field
            elif field.number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                yield from _graph(messages, field, depth + 1)


def _text(messages: Messages, field: Field) -> str:
    try:
        return messages.read(field, MAX_NAME_BYTES).decode()
    except UnicodeDecodeError:
        raise NotThisFormat("the name of a tensor is not valid UTF-8") from None


def _read_tensor(messages: Messages, tensor: Field, called: str) -> Tensor | Outside | None:
    """Return a tensor whose elements lie in this file or in another as they are in memory; None for any other.

    Args:
        messages: of the file.
        tensor: the message.
        called: what it is called, whatever it says itself; empty where that is all there is.
    """
    if tensor.wire_type != BYTES:
        raise NotThisFormat("a tensor that is no message")
    own_name = ""
    shape: list[int] = []
    dtype: str | None = None
    elements: list[Field] = []
    elsewhere: dict[str, str] = {}
    is_elsewhere = False
    for field in messages.fields(tensor.offset, tensor.nbytes):
        if field.number == _DIMS:
            shape += messages.integers(field, MAX_DIMENSIONS)
        elif field.number == _DATA_TYPE:
            dtype = _DTYPES.get(field.value)
        elif field.number == _NAME:
            own_name = _text(messages, field)
        elif field.number == _RAW_DATA or field.number in _PACKED:
            elements = [*elements[-1:], field]
        elif field.number == _EXTERNAL_DATA:
            elsewhere |= _entry(messages, field)
        elif field.number == _DATA_LOCATION:
            is_elsewhere = field.value == _EXTERNAL
        if len(shape) > MAX_DIMENSIONS:
            raise NotThisFormat(f"a tensor of more than {MAX_DIMENSIONS} dimensions")
    if dtype is None:
        return None
    found = Tensor(called or own_name, dtype, tuple(shape), 0)
    return _placed_elsewhere(found, elsewhere) if is_elsewhere else _placed_here(found, elements)


def _placed_here(tensor: Tensor, elements: list[Field]) -> Tensor | None:
    if len(elements) != 1 or elements[0].wire_type != BYTES:
        return None
    (field,) = elements
    if tensor.dtype not in _PACKED.get(field.number, (tensor.dtype,)):
        return None
    _check_length(tensor, field.nbytes)
    return tensor._replace(offset=field.offset)


def _placed_elsewhere(tensor: Tensor, elsewhere: dict[str, str]) -> Outside:
    if "length" in elsewhere:
        _check_length(tensor, _number(elsewhere["length"]))
    offset = _number(elsewhere.get("offset", "0"))
    return Outside(posixpath.normpath(elsewhere.get("location", "")), tensor._replace(offset=offset))


def _check_length(tensor: Tensor, nbytes: int) -> None:
    if nbytes != raw_bytes_of(tensor.dtype, math.prod(tensor.shape)):
        raise NotThisFormat(f"tensor '{tensor.name[:80]}' has {nbytes} bytes for {tensor.dtype} {tensor.shape}")


def _entry(messages: Messages, entry: Field) -> dict[str, str]:
    """Return a key with its value: of where a tensor lies, and what else a writer has to say of that."""
    if entry.wire_type != BYTES:
        raise NotThisFormat("an entry that is no message")
    texts = {_ENTRY_KEY: "", _ENTRY_VALUE: ""}
    for field in messages.fields(entry.offset, entry.nbytes):
        if field.number in texts:
            texts[field.number] = _text(messages, field)
    return {texts[_ENTRY_KEY]: texts[_ENTRY_VALUE]}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise NotThisFormat(f"'{text[:80]}' is no place in a file")
    return int(text)
