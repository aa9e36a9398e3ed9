"""The safetensors layout: a length, a JSON header, then the tensors without gaps.

The header is read by a parser of its own that knows only the one shape that a header may have. A general JSON
parser builds whatever it is given, so 32 MiB of `[],[],[]` cost it 700 MB; this one refuses at the first byte out of
place and keeps nothing but the finished tensors. It accepts what the reference implementation accepts, except
where docs/format/layouts.md says so.

Source: https://github.com/huggingface/safetensors, README (Format), safetensors/src/tensor.rs (`Metadata::validate`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from thetastore.dtypes import DTYPES
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, NeedBytes
from thetastore.layout import MAX_DIMENSIONS, MAX_FILE_BYTES, MAX_TENSORS, Layout, Span, Tensor, checked_layout

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator

    from thetastore.digest import Buffer

_LENGTH_BYTES = 8
_METADATA = "__metadata__"

DTYPE_NAMES = {
    b"BOOL": "bool",
    b"U8": "uint8",
    b"I8": "int8",
    b"U16": "uint16",
    b"I16": "int16",
    b"U32": "uint32",
    b"I32": "int32",
    b"U64": "uint64",
    b"I64": "int64",
    b"F4": "float4_e2m1fn",
    b"F6_E2M3": "float6_e2m3fn",
    b"F6_E3M2": "float6_e3m2fn",
    b"F8_E4M3": "float8_e4m3fn",
    b"F8_E4M3FNUZ": "float8_e4m3fnuz",
    b"F8_E5M2": "float8_e5m2",
    b"F8_E5M2FNUZ": "float8_e5m2fnuz",
    b"F8_E8M0": "float8_e8m0fnu",
    b"F16": "float16",
    b"BF16": "bfloat16",
    b"F32": "float32",
    b"F64": "float64",
    b"C64": "complex64",
}
"""Our name of each element type of a header."""


def metadata_texts(read: Callable[[int, int], Buffer]) -> dict[str, str]:
    """Return the `__metadata__` of a file that is known to be valid.

    Args:
        read: returns bytes `[start, stop)` of the file.

    Raises:
        NotThisFormat, ValueError, AttributeError, RecursionError: it is none after all.
    """
    import json

    header_bytes = int.from_bytes(read(0, _LENGTH_BYTES), "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise NotThisFormat(f"a header of {header_bytes} bytes")
    found: dict[str, str] = json.loads(bytes(read(_LENGTH_BYTES, _LENGTH_BYTES + header_bytes))).get(_METADATA, {})
    return found


class Safetensors:
    """`*.safetensors`."""

    name = "safetensors"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a believable length is followed by the brace that a header must begin with."""
        return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES - _LENGTH_BYTES

    def scan_header(self, prefix: bytes) -> Layout:
        """Locate the tensors; see `HeaderFormat.scan_header`. Peak memory: about 1 kB a tensor beside the prefix."""
        if len(prefix) <= _LENGTH_BYTES:
            raise NeedBytes(_LENGTH_BYTES + 1)
        header_bytes = int.from_bytes(prefix[:_LENGTH_BYTES], "little")
        start = _LENGTH_BYTES + header_bytes
        if not self.sniff(prefix):
            raise NotThisFormat(f"a header of {header_bytes} bytes that begins with {prefix[8:9]!r}")
        if len(prefix) < start:
            raise NeedBytes(start)
        tensors = _Header(prefix, start).read_tensors()
        end = _check_coverage(tensors, start)
        spans = [Span(tensor.offset, tensor.raw_bytes, tensor.dtype, tensor.shape) for tensor in tensors]
        return checked_layout(self.name, self.version, end, spans, tensors)


def _check_coverage(tensors: list[Tensor], start: int) -> int:
    """Return where the file ends; tensors must follow each other from `start` without gap or overlap."""
    end = start
    for offset, raw_bytes, name in sorted((tensor.offset, tensor.raw_bytes, tensor.name) for tensor in tensors):
        if offset != end:
            raise NotThisFormat(f"tensor '{name[:80]}' begins at byte {offset - start} of the data, not {end - start}")
        end += raw_bytes
    return end


class _Header:
    """A cursor over the JSON text; every method consumes what it names or raises `NotThisFormat`."""

    def __init__(self, text: bytes, end: int) -> None:
        self._text = text
        self._end = end
        self._at = _LENGTH_BYTES
        self._tokens = _tokens()

    def read_tensors(self) -> list[Tensor]:
        """Return the tensors in the order of the header."""
        tensors: list[Tensor] = []
        names = set()
        for name in self._keys():
            if name in names:
                raise NotThisFormat(f"'{name[:80]}' is in the header twice")
            names.add(name)
            if name == _METADATA:
                self._skip_metadata()
            else:
                tensors.append(self._tensor(name))
            if len(tensors) > MAX_TENSORS:
                raise NotThisFormat(f"more than {MAX_TENSORS} tensors")
        self._token("space")
        if self._at != self._end:
            raise self._wrong("the end of the header")
        return tensors

    def _keys(self) -> Iterator[str]:
        """Yield the keys of a JSON object; the caller consumes each value before it asks for the next key."""
        self._token("{")
        empty = self._tokens["}"].match(self._text, self._at, self._end)
        if empty:
            self._at = empty.end()
            return
        while True:
            key = self._string()
            self._token(":")
            yield key
            if self._token(", or }") == b"}":
                return

    def _tensor(self, name: str) -> Tensor:
        match = self._tokens["usual_tensor"].match(self._text, self._at, self._end)
        if match:
            self._at = match.end()
            return self._checked_tensor(name, match[1], _integers(match[2]), int(match[3]), int(match[4]))
        dtype: bytes | None = None
        shape: tuple[int, ...] | None = None
        place: tuple[int, ...] | None = None
        for key in self._keys():
            if key == "dtype" and dtype is None:
                dtype = self._string().encode()
            elif key == "shape" and shape is None:
                shape = self._integers()
            elif key == "data_offsets" and place is None:
                place = self._integers()
            else:
                raise NotThisFormat(f"tensor '{name[:80]}' has an unknown or repeated field '{key[:80]}'")
        if dtype is None or shape is None or place is None or len(place) != 2:
            raise NotThisFormat(f"tensor '{name[:80]}' lacks dtype, shape or a pair of offsets")
        return self._checked_tensor(name, dtype, shape, *place)

    def _checked_tensor(self, name: str, dtype_name: bytes, shape: tuple[int, ...], begin: int, end: int) -> Tensor:
        dtype = DTYPE_NAMES.get(dtype_name)
        if dtype is None:
            raise NotThisFormat(f"tensor '{name[:80]}' has the unknown dtype {dtype_name[:20]!r}")
        if len(shape) > MAX_DIMENSIONS or max(shape, default=0) > MAX_FILE_BYTES:
            raise NotThisFormat(f"the shape of tensor '{name[:80]}' is beyond the limit")
        bits = math.prod(shape) * DTYPES[dtype].bits
        if bits % 8 or (end - begin) * 8 != bits:
            raise NotThisFormat(f"tensor '{name[:80]}' has {end - begin} bytes for {bits} bits")
        return Tensor(name, dtype, shape, self._end + begin)

    def _skip_metadata(self) -> None:
        """Check that the metadata maps strings to strings; its bytes stay in the skeleton."""
        keys = set()
        for key in self._keys():
            if key in keys:
                raise NotThisFormat(f"'{key[:80]}' is in __metadata__ twice")
            keys.add(key)
            if len(keys) > MAX_TENSORS:
                raise NotThisFormat(f"more than {MAX_TENSORS} entries in __metadata__")
            self._string()

    def _string(self) -> str:
        match = self._tokens["plain string"].match(self._text, self._at, self._end)
        if match:
            self._at = match.end()
            return _decoded(match[1])
        import json

        start = self._at
        self._token("quote")
        while run := self._tokens["run"].match(self._text, self._at, self._end):
            self._at = run.end()
        self._token("quote")
        text: str = json.loads(_decoded(self._text[start : self._at]))
        _decoded(text.encode("utf-8", "surrogatepass"))
        return text

    def _integers(self) -> tuple[int, ...]:
        lengths = self._token("integers")
        if lengths.count(b",") >= MAX_DIMENSIONS:
            raise NotThisFormat(f"a list of more than {MAX_DIMENSIONS} numbers")
        return _integers(lengths)

    def _token(self, name: str) -> bytes:
        """Consume one token and return its first group."""
        match = self._tokens[name].match(self._text, self._at, self._end)
        if match is None:
            raise self._wrong(name)
        self._at = match.end()
        return match[1]

    def _wrong(self, expected: str) -> NotThisFormat:
        near = self._text[self._at : min(self._at + 20, self._end)]
        return NotThisFormat(f"at byte {self._at} of the header: {near!r}, expected {expected}")


def _integers(lengths: bytes) -> tuple[int, ...]:
    return tuple(map(int, lengths.split(b","))) if lengths else ()


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise NotThisFormat("the header is not valid UTF-8") from None


def _tokens() -> dict[str, re.Pattern[bytes]]:
    """Return the tokens of JSON that a header can hold; `re` caches them after the first call.

    Repetitions of single characters are possessive, those of groups have a limit: a mismatch costs one pass, not a
    search. (Possessive groups say the same, but Python before 3.11.5 matches them wrongly, python/cpython#106052.)
    Numbers are plain non-negative integers of at most 19 digits, so that no exponent, sign or fraction is ever
    converted.
    """
    import re

    space = rb"[ \t\n\r]*+"
    integer = rb"(?:0|[1-9][0-9]{0,18}+)"
    integers = rb"\[" + space + rb"((?:" + integer + space + rb"(?:," + space + integer + space + rb"){0,64})?)\]"
    usual = rb'\{"dtype":"([A-Z0-9_]{1,20}+)","shape":\[((?:%b(?:,%b){0,63})?)\],"data_offsets":\[(%b),(%b)\]\}' % (
        (integer,) * 4
    )
    character = rb"[^\"\\\x00-\x1f]"
    return {
        "space": re.compile(space + rb"()"),
        "{": re.compile(space + rb"(\{)" + space),
        "}": re.compile(space + rb"(\})"),
        ", or }": re.compile(space + rb"(,|\})" + space),
        ":": re.compile(space + rb"(:)" + space),
        "quote": re.compile(rb'(")'),
        "plain string": re.compile(rb'"(%b*+)"' % character),
        "run": re.compile(rb'(?:%b++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){1,1000}' % character),
        "integers": re.compile(integers),
        "usual_tensor": re.compile(usual),
    }
