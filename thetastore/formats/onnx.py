"""The layout of ONNX models: a protocol buffer in whose graphs tensors lie as runs of bytes.

Read are the tensors whose bytes are in the file: initializers, and the constants of nodes, also in subgraphs and in
functions. Tensors in a file of their own (external data) are not in this one, and nothing of them is looked at.

Source: https://github.com/onnx/onnx, onnx/onnx.proto (IR version 13), as of onnx 1.23.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from thetastore.dtypes import raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.forward import Forward
from thetastore.formats.names import Names
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
_DIMS, _DATA_TYPE, _FLOATS, _NAME, _RAW_DATA, _DOUBLES = 1, 2, 4, 8, 9, 10

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
    """`*.onnx`, with what it holds itself."""

    name = "onnx"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a small IR version is followed by another field of a model; there is no magic."""
        return len(head) > 2 and head[0] == _MODEL_IR_VERSION << 3 and 0 < head[1] < 0x40 and head[2] in _FIRST_TAGS

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: about 600 bytes a tensor."""
        messages = Messages(Forward(file))
        names = Names("/")
        tensors: list[Tensor] = []
        for name, field in _tensor_fields(messages, file.size):
            tensor = _read_tensor(messages, field)
            if tensor is None:
                continue
            tensors.append(tensor._replace(name=names.claim([name or tensor.name])))
            if len(tensors) > MAX_TENSORS:
                raise NotThisFormat(f"more than {MAX_TENSORS} tensors")
        if not tensors:
            raise NotThisFormat("a model without tensors in the file")
        spans = [Span(tensor.offset, tensor.raw_bytes, tensor.dtype, tensor.shape) for tensor in tensors]
        return checked_layout(self.name, self.version, file.size, spans, tensors)


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


def _read_tensor(messages: Messages, tensor: Field) -> Tensor | None:
    """Return a tensor whose elements lie in the file as they are in memory; None for any other."""
    if tensor.wire_type != BYTES:
        raise NotThisFormat("a tensor that is no message")
    name = ""
    shape: list[int] = []
    dtype: str | None = None
    elements: list[Field] = []
    for field in messages.fields(tensor.offset, tensor.nbytes):
        if field.number == _DIMS:
            shape += messages.integers(field, MAX_DIMENSIONS)
        elif field.number == _DATA_TYPE:
            dtype = _DTYPES.get(field.value)
        elif field.number == _NAME:
            name = _text(messages, field)
        elif field.number == _RAW_DATA or field.number in _PACKED:
            elements = [*elements[-1:], field]
        if len(shape) > MAX_DIMENSIONS:
            raise NotThisFormat(f"a tensor of more than {MAX_DIMENSIONS} dimensions")
    if dtype is None or len(elements) != 1 or elements[0].wire_type != BYTES:
        return None
    (field,) = elements
    if dtype not in _PACKED.get(field.number, (dtype,)):
        return None
    if field.nbytes != raw_bytes_of(dtype, math.prod(shape)):
        raise NotThisFormat(f"tensor '{name[:80]}' has {field.nbytes} bytes for {dtype} {shape}")
    return Tensor(name, dtype, tuple(shape), field.offset)
