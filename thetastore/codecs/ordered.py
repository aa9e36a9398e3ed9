"""Layout 2 of codec `difference`: 16-bit floats of which some changed, in the order of their base's exponents.

How likely a small change is to move an element, and by how many units in its last place, depends on that unit, which
is a matter of the exponent: twice the unit, half the changes. So elements are ordered by the exponent of the base, and
among equal ones as they were. *Rank* is what a place in that order is called here; *place* is the index of an element.

Up to some rank, where many elements changed, each has a *code* of two bits: equal, one more, one less, other. After it
the changed ones are named by gaps, and have codes too. What is neither one more nor one less has digits. Codes and gaps
are one zstd frame each, of nothing but Huffman-coded blocks, a new one with a table of its own where another exponent
begins: so each is coded as its exponent has it, and a reader need not know where that is.

    0   1  version, 0                         12  4  elements after these that are named by gaps
    1   1  layout, 2                          16  4  elements with digits
    2   1  width in bytes: 2                  20  4  raw bytes of the gaps
    3   1  bits of mantissa, 7 to 14          24  4  stored bytes of the codes
    4   4  raw bytes                          28  4  stored bytes of the gaps
    8   4  elements of which each has a code  32     codes; gaps; planes of the digits, and tail

Elements are not moved: the order is numpy's stable sort of bytes, one pass of a radix sort (2 ns an element), and only
those that changed are looked up in it. `docs/format/codecs.md` has the limits and the rationale,
`docs/decisions/026-differences-by-exponent.md` the figures.
"""

from __future__ import annotations

import struct
from math import log
from typing import Final, NamedTuple

import numpy as np

from thetastore.codecs import frames, sampling
from thetastore.codecs.codes import PER_BYTE, pack, packed_bytes, unpack
from thetastore.codecs.digits import BIASES, decode_digits, encode_digits
from thetastore.codecs.scratch import scratch
from thetastore.codecs.splitting import Words
from thetastore.errors import MalformedError

WIDTH: Final = 2
MANTISSA_BITS: Final = {"bfloat16": 7, "float16": 10}
"""Of the element types for which the order is of use."""
_LISTED_MANTISSA_BITS: Final = range(7, 15)
_MAGNITUDE: Final = 0x7FFF

_FIELDS: Final = struct.Struct("<IIIIIII")
_OTHER: Final = 2
_DIFFERENCES: Final = np.array([0, 0xFFFF, 0, 1], np.uint16)
"""By code: none, one less, other, one more."""
_ESCAPE: Final = 255

_CODES_FROM: Final = 0.25
"""Where fewer elements of a class changed, gaps are smaller than codes of all (anything from .2 to .4 will do)."""
_LEAST_TABLE_BYTES: Final = 600
"""Fewer bytes are not worth a table of their own."""


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


class _Head(NamedTuple):
    """The first ranks, of which each has a code."""

    exponents: int
    """How many exponents, from 0 on."""
    elements: int
    changed: int


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


def encode(
    differences: Words, differs: Words, changed_count: int, base: Words, shift: int, tail: memoryview
) -> memoryview:
    """Return what follows the codec's first four bytes.

    Args:
        differences: of all elements.
        differs: one bool an element.
        changed_count: how many of these are true, one or more.
        base: the elements that these are differences from.
        shift: bits of mantissa.
        tail: bytes after the elements.
    """
    exponents = _exponents_of(base, shift)
    order = np.argsort(exponents, kind="stable")
    ranks = np.flatnonzero(differs.take(order))
    places = order.take(ranks)
    of_all = np.bincount(exponents)
    changed = _Changed(ranks, np.bincount(exponents.take(places), minlength=of_all.size), of_all)
    head = _head_of(changed)
    values = differences.take(places)
    codes = _codes_of(values)
    code_frame = _encode_codes(codes, changed, head)
    gap_bytes, gap_frame = _encode_gaps(changed, head)
    other_count, planes = _encode_others(values, codes == _OTHER, changed.counts, tail)
    raw_bytes, named_count = differences.nbytes + tail.nbytes, changed_count - head.changed
    fields = _Fields(raw_bytes, head.elements, named_count, other_count, gap_bytes, len(code_frame), len(gap_frame))
    return memoryview(b"".join((_FIELDS.pack(*fields), code_frame, gap_frame, planes)))


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
    return _compress(pack(all_codes), lengths.cumsum() // PER_BYTE)


def _encode_gaps(changed: _Changed, head: _Head) -> tuple[int, bytes]:
    """Return how many bytes the gaps before what changed after the head have, and their frame."""
    ranks = changed.ranks[head.changed :]
    if not ranks.size:
        return 0, b""
    gaps = np.diff(ranks, prepend=head.elements - 1) - 1
    escape_counts = gaps // _ESCAPE
    ends = np.cumsum(escape_counts + 1)
    stream: Words = np.full(int(ends[-1]), _ESCAPE, np.uint8)
    stream[ends - 1] = gaps - escape_counts * _ESCAPE
    return stream.size, _compress(stream, _ends_by_exponent(ends, changed.counts[head.exponents :]))


def _encode_others(values: Words, is_other: Words, counts: Words, tail: memoryview) -> tuple[int, memoryview]:
    """Return how many differences have digits, and the planes of these and the tail."""
    ends = np.cumsum(is_other)
    other_count = int(ends[-1])
    digits = scratch("changed", WIDTH * other_count + tail.nbytes)
    others: Words = digits[: WIDTH * other_count].view(values.dtype)
    np.compress(is_other, values, out=others)
    bits = sampling.bits_of_planes(sampling.spread_sample(others) + BIASES[WIDTH])
    return other_count, encode_digits(digits, others, bits, tail, _apart(_ends_by_exponent(ends, counts)))


def _ends_by_exponent(ends: Words, counts: Words) -> Words:
    """Return where exponents end in a stream, of which `ends` says where elements do."""
    of_exponents: Words = np.concatenate(([0], ends)).take(counts.cumsum())
    return of_exponents


def _apart(ends: Words) -> list[int]:
    """Return those ends of exponents that are worth a table for what is before them."""
    apart = [0]
    for end in ends.tolist():
        if end - apart[-1] >= _LEAST_TABLE_BYTES:
            apart.append(end)
    return apart[1:]


def _compress(stream: Words, ends: Words) -> bytes:
    return frames.compress_plane(stream.data, _apart(ends)) if stream.size else b""


def decode(stored: memoryview, shift: int, base: Words, out: memoryview) -> memoryview:
    """Write the elements to `out`, which may be the base's memory; return the tail.

    Args:
        stored: what follows the codec's first four bytes.
        shift: bits of mantissa.
        base: elements, one or more.
        out: as many bytes as the record says.

    Raises:
        MalformedError: the stored bytes break a rule of their format.
    """
    fields = _read_fields(stored, shift, base.size, out.nbytes)
    gaps_at = _FIELDS.size + fields.code_stored_bytes
    planes_at = gaps_at + fields.gap_stored_bytes
    code_count = fields.head + fields.named
    packed = _decompress(stored[_FIELDS.size : gaps_at], packed_bytes(code_count), "packed")
    codes = unpack(packed)[:code_count]
    gaps = _decompress(stored[gaps_at:planes_at], fields.gap_bytes, "gaps")
    head_ranks = np.flatnonzero(codes[: fields.head] != 0)
    ranks = np.concatenate((head_ranks, _ranks_of_gaps(gaps, fields, base.size)))
    changed_codes = np.concatenate((codes.take(head_ranks), codes[fields.head :]))
    is_other = changed_codes == _OTHER
    if np.count_nonzero(is_other) != fields.others:
        raise MalformedError(f"difference has digits of {fields.others} elements, {is_other.sum()} were expected")
    others, tail = decode_digits(stored[planes_at:], fields.others, WIDTH, out.nbytes - base.nbytes)
    values = _DIFFERENCES.take(changed_codes)
    values[is_other] = others
    places = np.argsort(_exponents_of(base, shift), kind="stable").take(ranks)
    np.add(values, base.take(places), out=values)
    words: Words = np.frombuffer(out, dtype=base.dtype, count=base.size)
    np.copyto(words, base)
    words[places] = values
    return tail


def _read_fields(stored: memoryview, shift: int, element_count: int, raw_bytes: int) -> _Fields:
    if stored.nbytes < _FIELDS.size:
        raise MalformedError("difference is truncated in its header")
    fields = _Fields._make(_FIELDS.unpack_from(stored))
    after_head = element_count - fields.head
    is_possible = (
        fields.raw_bytes == raw_bytes
        and shift in _LISTED_MANTISSA_BITS
        and 0 <= fields.named <= after_head
        and fields.others <= fields.head + fields.named
        and fields.gap_bytes <= fields.named + after_head // _ESCAPE
        and _FIELDS.size + fields.code_stored_bytes + fields.gap_stored_bytes <= stored.nbytes
    )
    if not is_possible or not element_count:
        raise MalformedError(
            f"difference by exponents is not of {element_count} elements in {raw_bytes} bytes, or impossible: {fields}"
        )
    return fields


def _decompress(frame: memoryview, raw_bytes: int, use: str) -> Words:
    stream = scratch(use, raw_bytes)
    if raw_bytes:
        frames.decompress_into(frame, stream.data)
    elif frame.nbytes:
        raise MalformedError(f"difference has {frame.nbytes} stored bytes where it has no elements")
    return stream


def _ranks_of_gaps(gaps: Words, fields: _Fields, element_count: int) -> Words:
    """Return the ranks of elements that are named by gaps."""
    names = gaps != _ESCAPE
    if np.count_nonzero(names) != fields.named or (gaps.size and not names[-1]):
        raise MalformedError(f"difference has gaps before other than {fields.named} elements")
    ends = np.cumsum(gaps + names, dtype=np.int64)  # an element is one more than the gap before it
    ranks: Words = ends.compress(names) + (fields.head - 1)
    if ranks.size and ranks[-1] >= element_count:
        raise MalformedError(f"difference has a gap that ends at {ranks[-1]} of {element_count} elements")
    return ranks
