"""A byte plane of nearly nothing but three values: codes of two bits for these, and the others by themselves.

So are the high planes of small differences (0, 1 and -1), and low ones where nothing but weight decay moved what was
not trained: all mantissas of a range by the same. Of nearly one value alone, zstd finds the runs.

    0   4  o, the number of other bytes
    4   4  stored bytes of the codes
    8   3  the bytes of codes 0, 1 and 2; code 3 is another
    11  1  0
    12     codes, one zstd frame; the other bytes in order, one zstd frame
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

from thetastore.codecs import frames, sampling
from thetastore.codecs.codes import PER_BYTE, pack, packed_bytes, unpack
from thetastore.codecs.scratch import scratch
from thetastore.codecs.splitting import Bytes
from thetastore.errors import MalformedError

_FIELDS: Final = struct.Struct("<II4s")
_OTHER: Final = 3
_LEAST_ELEMENTS: Final = 4096
_MOST_OTHERS: Final = 1 / 16
"""With more of them, or fewer elements, a Huffman code of whole bytes is as small; with no more that are not the first
value, zstd's own runs are."""


def encode(plane: Bytes, ends: Sequence[int]) -> bytes | None:
    """Return what to store for a plane; None where too much of it is not three values.

    Args:
        plane: one byte an element.
        ends: as for `frames.compress_plane`.
    """
    if plane.size < _LEAST_ELEMENTS:
        return None
    counts = np.bincount(sampling.spread_sample(plane), minlength=256)
    values = np.argsort(counts, kind="stable")[: -_OTHER - 1 : -1].astype(np.uint8)
    rest = counts.sum() - counts.take(values).cumsum()
    if rest[0] < _MOST_OTHERS * counts.sum() or rest[-1] > _MOST_OTHERS * counts.sum():
        return None
    code_of = np.full(256, _OTHER, np.uint8)
    code_of[values] = range(_OTHER)
    codes = scratch("codes", PER_BYTE * packed_bytes(plane.size))
    codes[plane.size :] = 0
    np.take(code_of, plane, out=codes[: plane.size], mode="clip")  # any other mode buffers `out`
    others = plane[codes[: plane.size] == _OTHER]
    if others.size > _MOST_OTHERS * plane.size:
        return None
    frame = frames.compress_plane(pack(codes).data, [end // PER_BYTE for end in ends])
    payload = _FIELDS.pack(others.size, len(frame), values.tobytes() + b"\0") + frame
    return payload + frames.compress_plane(others.data) if others.size else payload


def decode(stored: memoryview, element_count: int) -> Bytes:
    """Return a plane.

    Raises:
        MalformedError: the stored bytes break a rule of their format.
    """
    if stored.nbytes < _FIELDS.size:
        raise MalformedError(f"a plane of codes is truncated at byte {stored.nbytes}")
    other_count, code_bytes, values = _FIELDS.unpack_from(stored)
    others_at = _FIELDS.size + code_bytes
    if other_count > element_count or others_at > stored.nbytes or values[_OTHER]:
        raise MalformedError(
            f"a plane of {element_count} codes has {other_count} others at {others_at}, or a fourth value"
        )
    packed = scratch("packed", packed_bytes(element_count))
    frames.decompress_into(stored[_FIELDS.size : others_at], packed.data)
    codes = unpack(packed)[:element_count]
    is_other = codes == _OTHER
    if np.count_nonzero(is_other) != other_count or bool(other_count) != (others_at < stored.nbytes):
        raise MalformedError(f"a plane of codes has other than {other_count} others, or bytes after them")
    plane: Bytes = np.frombuffer(values, np.uint8).take(codes)
    if other_count:
        others = scratch("others", other_count)
        frames.decompress_into(stored[others_at:], others.data)
        plane[is_other] = others
    return plane
