"""The header of an array as numpy saves it, in a file of its own or in a member of an npz file.

A header is the text of a Python dict. Only the one shape that the header of a plain array can have is read, by a parser
of its own: numpy evaluates the text as a literal, and what that accepts, costs and refuses differs by Python version.

Source: numpy/lib/_format_impl.py (NEP 1, versions 1.0, 2.0 and 3.0), as of numpy 2.4.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, NamedTuple

from thetastore.dtypes import big_endian, raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import NeedBytes, RandomAccess
from thetastore.layout import MAX_DIMENSIONS, Span, Tensor, contiguous_strides, is_contiguous

if TYPE_CHECKING:
    import re

MAGIC = b"\x93NUMPY"
MAX_HEADER_BYTES = 10_000
"""numpy itself refuses longer ones, unless it is told to trust the file."""

_FIRST_READ_BYTES = 256
"""Headers of fewer than 20 dimensions have 128 bytes."""
_VERSION_BYTES = 2
_SHORTEST_LENGTH = struct.Struct("<H")
_LENGTHS = {b"\1\0": _SHORTEST_LENGTH, b"\2\0": struct.Struct("<I"), b"\3\0": struct.Struct("<I")}

_DTYPES = {
    b"|b1": "bool",
    b"|u1": "uint8",
    b"|i1": "int8",
    b"<u2": "uint16",
    b"<i2": "int16",
    b"<u4": "uint32",
    b"<i4": "int32",
    b"<u8": "uint64",
    b"<i8": "int64",
    b"<f2": "float16",
    b"<f4": "float32",
    b"<f8": "float64",
    b"<c8": "complex64",
    b"<c16": "complex128",
}
_NAMELESS = {b"V1": "uint8", b"V2": "bfloat16"}
"""Elements of which numpy writes only the width: types of ml_dtypes, and in two bytes nearly always bfloat16. The width
is right, so they are cut by it; the meaning is a guess that only coding relies on, so they are not listed."""


class Array(NamedTuple):
    """An array, and where it lies behind the start of its header."""

    dtype: str
    is_named: bool
    """Whether `dtype` says what the elements mean, not only how wide they are."""
    fortran_order: bool
    shape: tuple[int, ...]
    start: int
    """Length of the header: offset of the first element."""

    @property
    def end(self) -> int:
        """Offset of the byte after the last element."""
        return self.start + raw_bytes_of(self.dtype, math.prod(self.shape))

    def span(self, offset: int) -> Span:
        """Return the array's bytes, if its header lies at `offset`, with the axes in the order of the file."""
        shape = self.shape[::-1] if self.fortran_order else self.shape
        return Span(offset + self.start, self.end - self.start, self.dtype, shape)

    def tensor(self, name: str, offset: int) -> Tensor:
        """Return the array as a tensor, if its header lies at `offset`. Axes of length 1 step by 0."""
        strides = None
        if self.fortran_order:
            steps = contiguous_strides(self.shape[::-1])[::-1]
            if not is_contiguous(self.shape, steps):
                strides = tuple(step if n > 1 else 0 for n, step in zip(self.shape, steps, strict=True))
        return Tensor(name, self.dtype, self.shape, offset + self.start, strides)


def read_array(prefix: bytes) -> Array:
    """Return what the header at the start of `prefix` says.

    Raises:
        NeedBytes: the header is longer than the prefix.
        NotThisFormat: it is malformed, or of elements that are not plain little-endian numbers.
    """
    text_at = len(MAGIC) + _VERSION_BYTES
    version = prefix[len(MAGIC) : text_at]
    length = _LENGTHS.get(version, _SHORTEST_LENGTH)
    if not MAGIC.startswith(prefix[: len(MAGIC)]) or (len(version) == _VERSION_BYTES and version not in _LENGTHS):
        raise NotThisFormat("not the magic of numpy, or a version that is not known")
    if len(prefix) < text_at + length.size:
        raise NeedBytes(text_at + length.size)
    (text_bytes,) = length.unpack_from(prefix, text_at)
    text_at += length.size
    if text_bytes > MAX_HEADER_BYTES:
        raise NotThisFormat(f"a header of {text_bytes} bytes is longer than {MAX_HEADER_BYTES}")
    if len(prefix) < text_at + text_bytes:
        raise NeedBytes(text_at + text_bytes)
    return _parse(prefix[text_at : text_at + text_bytes])._replace(start=text_at + text_bytes)


def read_array_at(file: RandomAccess, offset: int, nbytes: int) -> Array:
    """Return the array that fills the bytes `[offset, offset + nbytes)` of a file.

    Raises:
        NotThisFormat: they are not exactly one plain array.
    """
    prefix_bytes = _FIRST_READ_BYTES
    while True:
        try:
            array = read_array(file.read_at(offset, min(prefix_bytes, nbytes)))
        except NeedBytes as need:
            if need.nbytes > nbytes or need.nbytes <= prefix_bytes:
                raise NotThisFormat(f"{nbytes} bytes end within the header of an array") from None
            prefix_bytes = need.nbytes
        else:
            break
    if array.end != nbytes:
        raise NotThisFormat(f"an array of {array.end} bytes, header included, in {nbytes}")
    return array


def _parse(text: bytes) -> Array:
    """Read the text of a dict with exactly three keys; each once, in any order."""
    items = _items(text)
    if items.keys() != {b"descr", b"fortran_order", b"shape"}:
        raise NotThisFormat(f"a header with the keys {sorted(items)!r:.200}")
    descr, order, lengths = items[b"descr"], items[b"fortran_order"], items[b"shape"]
    if descr[:1] not in b"'\"" or order not in (b"True", b"False") or lengths[:1] != b"(":
        raise NotThisFormat("a header with a value of the wrong type")
    shape = _shape(lengths[1:-1])
    if len(shape) > MAX_DIMENSIONS:
        raise NotThisFormat(f"an array of {len(shape)} dimensions")
    dtype, is_named = _dtype_of(descr[1:-1])
    return Array(dtype, is_named, order == b"True", shape, 0)


def _shape(lengths: bytes) -> tuple[int, ...]:
    """Read what is between the parentheses of a tuple of lengths. Python 2 wrote some with an L."""
    import re

    length = re.compile(rb"[ \t\n\r\f]*+(0|[1-9][0-9]{0,18}+)L?[ \t\n\r\f]*+")
    parts = lengths.split(b",")
    if not parts[-1].strip():  # `()`, or the comma after the last
        parts.pop()
    elif len(parts) == 1:
        raise NotThisFormat("a header with a shape that is no tuple")
    matches = [length.fullmatch(part) for part in parts]
    if not all(matches):
        raise NotThisFormat(f"a header with the lengths {lengths[:80]!r}")
    return tuple(int(match[1]) for match in matches if match)


def _items(text: bytes) -> dict[bytes, bytes]:
    """Return the texts of the values of a dict by key."""
    opening, item, closing = _tokens()
    match = opening.match(text)
    items: dict[bytes, bytes] = {}
    while match and (following := item.match(text, match.end())):
        if following["key"] in items:
            raise NotThisFormat(f"a header with {following['key']!r} twice")
        items[following["key"]] = following["value"]
        match = following
        if not following["comma"]:
            break
    if match is None or not closing.fullmatch(text, match.end()):
        raise NotThisFormat(f"a header that is not of a plain array: {text[:80]!r}")
    return items


def _tokens() -> tuple[re.Pattern[bytes], re.Pattern[bytes], re.Pattern[bytes]]:
    """Return the start of a dict, an item, the end; `re` caches them.

    Repetitions are possessive, but not of groups: Python before 3.11.5 matches those wrongly (python/cpython#106052).
    """
    import re

    space = rb"[ \t\n\r\f]*+"
    shape = rb"\([0-9L, \t\n\r\f]*+\)"
    value = rb"(?P<value>'[^'\\]{0,16}+'|\"[^\"\\]{0,16}+\"|True|False|" + shape + rb")"
    key = rb"(?P<quote>['\"])(?P<key>[a-z_]{1,16}+)(?P=quote)"
    return (
        re.compile(space + rb"\{" + space),
        re.compile(key + space + rb":" + space + value + space + rb"(?P<comma>,?)" + space),
        re.compile(rb"\}" + space),
    )


def _dtype_of(descr: bytes) -> tuple[str, bool]:
    order, kind = descr[:1], descr[1:]
    if order in b"<|" and kind in _NAMELESS:
        return _NAMELESS[kind], False
    if order == b"<" and kind in (b"b1", b"u1", b"i1"):  # numpy reads, and others write, an order for single bytes
        descr = b"|" + kind
    if order == b">" and b"<" + kind in _DTYPES:
        return big_endian(_DTYPES[b"<" + kind]), True
    if descr not in _DTYPES:
        raise NotThisFormat(f"elements of the type {descr!r}")
    return _DTYPES[descr], True
