"""Codec `difference`: what a chunk has more than its base, element by element, in byte planes.

Elements are taken as unsigned integers of their width, whatever they mean, and subtracted modulo 2^width. To the
difference 0x80 is added in every byte but the highest, which makes its bytes *balanced digits*: a small difference of
either sign leaves the higher bytes at zero, and the lowest byte near 0x80. The result goes through codec `planes` as
integers do; where at least three quarters of the elements are equal, only the others do, and a bitmap says which they
are.

    layout 0, dense                          layout 1, sparse
    0  1  version, 0                         0   1  version, 0
    1  1  layout, 0                          1   1  layout, 1
    2  1  width in bytes: 1, 2, 4, 8         2   1  width in bytes: 1, 2, 4, 8
    3  1  0                                  3   1  coding of the bitmap: 0 raw, 2 zstd
    4     planes of all elements, and tail   4   4  raw bytes
                                             8   4  k, the number of elements that differ
                                             12  4  stored bytes of the bitmap
                                             16     bitmap, lowest bit first; planes of k elements, and tail

`docs/format/codecs.md` has the limits and the rationale, `docs/decisions/020-difference-codec.md` the figures.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import numpy as np

from thetastore.codecs import frames, planes, sampling
from thetastore.codecs.payload import MAX_RAW_BYTES, Coding
from thetastore.codecs.scratch import scratch
from thetastore.codecs.splitting import Bytes, Words
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError, UnsupportedError

VERSION: Final = 0
_DENSE: Final = 0
_SPARSE: Final = 1
_HEADER: Final = struct.Struct("<BBBB")
_SPARSE_HEADER: Final = struct.Struct("<BBBBIII")
_WIDTHS: Final = (1, 2, 4, 8)
_BIASES: Final[dict[int, Any]] = {
    width: np.dtype(f"<u{width}").type(sum(0x80 << 8 * byte for byte in range(width - 1))) for width in _WIDTHS
}
"""By width: 0x80 in every byte but the highest."""
_ADVANTAGE: Final = 0.97
"""A difference is tried only where a sample of it takes this much less: a base costs its readers a second read."""


def encode(raw: memoryview, base: memoryview, dtype: str | None) -> memoryview | None:
    """Return the payload, in memory of its own, or None where a sample says that a difference is no use."""
    width = sampling.arrangement_of(dtype)[0] if dtype in DTYPES else 1
    if raw.nbytes != base.nbytes or not width <= raw.nbytes <= MAX_RAW_BYTES:
        return None
    count = raw.nbytes // width
    words, base_words = _words_of(raw, width, "target"), _words_of(base, width, "base")
    if not _promises_to_pay(words, base_words, dtype):
        return None
    differs = np.not_equal(words, base_words, out=scratch("differs", count).view(np.bool_))
    changed_count = int(np.count_nonzero(differs))
    tail = raw[count * width :]
    if 0 < changed_count <= count // 4:
        payload = _encode_sparse(words, base_words, differs, changed_count, tail)
    else:
        payload = _HEADER.pack(VERSION, _DENSE, width, 0) + _planes_of(words, base_words, tail)
    return memoryview(payload)


def _encode_sparse(words: Words, base: Words, differs: Words, changed_count: int, tail: memoryview) -> bytes:
    width = words.itemsize
    places = np.flatnonzero(differs)
    bitmap = np.packbits(differs, bitorder="little").data
    frame = frames.compress(bitmap)
    pays = frames.pays(len(frame), bitmap.nbytes)
    coding, stored = (Coding.ZSTD, frame) if pays else (Coding.RAW, bytes(bitmap))
    changed = np.take(words, places, out=scratch("changed", changed_count * width).view(words.dtype), mode="clip")
    changed_base = np.take(base, places, out=scratch("below", changed_count * width).view(words.dtype), mode="clip")
    raw_bytes = words.nbytes + tail.nbytes
    header = _SPARSE_HEADER.pack(VERSION, _SPARSE, width, coding, raw_bytes, changed_count, len(stored))
    return header + stored + _planes_of(changed, changed_base, tail)


def _planes_of(words: Words, base: Words, tail: memoryview) -> memoryview:
    digits = scratch("digits", words.nbytes + tail.nbytes)
    differences: Words = digits[: words.nbytes].view(words.dtype)
    np.subtract(words, base, out=differences)
    np.add(differences, _BIASES[words.itemsize], out=differences)
    digits.data[words.nbytes :] = tail
    payload = planes.encode(digits.data, _plan_of(differences), at_any_size=True)
    assert payload is not None, "a payload at any size was asked for"
    return payload


def _plan_of(differences: Words) -> planes.Plan:
    width = differences.itemsize
    pays = (False,) * width
    if differences.size:
        bits = sampling.entropies(sampling.spread_sample(differences), width)
        pays = tuple(entropy <= sampling.PAYS_BITS for entropy in bits)
    return planes.Plan(width, False, pays, False)


def _decode_planes(payload: memoryview, width: int, out: memoryview) -> None:
    planes.decode(payload, out)
    if payload[2] != width:
        raise MalformedError(f"difference of width {width} has planes of width {payload[2]}")


def _words_of(raw: memoryview, width: int, use: str) -> Words:
    words: Words = np.frombuffer(raw, dtype=f"<u{width}", count=raw.nbytes // width)
    if words.flags.aligned:
        return words
    copy: Words = scratch(use, words.nbytes).view(words.dtype)
    np.copyto(copy, words)
    return copy


def _promises_to_pay(words: Words, base: Words, dtype: str | None) -> bool:
    """Tell by a sample whether the planes of the differences take fewer bits than those of the elements themselves."""
    width = words.itemsize
    sample, base_sample = sampling.spread_sample(words), sampling.spread_sample(base)
    differences = sample - base_sample + _BIASES[width]
    if dtype in DTYPES and sampling.arrangement_of(dtype)[1]:
        sample = np.left_shift(sample, 1)  # a byte of its own for the exponent; the sign is worth a bit of noise
    return _coded_bits(differences) < _ADVANTAGE * _coded_bits(sample)


def _coded_bits(sample: Words) -> float:
    """Estimate the bits that an element's planes take."""
    bits = sampling.entropies(sample, sample.itemsize)
    return sum(8.0 if entropy > sampling.PAYS_BITS else entropy for entropy in bits)


def decode(payload: memoryview, base: memoryview, out: memoryview) -> None:
    """Fill `out` with the raw bytes; `out` may be the base's own memory.

    Raises:
        MalformedError: the payload breaks a rule of its format, or base or payload have another number of raw bytes.
        UnsupportedError: the payload has a later version.
    """
    if base.nbytes != out.nbytes:
        raise MalformedError(f"difference needs a base of {out.nbytes} bytes, it has {base.nbytes}")
    if payload.nbytes < _HEADER.size:
        raise MalformedError(f"difference is truncated in its header, at byte {payload.nbytes}")
    version, layout, width, reserved = _HEADER.unpack_from(payload)
    if version != VERSION:
        raise UnsupportedError(f"difference is of version {version}, this version reads {VERSION}: upgrade")
    if layout > _SPARSE or width not in _WIDTHS or (layout == _DENSE and reserved):
        raise MalformedError(f"difference has layout {layout}, width {width}, fourth byte {reserved}")
    base_words = _words_of(base, width, "base")
    if layout == _DENSE:
        _decode_dense(payload[_HEADER.size :], base_words, out)
    else:
        _decode_sparse(payload, base, base_words, out)


def _decode_dense(payload: memoryview, base: Words, out: memoryview) -> None:
    digits = scratch("digits", out.nbytes)
    _decode_planes(payload, base.itemsize, digits.data)
    differences: Words = digits[: base.nbytes].view(base.dtype)
    np.subtract(differences, _BIASES[base.itemsize], out=differences)
    words: Words = np.frombuffer(out, dtype=base.dtype, count=base.size)
    np.add(base, differences, out=words)
    out[base.nbytes :] = digits.data[base.nbytes :]


def _decode_sparse(payload: memoryview, base: memoryview, base_words: Words, out: memoryview) -> None:
    if payload.nbytes < _SPARSE_HEADER.size:
        raise MalformedError(f"difference is truncated in its header, at byte {payload.nbytes}")
    _, _, width, coding, raw_bytes, changed_count, bitmap_bytes = _SPARSE_HEADER.unpack_from(payload)
    if raw_bytes != out.nbytes:
        raise MalformedError(f"difference says {raw_bytes} raw bytes, {out.nbytes} were expected")
    end = _SPARSE_HEADER.size + bitmap_bytes
    if changed_count > base_words.size or end > payload.nbytes:
        raise MalformedError(f"difference has {changed_count} elements of {base_words.size}, bitmap ends at {end}")
    places = _read_bitmap(payload[_SPARSE_HEADER.size : end], coding, base_words.size, changed_count)
    tail_bytes = out.nbytes - base_words.nbytes
    digits = scratch("digits", changed_count * width + tail_bytes)
    _decode_planes(payload[end:], width, digits.data)
    differences: Words = digits[: changed_count * width].view(base_words.dtype)
    np.subtract(differences, _BIASES[width], out=differences)
    changed = scratch("changed", changed_count * width).view(base_words.dtype)
    np.take(base_words, places, out=changed, mode="clip")
    np.add(changed, differences, out=changed)
    words: Words = np.frombuffer(out, dtype=base_words.dtype, count=base_words.size)
    np.copyto(words, base_words)
    words[places] = changed
    out[base_words.nbytes :] = digits.data[changed_count * width :]


def _read_bitmap(stored: memoryview, coding: int, element_count: int, changed_count: int) -> Words:
    bitmap: Bytes
    expected_bytes = -(-element_count // 8)
    if coding == Coding.ZSTD:
        bitmap = scratch("bitmap", expected_bytes)
        frames.decompress_into(stored, bitmap.data)
    elif coding == Coding.RAW and stored.nbytes == expected_bytes:
        bitmap = np.frombuffer(stored, np.uint8)
    else:
        raise MalformedError(f"difference has a bitmap of {stored.nbytes} bytes in coding {coding}")
    differs = np.unpackbits(bitmap, bitorder="little")
    places = np.flatnonzero(differs.view(np.bool_))
    if places.size != changed_count or (places.size and places[-1] >= element_count):
        raise MalformedError(f"difference has {places.size} bits for {changed_count} elements")
    return places
