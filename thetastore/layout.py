"""Where tensors lie in a file: the answer of a format plug-in.

A plug-in only *locates*. The file is rebuilt by copying bytes, so what a plug-in overlooks costs
deduplication, never correctness: bytes under no span are kept too, as skeleton.

Two kinds of annotation are kept apart, because formats differ in them:

* a **span** is a run of bytes that is cut on the grid of its shape (see `chunking`);
* a **tensor** is a name with dtype, shape and a place. In safetensors each tensor is a span of its
  own; in a torch file several tensors may view one storage, overlap, or step through it by strides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.errors import NotThisFormat

MAX_TENSORS = 200_000
"""Above this a file is opaque: its pointer would be longer than Git and people can bear."""
MAX_DIMENSIONS = 64
MAX_FILE_BYTES = 2**62
MAX_NAME_BYTES = 65_535
MAX_TABLE_BYTES = 60 << 20
"""Bound of the tensor table as text (`table_bytes`), a little under the length of the longest pointer."""
MAX_AMPLIFICATION = 4
"""Tensors may overlap and, by strides of 0, repeat elements; together they may name this many times the bytes of
their file. More is a trap: hashing all of them would take for ever, and the file is opaque."""


class Span(NamedTuple):
    """Bytes `[offset, offset + raw_bytes)` of a file, row-major elements of one dtype and shape."""

    offset: int
    raw_bytes: int
    dtype: str
    shape: tuple[int, ...]


class Tensor(NamedTuple):
    """A named tensor and where its first element lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Byte offset in the file of the element at index (0, ..., 0)."""
    strides: tuple[int, ...] | None = None
    """Step of each axis in elements (never negative); None where the tensor is contiguous in C order."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of the tensor in C order, however it lies in the file."""
        return raw_bytes_of(self.dtype, math.prod(self.shape))


class Layout(NamedTuple):
    """The spans and tensors of one file. Make it through `checked_layout`."""

    format: str
    """Released name of the format plug-in: lower-case ASCII letters, digits and `-`, at most 32."""
    version: int
    """Raised whenever the plug-in would describe the same bytes in another way."""
    file_bytes: int
    spans: tuple[Span, ...]
    """In the order of the file, not overlapping."""
    tensors: tuple[Tensor, ...]
    """In the order of their names (code points)."""


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the element strides of a C-ordered array."""
    strides = []
    step = 1
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether strides walk the elements in C order without gaps (axes of length <= 1 may have any)."""
    if 0 in shape:
        return True
    want = contiguous_strides(shape)
    return all(length <= 1 or have == need for length, have, need in zip(shape, strides, want, strict=True))


def checked_layout(format: str, version: int, file_bytes: int, spans: list[Span], tensors: list[Tensor]) -> Layout:
    """Sort and check what a plug-in found; this is the one place where a layout is judged.

    Raises:
        NotThisFormat: overlapping or out-of-range spans, sizes that do not fit dtype and shape, unknown
            dtypes, duplicate or unencodable names, or a limit above is passed. The file is then opaque.
    """
    if len(tensors) > MAX_TENSORS:
        raise NotThisFormat(f"{len(tensors)} tensors, more than the {MAX_TENSORS} that a pointer may list")
    if not 0 <= file_bytes <= MAX_FILE_BYTES:
        raise NotThisFormat(f"a file of {file_bytes} bytes is beyond the limit")
    spans = sorted(span for span in spans if span.raw_bytes)
    end = 0
    for span in spans:
        _check_type(span.dtype, span.shape)
        if span.offset < end:
            raise NotThisFormat(f"the span at {span.offset} overlaps the one that ends at {end}")
        if span.raw_bytes != raw_bytes_of(span.dtype, math.prod(span.shape)):
            raise NotThisFormat(f"the span at {span.offset} has {span.raw_bytes} bytes for {span.dtype} {span.shape}")
        end = span.offset + span.raw_bytes
    if end > file_bytes:
        raise NotThisFormat(f"a span ends at {end} of {file_bytes} bytes")
    for tensor in tensors:
        check_tensor(tensor, file_bytes)
    _check_table(tensors, file_bytes)
    return Layout(format, version, file_bytes, tuple(spans), tuple(sorted(tensors)))


def _check_table(tensors: list[Tensor], file_bytes: int) -> None:
    """Check what can be said only of all tensors together."""
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise NotThisFormat("two tensors have the same name")
    check_amplification(tensors, file_bytes)
    if sum(map(table_bytes, tensors)) > MAX_TABLE_BYTES:
        raise NotThisFormat(f"a table of its tensors would take more than {MAX_TABLE_BYTES} bytes")


def check_amplification(tensors: Iterable[Tensor], file_bytes: int) -> None:
    """Check that hashing all tensors takes a time in proportion to their file.

    Raises:
        NotThisFormat: it would not.
    """
    # Tied tensors share one place and are hashed once.
    places = {(tensor.offset, tensor.strides, tensor.dtype, tensor.shape): tensor.raw_bytes for tensor in tensors}
    if sum(places.values()) > MAX_AMPLIFICATION * file_bytes:
        raise NotThisFormat(f"its tensors name more than {MAX_AMPLIFICATION} times the bytes of the file")


def table_bytes(tensor: Tensor) -> int:
    """Return an upper bound of a line that lists a tensor: digest, dtype, shape, name as ASCII JSON."""
    name = tensor.name
    name_bytes = len(name) if name.isascii() and name.isprintable() else 12 * len(name)
    return 128 + sum(len(str(length)) + 1 for length in tensor.shape) + 2 * name_bytes


def _check_type(dtype: str, shape: tuple[int, ...]) -> None:
    if dtype not in DTYPES:
        raise NotThisFormat(f"unknown dtype '{dtype}'")
    if len(shape) > MAX_DIMENSIONS:
        raise NotThisFormat(f"{len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    if any(length < 0 for length in shape) or math.prod(length for length in shape if length) > MAX_FILE_BYTES:
        raise NotThisFormat("a shape is negative or beyond the limit")
    block_elements = DTYPES[dtype].block_elements
    if block_elements > 1 and (not shape or shape[-1] % block_elements):
        raise NotThisFormat(f"a last axis that is not whole blocks of {block_elements} elements of {dtype}")


def check_tensor(tensor: Tensor, file_bytes: int) -> None:
    """Check one tensor: known dtype, sane shape and name, and every element within the file.

    Raises:
        NotThisFormat: it breaks a rule.
    """
    _check_type(tensor.dtype, tensor.shape)
    try:
        if len(tensor.name.encode()) > MAX_NAME_BYTES:
            raise NotThisFormat(f"a tensor name has more than {MAX_NAME_BYTES} bytes")
    except UnicodeEncodeError:
        raise NotThisFormat("a tensor name is not valid Unicode") from None
    if tensor.offset < 0:
        raise NotThisFormat(f"tensor '{tensor.name}' starts before the file")
    if tensor.strides is None:
        end = tensor.offset + tensor.raw_bytes
    else:
        if len(tensor.strides) != len(tensor.shape) or any(step < 0 for step in tensor.strides):
            raise NotThisFormat(f"tensor '{tensor.name}' has strides that do not fit its shape")
        if DTYPES[tensor.dtype].bits % 8 or DTYPES[tensor.dtype].kind == "block":
            raise NotThisFormat(f"tensor '{tensor.name}' has strides and packed elements")
        reach = 0
        if 0 not in tensor.shape:
            reach = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        end = tensor.offset + raw_bytes_of(tensor.dtype, reach)
    if end > file_bytes:
        raise NotThisFormat(f"tensor '{tensor.name}' ends at {end} of {file_bytes} bytes")
