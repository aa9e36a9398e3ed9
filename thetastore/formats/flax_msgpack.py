"""The layout of Flax's msgpack files (`flax_model.msgpack`): nested maps whose leaves are arrays.

An array is an extension value: within it, a list of shape, dtype and bytes. Directory and tensors alternate, so the
file is walked from value to value, over the bytes of arrays without reading them.

Source: https://github.com/msgpack/msgpack, spec.md; flax/serialization.py (`_msgpack_ext_pack`), as of flax 0.12.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.forward import Forward
from thetastore.formats.names import Names
from thetastore.layout import MAX_DIMENSIONS, MAX_NAME_BYTES, MAX_TENSORS, Layout, Span, Tensor, checked_layout

MAX_DEPTH = 128
"""How many maps and lists may lie around a value."""
MAX_VALUES = 4_000_000
"""Keys, numbers, arrays and all else; a million takes 1.5 s."""
_MAX_DTYPE_BYTES = 32

_ARRAY, _SCALAR = 1, 3
"""Extension types of Flax whose bytes are elements; 2 is a complex number of Python."""

_FIXED_BYTES: dict[int, int] = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8} | {
    code: 1 << (code & 3) for code in (*range(0xCC, 0xD0), *range(0xD0, 0xD4))
}
"""Nil, booleans, floats, integers: how many bytes follow the first."""
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNT_BYTES = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
_LISTS = frozenset((*range(0x90, 0xA0), 0xDC, 0xDD))
_TEXTS = frozenset((*range(0xA0, 0xC0), 0xD9, 0xDA, 0xDB))
_BINARIES = frozenset((0xC4, 0xC5, 0xC6))
_EXTENSIONS = frozenset((*range(0xC7, 0xCA), *range(0xD4, 0xD9)))


class FlaxMsgpack:
    """`*.msgpack` of `flax.serialization`."""

    name = "flax-msgpack"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a map begins here that is not empty, and whose first key is text."""
        if head[:1] in (b"\xde", b"\xdf"):
            key_at = 3 if head[0] == 0xDE else 5
            return len(head) > key_at and head[key_at] in _TEXTS and any(head[1:key_at])
        return len(head) > 1 and 0x81 <= head[0] <= 0x8F and head[1] in _TEXTS

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: about 600 bytes a tensor."""
        walk = _Walk(file)
        names = Names("/")
        spans: list[Span] = []
        tensors: list[Tensor] = []
        for path, array in walk.arrays():
            spans.append(Span(array.offset, array.raw_bytes, array.dtype, array.shape))
            if array.is_named:
                name = names.claim(path)
                tensors.append(Tensor(name, array.dtype, array.shape, array.offset))
            if len(spans) > MAX_TENSORS:
                raise NotThisFormat(f"more than {MAX_TENSORS} arrays")
        if not spans:
            raise NotThisFormat("a msgpack file without arrays")
        return checked_layout(self.name, self.version, file.size, spans, tensors)


class _Array(NamedTuple):
    dtype: str
    is_named: bool
    """Whether `dtype` says what the elements mean, not only how wide they are."""
    shape: tuple[int, ...]
    offset: int
    raw_bytes: int


class _Level(NamedTuple):
    """A map or list that has begun."""

    is_map: bool
    indexes: Iterator[int]


class _Walk:
    """One pass over the values of a file."""

    def __init__(self, file: RandomAccess) -> None:
        self._forward = Forward(file)
        self._room = MAX_VALUES

    def arrays(self) -> Iterator[tuple[list[str], _Array]]:
        """Yield the path to each array, valid until the next step, and the array.

        Raises:
            NotThisFormat: the file is not exactly one value, or is beyond a limit.
        """
        forward = self._forward
        path: list[str] = []
        levels: list[_Level] = []
        while True:
            code = self._code()
            if code in _MAPS or code in _LISTS:
                levels.append(_Level(code in _MAPS, iter(range(self._count(code)))))
                path.append("")
                if len(levels) > MAX_DEPTH:
                    raise NotThisFormat(f"values nested more than {MAX_DEPTH} deep")
            elif code in _EXTENSIONS:
                array = self._extension(code)
                if array is not None:
                    yield path, array
            else:
                forward.skip(self._length(code))
            while levels and (index := next(levels[-1].indexes, None)) is None:
                levels.pop()
                path.pop()
            if not levels:
                break
            assert index is not None
            path[-1] = self._key() if levels[-1].is_map else str(index)
        if forward.at != forward.end:
            raise NotThisFormat("something is left over behind the msgpack value")

    def _code(self) -> int:
        """Return the first byte of the next value."""
        self._room -= 1
        if self._room < 0:
            raise NotThisFormat(f"more than {MAX_VALUES} msgpack values")
        return self._forward.take(1)[0]

    def _number(self, nbytes: int) -> int:
        return int.from_bytes(self._forward.take(nbytes), "big")

    def _count(self, code: int) -> int:
        """Return how many values, or pairs of them, are in a map or list."""
        return self._number(_COUNT_BYTES[code]) if code in _COUNT_BYTES else code & 0x0F

    def _length(self, code: int) -> int:
        """Return how many bytes a value has that is neither map nor list; the type of an extension is not counted."""
        if code < 0x80 or code >= 0xE0:
            return 0
        if code in _FIXED_BYTES:
            return _FIXED_BYTES[code]
        if code in _LENGTH_BYTES:
            return self._number(_LENGTH_BYTES[code])
        if 0xA0 <= code < 0xC0:
            return code & 0x1F
        if 0xD4 <= code <= 0xD8:
            return (1, 2, 4, 8, 16)[code - 0xD4]
        raise NotThisFormat(f"the msgpack type {code:#x}")

    def _text(self, codes: frozenset[int], limit_bytes: int) -> str:
        code = self._code()
        nbytes = self._length(code) if code in codes else limit_bytes + 1
        if nbytes > limit_bytes:
            raise NotThisFormat(f"a msgpack value that should be text of at most {limit_bytes} bytes")
        try:
            return self._forward.take(nbytes).decode()
        except UnicodeDecodeError:
            raise NotThisFormat("a msgpack text is not valid UTF-8") from None

    def _key(self) -> str:
        """Return a key as text; Flax makes all keys text."""
        return self._text(_TEXTS, MAX_NAME_BYTES)

    def _extension(self, code: int) -> _Array | None:
        nbytes = self._length(code)
        kind = self._forward.take(1)[0]
        end = self._forward.at + nbytes
        if kind not in (_ARRAY, _SCALAR):
            self._forward.skip(nbytes)
            return None
        array = self._array()
        if self._forward.at != end:
            raise NotThisFormat("an array that is longer or shorter than its msgpack value")
        return array

    def _array(self) -> _Array | None:
        """Return what the list of shape, dtype and bytes describes; None if it is of no numbers."""
        code = self._code()
        if code not in _LISTS or self._count(code) != 3:
            raise NotThisFormat("an array that is not a list of shape, dtype and bytes")
        shape = self._shape()
        dtype = self._text(_TEXTS, _MAX_DTYPE_BYTES)
        code = self._code()
        if code not in _BINARIES:
            raise NotThisFormat("an array whose elements are not bytes")
        raw_bytes = self._length(code)
        offset = self._forward.at
        self._forward.skip(raw_bytes)
        return _understood(dtype, shape, offset, raw_bytes)

    def _shape(self) -> tuple[int, ...]:
        code = self._code()
        count = self._count(code) if code in _LISTS else MAX_DIMENSIONS + 1
        if count > MAX_DIMENSIONS:
            raise NotThisFormat("the shape of an array is no short list")
        return tuple(self._dimension() for _ in range(count))

    def _dimension(self) -> int:
        code = self._code()
        if code < 0x80:
            return code
        if not 0xCC <= code <= 0xCF:
            raise NotThisFormat("the shape of an array is not of non-negative integers")
        return self._number(_FIXED_BYTES[code])


def _understood(dtype: str, shape: tuple[int, ...], offset: int, raw_bytes: int) -> _Array | None:
    """Return an array by what numpy calls its dtype.

    The types of ml_dtypes that are narrower than a byte take one each here: they are cut as such, and not listed.
    """
    known = DTYPES.get(dtype)
    if known is not None and known.bits >= 8 and known.kind in ("float", "int", "bool", "complex"):
        if raw_bytes != raw_bytes_of(dtype, math.prod(shape)):
            raise NotThisFormat(f"an array of {raw_bytes} bytes for {dtype} {shape}")
        return _Array(dtype, True, shape, offset, raw_bytes)
    if known is not None and known.bits < 8 and raw_bytes == math.prod(shape):
        return _Array("uint8", False, shape, offset, raw_bytes)
    return None
