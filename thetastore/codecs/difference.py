"""Codec `difference`: what a chunk has more than its base, element by element, in byte planes.

Elements are taken as unsigned integers of their width, whatever they mean, and subtracted modulo 2^width. To the
difference 0x80 is added in every byte but the highest, which makes its bytes *balanced digits*: a small difference of
either sign leaves the higher bytes at zero, and the lowest byte near 0x80. The result goes through codec `planes` as
integers do. Where enough elements are equal to the base's, only the others do, and `places` says which they are.

    layout 0, dense                          layout 1, sparse
    0  1  version, 0                         0   1  version, 0
    1  1  layout, 0                          1   1  layout, 1
    2  1  width in bytes: 1, 2, 4, 8         2   1  width in bytes: 1, 2, 4, 8
    3  1  0                                  3   1  coding of the places
    4     planes of all elements, and tail   4   4  raw bytes
                                             8   4  k, the number of elements that differ
                                             12  4  stored bytes of the places
                                             16     places; planes of k elements, and tail

`docs/format/codecs.md` has the limits and the rationale, `docs/decisions/020-difference-codec.md` the figures.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from thetastore.codecs import ordered, places, sampling
from thetastore.codecs.digits import BIASES, WIDTHS, decode_digits, encode_digits
from thetastore.codecs.payload import MAX_RAW_BYTES
from thetastore.codecs.scratch import scratch, words_of
from thetastore.codecs.splitting import Words
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError, UnsupportedError

VERSION: Final = 0
_DENSE: Final = 0
_SPARSE: Final = 1
_ORDERED: Final = 2
_ORDERED_OF_MATRIX: Final = 3
_HEADER: Final = struct.Struct("<BBBB")
_SPARSE_FIELDS: Final = struct.Struct("<III")

_SPARSE_UP_TO: Final = {1: 0.25, 2: 0.5, 4: 0.75, 8: 0.75}
"""By width: the share of differing elements up to which places + values are smaller than all differences. A bit an
element weighs less, the wider the elements are."""

_SAMPLING_ERROR: Final = 0.05
"""Where the sample has this much more than that, the elements are not compared: three deviations of 1024 of them."""

_ORDERED_FROM: Final = 1000
_ORDERED_FROM_SHARE: Final = 0.02
"""By how many elements, and by which share of all, have to have changed that their order is worth its while: fewer are
often rows that were trained among rows that were not, which gaps between neighbours tell better."""
_GAIN_OF_ORDER: Final = 0.1
"""What the order has to save of the places' bits."""

_ADVANTAGE: Final = 0.97
"""A difference is tried only where a sample of it takes this much less: a base costs its readers a second read."""


def encode(
    raw: memoryview, base: memoryview, dtype: str | None, *, columns: int = 0, is_thorough: bool = False
) -> memoryview | None:
    """Return the payload, in memory of its own, or None where a sample says that a difference is no use.

    Args:
        raw: the chunk.
        base: as many bytes as `raw` has.
        dtype: of both; None or an unknown name means bytes.
        columns: elements of a row of the matrix that the chunk is a part of; 0 for none.
        is_thorough: use the order of exponents where more than half of the elements changed, too.
    """
    width, exponent_first = sampling.arrangement_of(dtype) if dtype in DTYPES else (1, False)
    if not width <= raw.nbytes <= MAX_RAW_BYTES:
        return None
    words, base_words = words_of(raw, width, "target"), words_of(base, width, "base")
    sampled = _sampled_differences(words, base_words)
    bits = sampling.bits_of_planes(sampled + BIASES[width])
    if not _promises_to_pay(bits, words, exponent_first):
        return None
    tail = raw[words.nbytes :]
    digits = scratch("digits", raw.nbytes)
    differences: Words = digits[: words.nbytes].view(words.dtype)
    np.subtract(words, base_words, out=differences)
    shift = ordered.MANTISSA_BITS.get(dtype or "")
    most = 1.0 if is_thorough and shift is not None else _SPARSE_UP_TO[width]
    if np.count_nonzero(sampled) <= (most + _SAMPLING_ERROR) * sampled.size:
        differs = scratch("differs", -(-words.size // 8) * 8).view(np.bool_)
        differs[words.size :] = False
        np.not_equal(differences, 0, out=differs[: words.size])
        changed_count = int(np.count_nonzero(differs))
        is_sparse = 0 < changed_count <= _SPARSE_UP_TO[width] * words.size
        if shift is not None and changed_count >= _ORDERED_FROM and (is_sparse or is_thorough):
            part = ordered.part_of(differences, differs[: words.size], base_words, columns)
            if (is_thorough and not is_sparse) or _suits_order(part, shift, changed_count):
                of_matrix, stored = ordered.encode(part, changed_count, shift, tail, raw.nbytes)
                layout = _ORDERED_OF_MATRIX if of_matrix else _ORDERED
                return memoryview(_HEADER.pack(VERSION, layout, width, shift) + stored)
        if is_sparse:
            return _encode_sparse(differences, differs, changed_count, tail)
    return memoryview(_HEADER.pack(VERSION, _DENSE, width, 0) + encode_digits(digits, differences, bits, tail))


def _sampled_differences(words: Words, base: Words) -> Words:
    sampled: Words = sampling.spread_sample(words) - sampling.spread_sample(base)
    return sampled


def _suits_order(part: ordered.Part, shift: int, changed_count: int) -> bool:
    if part.rows.size:
        return True
    if changed_count < _ORDERED_FROM_SHARE * part.base.size:
        return False
    sampled, base = (sampling.spread_sample(words) for words in (part.differences, part.base))
    return ordered.gain_by_order(sampled, base, shift) >= _GAIN_OF_ORDER


def _promises_to_pay(bits: list[float], words: Words, exponent_first: bool) -> bool:
    """Tell whether planes of so many bits, the differences', take less than those of the elements themselves."""
    sampled = sampling.spread_sample(words)
    if exponent_first:
        sampled = np.left_shift(sampled, 1)  # a byte of its own for the exponent; the sign is worth a bit of noise
    return sampling.coded_bits(bits) < _ADVANTAGE * sampling.coded_bits(sampling.bits_of_planes(sampled))


def _encode_sparse(differences: Words, differs: Words, changed_count: int, tail: memoryview) -> memoryview:
    width = differences.itemsize
    changed = places.find(differs, changed_count)
    coding, stored = places.encode(differs, changed)
    digits = scratch("changed", changed_count * width + tail.nbytes)
    values: Words = digits[: changed_count * width].view(differences.dtype)
    np.take(differences, changed, out=values, mode="clip")  # any other mode buffers `out`
    raw_bytes = differences.nbytes + tail.nbytes
    fields = _SPARSE_FIELDS.pack(raw_bytes, changed_count, len(stored))
    header = _HEADER.pack(VERSION, _SPARSE, width, coding) + fields
    bits = sampling.bits_of_planes(sampling.spread_sample(values) + BIASES[width])
    return memoryview(b"".join((header, stored, encode_digits(digits, values, bits, tail))))


def decode(payload: memoryview, base: memoryview, out: memoryview) -> None:
    """Fill `out` with the raw bytes; `out` may be the base's own memory.

    Raises:
        MalformedError: the payload breaks a rule of its format, or base or payload have another number of raw bytes.
        UnsupportedError: the payload has a later version.
    """
    layout, width, coding = _read_header(payload, base, out)
    base_words = words_of(base, width, "base")
    words: Words = np.frombuffer(out, dtype=base_words.dtype, count=base_words.size)
    stored = payload[_HEADER.size :]
    if layout >= _ORDERED:
        of_matrix = layout == _ORDERED_OF_MATRIX
        out[words.nbytes :] = ordered.decode(stored, coding, base_words, out, of_matrix=of_matrix)
        return
    if layout == _DENSE:
        differences, tail = decode_digits(stored, base_words.size, width, out.nbytes - words.nbytes)
    else:
        differences, tail = _decode_sparse(stored, coding, base_words, out)
    np.add(base_words, differences, out=words)
    out[words.nbytes :] = tail


def _read_header(payload: memoryview, base: memoryview, out: memoryview) -> tuple[int, int, int]:
    """Return layout, width, and the fourth byte."""
    if base.nbytes != out.nbytes:
        raise MalformedError(f"difference needs a base of {out.nbytes} bytes, it has {base.nbytes}")
    if payload.nbytes < _HEADER.size:
        raise MalformedError(f"difference is truncated in its header, at byte {payload.nbytes}")
    version, layout, width, coding = _HEADER.unpack_from(payload)
    if version != VERSION:
        raise UnsupportedError(f"difference is of version {version}, this version reads {VERSION}: upgrade")
    is_listed = layout <= _ORDERED_OF_MATRIX and width in (WIDTHS if layout < _ORDERED else (ordered.WIDTH,))
    if not is_listed or (layout == _DENSE and coding):
        raise MalformedError(f"difference has layout {layout}, width {width}, fourth byte {coding}")
    return layout, width, coding


def _decode_sparse(stored: memoryview, coding: int, base: Words, out: memoryview) -> tuple[Words, memoryview]:
    """Return the differences of all elements, and the tail."""
    if stored.nbytes < _SPARSE_FIELDS.size:
        raise MalformedError("difference is truncated in its header")
    raw_bytes, changed_count, places_bytes = _SPARSE_FIELDS.unpack_from(stored)
    end = _SPARSE_FIELDS.size + places_bytes
    if raw_bytes != out.nbytes or changed_count > base.size or end > stored.nbytes:
        raise MalformedError(
            f"difference of {changed_count} elements in {raw_bytes} raw bytes has places up to byte {end} of "
            f"{stored.nbytes}; {out.nbytes} raw bytes with {base.size} elements were expected"
        )
    changed = places.decode(stored[_SPARSE_FIELDS.size : end], coding, changed_count, base.size)
    values, tail = decode_digits(stored[end:], changed_count, base.itemsize, out.nbytes - base.nbytes)
    differences: Words = scratch("differences", base.nbytes).view(base.dtype)
    differences.fill(0)
    differences[changed] = values
    return differences, tail
