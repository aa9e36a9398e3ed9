"""Codec `update`: the parts that make a chunk from its base, and what the result lacks.

What is stored, all numbers little-endian:

    offset  size  field
         0     1  version, 0
         1     1  element type: 0 float16, 1 bfloat16, 2 float32, 3 float64
         2     1  parts: 1 product, 2 product rounded, 4 factors of rows, 8 factors of columns, 16 fix-up
         3     1  zero
         4     4  raw bytes
         8     4  columns of the chunk
        12     4  first column of the chunk in the second base
        16     4  columns of the second base; 0 if there is none
        20     2  rank
        22     2  zero
        24     8  scale, float64
        32        sections: coding (1), three zeros, stored bytes (4), stored; the fix-up is the last one

The second base holds what all chunks of a tensor share: the right factor, then the factors of columns.
`docs/format/updates.md` has the limits and the rationale, `thetastore.updates.arithmetic` what is computed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from thetastore.codecs import difference
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.updates.arithmetic import apply
from thetastore.updates.recipe import DTYPES, Window, work_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thetastore.updates.recipe import Array

VERSION: Final = 0
MAX_RANK: Final = 1024
"""A chunk of the largest rank takes a third of a second to make: no payload keeps a reader busy for longer."""
SECTION_CODECS: Final = ("literal", "constant", "zstd", "planes")
"""By their numbers. Released: only ever appended to, and never by a codec with bases."""

_HEADER: Final = struct.Struct("<BBBBIIIIHHd")
_SECTION: Final = struct.Struct("<BBHI")
_PRODUCT, _ROUNDED, _ROWS, _COLUMNS, _FIX_UP = 1, 2, 4, 8, 16
_WIDTHS: Final = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class Shared:
    """What the chunks of a tensor share, as the second base of each."""

    def __init__(self, right: Array | None, column_factors: Array | None, columns: int) -> None:
        self.columns = columns
        rows = [part for part in (right, None if column_factors is None else column_factors[None]) if part is not None]
        self.raw = memoryview(np.ascontiguousarray(np.concatenate(rows)).view("u1").ravel().data)
        """The bytes of the object."""


def encode(
    raw: memoryview, base: memoryview | None, dtype: str, window: Window, shared: tuple[int, int] | None
) -> memoryview | None:
    """Return the payload, or None where these parts do not help: most of the chunk would be in the fix-up.

    Args:
        raw: the chunk.
        base: as many bytes; None where `raw` is known to be what the parts make.
        dtype: their type, of `DTYPES`.
        window: the parts; those that are `shared` are not stored.
        shared: columns of the second base, and the chunk's first one among them; None where there is none.
    """
    rank = 0 if window.left is None else window.left.shape[1]
    if not _fits(window.rows, window.columns, rank, shared is not None):
        return None
    fix_up = None
    if base is not None:
        made = memoryview(bytearray(raw.nbytes))
        apply(window, base, dtype, made)
        fix_up = None if made == raw else difference.encode(raw, made, dtype)
        if made != raw and fix_up is None:
            return None
    parts = (
        (_PRODUCT if rank else 0)
        | (_ROUNDED if rank and window.rounds_product else 0)
        | (_ROWS if window.row_factors is not None else 0)
        | (_COLUMNS if window.column_factors is not None else 0)
        | (_FIX_UP if fix_up is not None else 0)
    )
    columns, first = shared or (0, 0)
    number = DTYPES.index(dtype)
    header = _HEADER.pack(
        VERSION, number, parts, 0, raw.nbytes, window.columns, first, columns, rank, 0, window.scale if rank else 1.0
    )
    own = [window.left if rank else None, None if shared else window.right, window.row_factors]
    own.append(None if shared else window.column_factors)
    sections = [_section(part, dtype) for part in own if part is not None]
    payload = memoryview(b"".join([header, *sections, fix_up or b""]))
    return payload if payload.nbytes < raw.nbytes else None


def _fits(rows: int, columns: int, rank: int, is_shared: bool) -> bool:
    """Tell whether factors take no more than twice what they make, where reading them is not shared."""
    return rank <= min(columns, MAX_RANK) and (rank <= rows or is_shared)


def _section(part: Array, dtype: str) -> bytes:
    from thetastore import codecs

    raw = np.ascontiguousarray(part, work_dtype(dtype)).view("u1").ravel().data
    codec, _, stored = codecs.encode(raw, "float64" if dtype == "float64" else "float32")
    return _SECTION.pack(SECTION_CODECS.index(codec), 0, 0, memoryview(stored).nbytes) + bytes(stored)


def decode(stored: memoryview, out: memoryview, bases: Sequence[memoryview]) -> None:
    """Fill `out`; takes memory for the factors, at most eight times what `out` has, and for blocks.

    Args:
        stored: the payload.
        out: writable, exactly as long as the raw bytes; shares no memory with a base.
        bases: the base, and what the chunks of the tensor share, if they do.

    Raises:
        MalformedError: a rule of the format is broken; the payload is for another raw length or other bases.
        UnsupportedError: the payload has a later version.
    """
    dtype, parts, shape, shared, rank, scale = _read_header(stored, out.nbytes, bases)
    rows, columns = shape
    reader = _Sections(stored, _HEADER.size, dtype)
    left = reader.matrix(rows, rank) if parts & _PRODUCT else None
    row_factors = column_factors = right = None
    if shared is None:
        right = reader.matrix(rank, columns) if parts & _PRODUCT else None
    if parts & _ROWS:
        row_factors = reader.matrix(1, rows)[0]
    if shared is None:
        column_factors = reader.matrix(1, columns)[0] if parts & _COLUMNS else None
    else:
        width, first = shared
        common = np.frombuffer(bases[1], work_dtype(dtype)).reshape(-1, width)[:, first : first + columns]
        right = common[:rank] if parts & _PRODUCT else None
        column_factors = common[rank] if parts & _COLUMNS else None
    window = Window(rows, columns, left, right, scale, bool(parts & _ROUNDED), row_factors, column_factors)
    apply(window, bases[0], dtype, out)
    if parts & _FIX_UP:
        difference.decode(stored[reader.position :], out, out)
    elif reader.position != stored.nbytes:
        raise MalformedError(f"update has {stored.nbytes - reader.position} bytes behind its last section")


def _read_header(
    stored: memoryview, raw_bytes: int, bases: Sequence[memoryview]
) -> tuple[str, int, tuple[int, int], tuple[int, int] | None, int, float]:
    """Return element type, parts, shape of the chunk, (columns of the second base, first one), rank and scale."""
    if stored.nbytes < _HEADER.size:
        raise MalformedError(f"update is truncated in its header, at byte {stored.nbytes}")
    version, number, parts, zero, claimed_bytes, columns, first, width, rank, zeros, scale = _HEADER.unpack_from(stored)
    if version != VERSION:
        raise UnsupportedError(f"update is of version {version}, this version reads {VERSION}: upgrade")
    if claimed_bytes != raw_bytes or bases[0].nbytes != raw_bytes:
        raise MalformedError(f"update says {claimed_bytes} raw bytes, {raw_bytes} were expected of it and its base")
    if number >= len(DTYPES) or parts >= 2 * _FIX_UP or zero or zeros or not parts & (_PRODUCT | _ROWS | _COLUMNS):
        raise MalformedError(f"update has element type {number} and parts {parts}")
    elements, rest = divmod(raw_bytes, _WIDTHS[DTYPES[number]])
    if rest or not columns or elements % columns or not elements:
        raise MalformedError(f"update of {raw_bytes} bytes of {DTYPES[number]} has {columns} columns")
    has_product = bool(parts & _PRODUCT)
    is_shared = len(bases) == 2
    if has_product != (rank > 0) or (parts & _ROUNDED and not has_product):
        raise MalformedError(f"update of rank {rank} has parts {parts}")
    if not _fits(elements // columns, columns, rank, is_shared):
        raise MalformedError(f"update of {elements // columns} x {columns} elements has rank {rank}")
    _check_shared(bases, parts, columns, first, width, rank, work_dtype(DTYPES[number]))
    return DTYPES[number], parts, (elements // columns, columns), (width, first) if is_shared else None, rank, scale


def _check_shared(
    bases: Sequence[memoryview], parts: int, columns: int, first: int, width: int, rank: int, work: str
) -> None:
    if len(bases) == 1:
        if first or width:
            raise MalformedError("update needs a second base, the record has one")
        return
    rows = rank + bool(parts & _COLUMNS)
    if not rows or first + columns > width or bases[1].nbytes != rows * width * int(work[-1]):
        raise MalformedError(
            f"update needs columns {first} to {first + columns} of {rows} x {width} numbers; "
            f"the second base has {bases[1].nbytes} bytes"
        )


class _Sections:
    """Reads the sections of a payload, one after the other."""

    def __init__(self, stored: memoryview, position: int, dtype: str) -> None:
        self.position = position
        self._stored = stored
        self._work: Any = np.dtype(work_dtype(dtype))

    def matrix(self, rows: int, columns: int) -> Array:
        """Return the next section, in new memory."""
        from thetastore import codecs

        if self._stored.nbytes < self.position + _SECTION.size:
            raise MalformedError(f"update is truncated at byte {self._stored.nbytes}")
        codec, zero, zeros, nbytes = _SECTION.unpack_from(self._stored, self.position)
        start = self.position + _SECTION.size
        self.position = start + nbytes
        if codec >= len(SECTION_CODECS) or zero or zeros or self.position > self._stored.nbytes:
            raise MalformedError(f"update has a section of codec {codec} up to byte {self.position}")
        out = memoryview(bytearray(rows * columns * self._work.itemsize))
        codecs.decode(SECTION_CODECS[codec], b"", self._stored[start : self.position], out)
        matrix: Array = np.frombuffer(out, self._work).reshape(rows, columns)
        return matrix


def differing_count(stored: memoryview) -> int:
    """Return how many elements of a chunk are not just what the parts of its payload make: those of the fix-up."""
    _, number, parts, _, raw_bytes, _, _, width, _, _, _ = _HEADER.unpack_from(stored)
    if not parts & _FIX_UP:
        return 0
    own = (_PRODUCT, _ROWS) if width else (_PRODUCT, _PRODUCT, _ROWS, _COLUMNS)
    position = _HEADER.size
    for _ in range(sum(bool(parts & part) for part in own)):
        position += _SECTION.size + _SECTION.unpack_from(stored, position)[3]
    elements = np.zeros(raw_bytes // _WIDTHS[DTYPES[number]], f"u{_WIDTHS[DTYPES[number]]}")
    raw: memoryview = elements.view("u1").data
    difference.decode(stored[position:], raw, raw)  # of zeros: what is equal stays zero
    return int(np.count_nonzero(elements))
