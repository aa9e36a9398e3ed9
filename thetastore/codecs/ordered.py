"""Layouts 2 and 3 of codec `difference`: 16-bit floats of which some changed, in the order of their base's exponents.

How likely a small change is to move an element, and by how many units in its last place, depends on that unit, which
is a matter of the exponent: twice the unit, half the changes. So elements are ordered by the exponent of the base, and
among equal ones as they were. *Rank* is what a place in that order is called here; *place* is the index of an element.

Up to some rank, where many elements changed, each has a *code* of two bits: equal, one more, one less, other. After it
the changed ones are named by gaps, and have codes too. What is neither one more nor one less has digits. Codes and gaps
are one zstd frame each, of nothing but Huffman-coded blocks, a new one with a table of its own where exponents begin
that are worth it: so each is coded as its exponent has it, and a reader need not know where that is.

    0   1  version, 0                         16  4  elements with digits
    1   1  layout, 2 or 3                     20  4  raw bytes of the gaps
    2   1  width in bytes: 2                  24  4  stored bytes of the codes
    3   1  bits of mantissa, 7 to 14          28  4  stored bytes of the gaps
    4   4  raw bytes                          layout 3 alone:
    8   4  elements of which each has a code  32  4  columns
    12  4  elements after these that are      36  4  stored bytes of the rows; 0 for all rows
           named by gaps                      32 or 40  of layout 3 rows, directions; codes; gaps;
                                                     planes of the digits, and tail

Of a matrix (layout 3), rows in which nothing changed may be left out of all this, and differences are *turned*, so that
most of them are positive: `thetastore.codecs.directions`.

Elements are not moved: the order is numpy's stable sort of bytes, one pass of a radix sort (2 ns an element), and only
those that changed are looked up in it. `docs/format/codecs.md` has the limits and the rationale,
`docs/decisions/026-differences-by-exponent.md` the figures.
"""

from __future__ import annotations

import struct
from math import log
from typing import Final, NamedTuple

import numpy as np

from thetastore.codecs import directions, frames, sampling, skips, tables
from thetastore.codecs.codes import PER_BYTE, pack, packed_bytes, unpack
from thetastore.codecs.digits import BIASES, decode_digits, encode_digits
from thetastore.codecs.scratch import scratch
from thetastore.codecs.splitting import Bytes, Words
from thetastore.errors import MalformedError

WIDTH: Final = 2
MANTISSA_BITS: Final = {"bfloat16": 7, "float16": 10}
"""Of the element types for which the order is of use."""
_LISTED_MANTISSA_BITS: Final = range(7, 15)
_MAGNITUDE: Final = 0x7FFF

_FIELDS: Final = struct.Struct("<IIIIIII")
_MATRIX_FIELDS: Final = struct.Struct("<II")
_OTHER: Final = 2
_DIFFERENCES: Final = np.array([0, 0xFFFF, 0, 1], np.uint16)
"""By code: none, one less, other, one more."""

_MOST_ROWS: Final = 0.5
"""Rows are left out where at most so many of them changed."""

_CODES_FROM: Final = 0.25
"""Where fewer elements of a class changed, gaps are smaller than codes of all (anything from .2 to .4 will do)."""


class _Fields(NamedTuple):
    """What stands before the codes."""

    raw_bytes: int
    head: int
    """How many elements, the first by rank, have codes whether they changed or not."""
    named: int
    """How many after them changed, are named by gaps, and have codes."""
    others: int
    """How many differ by more than one, and have digits."""
    gap_bytes: int
    code_stored_bytes: int
    gap_stored_bytes: int
    columns: int = 0
    """Elements of a row, where differences are turned or rows left out (layout 3); else 0."""
    row_bytes: int = 0
    """0 if all rows are there."""


class _Head(NamedTuple):
    """The first ranks, of which each has a code."""

    exponents: int
    """How many exponents, from 0 on."""
    elements: int
    changed: int


class Part(NamedTuple):
    """The elements that are looked at: of a matrix the rows in which something changed, else all."""

    differences: Words
    differs: Words
    """One bool an element."""
    base: Words
    """The elements that these are differences from."""
    columns: int
    """Elements of a row; 0 if the chunk is no part of a matrix."""
    rows: Bytes
    """Which rows these are, by gaps; empty for all."""


class _Changed(NamedTuple):
    """Elements that changed, by rank."""

    ranks: Words
    counts: Words
    """How many there are by exponent; and of all elements, so many:"""
    of_all: Words


def gain_by_order(differences: Words, base: Words, shift: int) -> float:
    """Estimate what share of the bits that say what changed is saved by knowing the exponents.

    Args:
        differences: a sample of them.
        base: the elements that these are differences from.
        shift: bits of mantissa.
    """
    exponents = _exponents_of(base, shift)
    counts = np.bincount(exponents)
    changed = np.bincount(exponents[differences != 0], minlength=counts.size)
    together = float(_entropy(changed.sum(), counts.sum()))
    # A sample knows its own probabilities too well, by half a nat for each.
    apart = float(_entropy(changed, counts).sum()) + np.count_nonzero(counts) / (2 * log(2))
    return 1 - apart / together if together else 0.0


def _exponents_of(words: Words, shift: int) -> Words:
    magnitudes: Words = np.bitwise_and(words, _MAGNITUDE)
    exponents: Words = np.right_shift(magnitudes, shift, out=np.empty(words.size, np.uint8), casting="unsafe")
    return exponents


def _entropy(some: Words, of_all: Words) -> Words:
    """Return the bits that it takes to say which of all are meant."""
    share = np.clip(some / np.maximum(of_all, 1), 1e-9, 1 - 1e-9)
    bits: Words = -some * np.log2(share) - (of_all - some) * np.log2(1 - share)
    return bits


def part_of(differences: Words, differs: Words, base: Words, columns: int) -> Part:
    """Return all elements, or those of the rows that changed where these are few.

    Args:
        differences: of all elements.
        differs: one bool an element.
        base: the elements that these are differences from.
        columns: elements of a row of the matrix that these are a part of; 0 for none.
    """
    whole = Part(differences, differs, base, 0, np.empty(0, np.uint8))
    if not 0 < columns <= base.size or base.size % columns:
        return whole
    (rows,) = np.nonzero(differs.reshape(-1, columns).any(axis=1))
    if rows.size > _MOST_ROWS * (base.size // columns):
        return whole._replace(columns=columns)
    differences, differs, base = (
        every.reshape(-1, columns).take(rows, axis=0).reshape(-1) for every in (differences, differs, base)
    )
    return Part(differences, differs, base, columns, skips.encode(rows)[0])


def encode(part: Part, changed_count: int, shift: int, tail: memoryview, raw_bytes: int) -> tuple[bool, memoryview]:
    """Return whether it is layout 3, of a matrix, and what follows the codec's first four bytes.

    Args:
        part: the elements that are looked at.
        changed_count: how many of these differ, one or more.
        shift: bits of mantissa.
        tail: bytes after the elements.
        raw_bytes: of all elements and the tail.
    """
    differences, differs, base, columns, rows = part
    exponents = _exponents_of(base, shift)
    order = np.argsort(exponents, kind="stable")
    ranks = np.flatnonzero(differs.take(order))
    places = order.take(ranks)
    of_all = np.bincount(exponents)
    changed = _Changed(ranks, np.bincount(exponents.take(places), minlength=of_all.size), of_all)
    head = _head_of(changed)
    values = differences.take(places)
    base_there = base.take(places)
    found = directions.find(values, places, base_there, columns, base.size) if columns else None
    if found is None and rows.size:
        found = directions.none(columns, base.size)
    if found is not None:
        values = directions.turn(values, found.masks(places, base_there))
    codes = _codes_of(values)
    code_frame = _encode_codes(codes, changed, head)
    gap_bytes, gap_frame = _encode_gaps(changed, head)
    other_count, planes = _encode_others(values, codes == _OTHER, changed.counts, tail)
    fields = _Fields(
        raw_bytes=raw_bytes,
        head=head.elements,
        named=changed_count - head.changed,
        others=other_count,
        gap_bytes=gap_bytes,
        code_stored_bytes=len(code_frame),
        gap_stored_bytes=len(gap_frame),
    )
    matrix = b"" if found is None else b"".join((_MATRIX_FIELDS.pack(columns, rows.size), rows.data, found.packed()))
    head_fields = _FIELDS.pack(*fields[: -len(_Fields._field_defaults)])
    return found is not None, memoryview(b"".join((head_fields, matrix, code_frame, gap_frame, planes)))


def _head_of(changed: _Changed) -> _Head:
    """Choose the elements that have codes: up to the last exponent of which enough changed."""
    (dense,) = np.nonzero(changed.counts >= np.maximum(_CODES_FROM * changed.of_all, 1))
    end = int(dense[-1]) + 1 if dense.size else 0
    return _Head(end, int(changed.of_all[:end].sum()), int(changed.counts[:end].sum()))


def _codes_of(differences: Words) -> Words:
    codes: Words = np.bitwise_xor(np.minimum(differences + differences.dtype.type(1), 3), 1).astype(np.uint8)
    return codes


def _encode_codes(codes: Words, changed: _Changed, head: _Head) -> bytes:
    """Return the frame of the head's codes, and of those that changed after it; `codes` are those that changed."""
    lengths = np.concatenate((changed.of_all[: head.exponents], changed.counts[head.exponents :]))
    all_codes = scratch("codes", PER_BYTE * packed_bytes(int(lengths.sum())))
    all_codes.fill(0)
    all_codes[changed.ranks[: head.changed]] = codes[: head.changed]
    all_codes[head.elements : head.elements + codes.size - head.changed] = codes[head.changed :]
    counts = tables.counts_of(changed.counts, codes, PER_BYTE)
    counts[: head.exponents, 0] = changed.of_all[: head.exponents] - changed.counts[: head.exponents]
    return _compress(pack(all_codes), [begin // PER_BYTE for begin in tables.begins(counts)])


def _encode_gaps(changed: _Changed, head: _Head) -> tuple[int, bytes]:
    """Return how many bytes the gaps before what changed after the head have, and their frame."""
    ranks = changed.ranks[head.changed :]
    if not ranks.size:
        return 0, b""
    stream, ends = skips.encode(ranks, head.elements)
    lengths = np.diff(np.concatenate(([0], ends)).take(changed.counts[head.exponents :].cumsum()), prepend=0)
    return stream.size, _compress(stream, tables.begins(tables.counts_of(lengths, stream, 1 << 8)))


def _encode_others(values: Words, is_other: Words, counts: Words, tail: memoryview) -> tuple[int, memoryview]:
    """Return how many differences have digits, and the planes of these and the tail."""
    lengths = np.diff(np.concatenate(([0], np.cumsum(is_other))).take(counts.cumsum()), prepend=0)
    other_count = int(lengths.sum())
    digits = scratch("changed", WIDTH * other_count + tail.nbytes)
    others: Words = digits[: WIDTH * other_count].view(values.dtype)
    np.compress(is_other, values, out=others)
    bits = sampling.bits_of_planes(sampling.spread_sample(others) + BIASES[WIDTH])
    ends = tables.begins(tables.counts_of(lengths, others.astype(np.uint8), 1 << 8))
    return other_count, encode_digits(digits, others, bits, tail, ends)


def _compress(stream: Words, ends: list[int]) -> bytes:
    return frames.compress_plane(stream.data, ends) if stream.size else b""


def decode(stored: memoryview, shift: int, base: Words, out: memoryview, *, of_matrix: bool) -> memoryview:
    """Write the elements to `out`, which may be the base's memory; return the tail.

    Args:
        stored: what follows the codec's first four bytes.
        shift: bits of mantissa.
        base: elements, one or more.
        out: as many bytes as the record says.
        of_matrix: whether it is layout 3.

    Raises:
        MalformedError: the stored bytes break a rule of their format.
    """
    fields, stored = _read_fields(stored, shift, base.size, out.nbytes, of_matrix)
    words: Words = np.frombuffer(out, dtype=base.dtype, count=base.size)
    np.copyto(words, base)
    if not fields.row_bytes:
        return _decode_part(fields, stored, shift, base, words, out.nbytes - words.nbytes)
    rows = skips.decode(np.frombuffer(stored, np.uint8, fields.row_bytes), 0, base.size // fields.columns)
    part = words.reshape(-1, fields.columns).take(rows, axis=0)
    some = part.reshape(-1)
    tail = _decode_part(fields, stored[fields.row_bytes :], shift, some, some, out.nbytes - words.nbytes)
    words.reshape(-1, fields.columns)[rows] = part
    return tail


def _decode_part(
    fields: _Fields, stored: memoryview, shift: int, base: Words, words: Words, tail_bytes: int
) -> memoryview:
    """Write the elements that changed to `words`, which may be the base; return the tail."""
    codes_at = _check_part(fields, stored.nbytes, base.size)
    gaps_at = codes_at + fields.code_stored_bytes
    planes_at = gaps_at + fields.gap_stored_bytes
    code_count = fields.head + fields.named
    packed = _decompress(stored[codes_at:gaps_at], packed_bytes(code_count), "packed")
    codes = unpack(packed)[:code_count]
    gaps = _decompress(stored[gaps_at:planes_at], fields.gap_bytes, "gaps")
    named = skips.decode(gaps, fields.head, base.size)
    if named.size != fields.named:
        raise MalformedError(f"difference has gaps before {named.size} elements, {fields.named} were expected")
    head_ranks = np.flatnonzero(codes[: fields.head] != 0)
    ranks = np.concatenate((head_ranks, named))
    changed_codes = np.concatenate((codes.take(head_ranks), codes[fields.head :]))
    is_other = changed_codes == _OTHER
    if np.count_nonzero(is_other) != fields.others:
        raise MalformedError(f"difference has digits of {fields.others} elements, {is_other.sum()} were expected")
    others, tail = decode_digits(stored[planes_at:], fields.others, WIDTH, tail_bytes)
    values = _DIFFERENCES.take(changed_codes)
    values[is_other] = others
    places = np.argsort(_exponents_of(base, shift), kind="stable").take(ranks)
    base_there = base.take(places)
    if fields.columns:
        found = directions.unpacked(stored[:codes_at], fields.columns, base.size)
        values = directions.turn(values, found.masks(places, base_there))
    words[places] = np.add(values, base_there, out=values)
    return tail


def _read_fields(
    stored: memoryview, shift: int, element_count: int, raw_bytes: int, of_matrix: bool
) -> tuple[_Fields, memoryview]:
    """Return the fields, and what follows them."""
    header_bytes = _FIELDS.size + (_MATRIX_FIELDS.size if of_matrix else 0)
    if stored.nbytes < header_bytes:
        raise MalformedError("difference is truncated in its header")
    matrix = _MATRIX_FIELDS.unpack_from(stored, _FIELDS.size) if of_matrix else ()
    fields = _Fields(*_FIELDS.unpack_from(stored), *matrix)
    has_rows = 0 < fields.columns <= element_count and element_count % fields.columns == 0
    is_possible = (
        fields.raw_bytes == raw_bytes
        and shift in _LISTED_MANTISSA_BITS
        and has_rows == of_matrix
        and header_bytes + fields.row_bytes <= stored.nbytes
    )
    if not is_possible or not element_count:
        raise MalformedError(
            f"difference by exponents is not of {element_count} elements in {raw_bytes} bytes, or impossible: {fields}"
        )
    return fields, stored[header_bytes:]


def _check_part(fields: _Fields, stored_bytes: int, element_count: int) -> int:
    """Compare what is said of elements with how many there are; return where codes begin."""
    direction_bytes = directions.packed_bytes(fields.columns, element_count) if fields.columns else 0
    after_head = element_count - fields.head
    is_possible = (
        0 <= fields.named <= after_head
        and fields.others <= fields.head + fields.named
        and fields.gap_bytes <= fields.named + after_head // skips.ESCAPE
        and direction_bytes + fields.code_stored_bytes + fields.gap_stored_bytes <= stored_bytes
    )
    if not is_possible:
        raise MalformedError(f"difference by exponents of {element_count} elements is impossible: {fields}")
    return direction_bytes


def _decompress(frame: memoryview, raw_bytes: int, use: str) -> Words:
    stream = scratch(use, raw_bytes)
    if raw_bytes:
        frames.decompress_into(frame, stream.data)
    elif frame.nbytes:
        raise MalformedError(f"difference has {frame.nbytes} stored bytes where it has no elements")
    return stream
