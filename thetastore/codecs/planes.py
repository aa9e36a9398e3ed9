"""Codec `planes`: elements split into byte planes, each stored as it is smallest at a reasonable price.

In trained weights the exponent carries 2.6 bits of information in its 8 bits, mantissas are noise. So one plane of an
element is Huffman-coded (`frames.compress_plane`), which is nearly all that coding and decoding cost, and the others
are copied, several planes at once. `payload` has the layout of what is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thetastore.codecs import frames
from thetastore.codecs.payload import MAX_RAW_BYTES, Coding, Group, Header, raw_bytes_of, read_header, write_header
from thetastore.codecs.sampling import Plan, arrangement_of, plan_for
from thetastore.codecs.scratch import scratch
from thetastore.codecs.splitting import Bytes, Words, put, put_constant, take

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Plan", "decode", "encode", "plan", "raw_bytes_of"]

_Coded = tuple[Coding, bytes]
"""What a plane became: CONSTANT or ZSTD, and the bytes to store."""


def plan(raw: memoryview, dtype: str) -> Plan:
    """Decide by the element type and a sample how to code `raw`, which has one element or more."""
    return plan_for(_words_of(raw, arrangement_of(dtype)[0]), dtype)


def encode(raw: memoryview, plan: Plan) -> memoryview | None:
    """Return the payload, in memory of its own, or None where it would not be worth its while."""
    words = _words_of(raw, plan.width)
    coded = [_code_plane(words, plane, plan) if pays else None for plane, pays in enumerate(plan.pays)]
    groups = _join_raw_planes(coded, words.size, plan.exponent_first)
    header = Header(plan.width, plan.exponent_first, raw.nbytes, groups)
    if not frames.pays(header.payload_bytes, raw.nbytes) or raw.nbytes > MAX_RAW_BYTES:
        return None
    payload: Bytes = np.empty(header.payload_bytes, dtype=np.uint8)
    write_header(header, payload.data)
    position = header.header_bytes
    for group in groups:
        _store(group, coded[group.first_byte], words, plan, payload[position : position + group.stored_bytes])
        position += group.stored_bytes
    payload.data[position:] = raw[words.nbytes :]
    return payload.data


def _words_of(raw: memoryview, width: int) -> Words:
    """View the whole elements of `raw`; copy them to scratch memory where they are not aligned."""
    words: Words = np.frombuffer(raw, dtype=f"<u{width}", count=raw.nbytes // width)
    if words.flags.aligned:
        return words
    copy: Words = scratch("words", words.nbytes).view(words.dtype)
    np.copyto(copy, words)
    return copy


def _code_plane(words: Words, plane: int, plan: Plan) -> _Coded | None:
    split = scratch("plane", words.size)
    take(words, plane, 1, plan.exponent_first, split, scratch("spare", words.size))
    if split[0] == split[-1] and split.min() == split.max():
        return Coding.CONSTANT, split[:1].tobytes()
    frame = frames.compress_plane(split.data)
    return (Coding.ZSTD, frame) if frames.pays(len(frame), words.size) else None


def _join_raw_planes(coded: Sequence[_Coded | None], element_count: int, exponent_first: bool) -> tuple[Group, ...]:
    """Describe every plane; raw neighbours go together wherever one cast can copy them."""
    groups: list[Group] = []
    first_byte = 0
    while first_byte < len(coded):
        result = coded[first_byte]
        if result is None:
            byte_count = _joinable(coded, first_byte, exponent_first)
            groups.append(Group(first_byte, byte_count, Coding.RAW, byte_count * element_count))
        else:
            byte_count = 1
            groups.append(Group(first_byte, byte_count, result[0], len(result[1])))
        first_byte += byte_count
    return tuple(groups)


def _joinable(coded: Sequence[_Coded | None], first_byte: int, exponent_first: bool) -> int:
    """Return how many raw planes from `first_byte` on one integer type can hold: 4, 2 or 1."""
    joinable_end = len(coded) - 2 if exponent_first else len(coded)
    for byte_count in (4, 2):
        end = first_byte + byte_count
        is_aligned = first_byte % byte_count == 0 and end <= joinable_end
        if is_aligned and all(result is None for result in coded[first_byte:end]):
            return byte_count
    return 1


def _store(group: Group, coded: _Coded | None, words: Words, plan: Plan, place: Bytes) -> None:
    if coded is None:
        take(words, group.first_byte, group.byte_count, plan.exponent_first, place, scratch("spare", words.size))
    else:
        place.data[:] = coded[1]


def decode(payload: memoryview, out: memoryview) -> None:
    """Fill `out` with the raw bytes.

    Raises:
        MalformedError: the payload breaks a rule of its format, or has another number of raw bytes.
        UnsupportedError: the payload has a later version.
    """
    header = read_header(payload, out.nbytes)
    words: Words = np.frombuffer(out, dtype=f"<u{header.width}", count=header.element_count)
    if words.size:
        _join(header, payload, words)
    out[words.nbytes :] = payload[payload.nbytes - header.tail_bytes :]


def _join(header: Header, payload: memoryview, out: Words) -> None:
    """Set every element to the sum of what its planes say."""
    words = out if out.flags.aligned else scratch("words", out.nbytes).view(out.dtype)
    term = scratch("term", out.nbytes).view(out.dtype)
    constant_bits, is_first = 0, True
    position = header.header_bytes
    for group in header.groups:
        stored = payload[position : position + group.stored_bytes]
        position += group.stored_bytes
        if group.coding is Coding.CONSTANT:
            constant_bits |= put_constant(stored[0], group.first_byte, header.width, header.exponent_first)
            continue
        plane = _plane_of(group, stored, out.size)
        put(plane, group.first_byte, group.byte_count, header.exponent_first, words if is_first else term)
        if not is_first:
            np.bitwise_or(words, term, out=words)
        is_first = False
    if is_first:
        words.fill(constant_bits)
    elif constant_bits:
        np.bitwise_or(words, constant_bits, out=words)
    if words is not out:
        np.copyto(out, words)


def _plane_of(group: Group, stored: memoryview, element_count: int) -> Bytes:
    if group.coding is Coding.RAW:
        return np.frombuffer(stored, dtype=np.uint8)
    plane = scratch("plane", element_count)
    frames.decompress_into(stored, plane.data)
    return plane
