"""Codec `planes`: elements split into byte planes, each stored as it is smallest at a reasonable price.

In trained weights the exponent carries 2.6 bits of information in its 8 bits, mantissas are noise. So one plane of an
element is Huffman-coded (`frames.compress_plane`), which is nearly all that coding and decoding cost, and the others
are copied, several planes at once. `payload` has the layout of what is stored.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from thetastore.codecs import frames, palette, splitting
from thetastore.codecs.payload import MAX_RAW_BYTES, Coding, Group, Header, raw_bytes_of, read_header, write_header
from thetastore.codecs.sampling import Plan, arrangement_of, plan_for
from thetastore.codecs.scratch import scratch, words_of
from thetastore.codecs.splitting import Bytes, Words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Plan", "decode", "encode", "plan", "raw_bytes_of"]

_Coded = tuple[Coding, bytes]
"""What a plane became: CONSTANT, ZSTD or CODES, and the bytes to store."""


def plan(raw: memoryview, dtype: str) -> Plan:
    """Decide by the element type and a sample how to code `raw`."""
    return plan_for(words_of(raw, arrangement_of(dtype)[0], "words"), dtype)


def encode(raw: memoryview, plan: Plan, *, at_any_size: bool = False, ends: Sequence[int] = ()) -> memoryview | None:
    """Return the payload, in memory of its own, or None where it is not worth its while.

    `at_any_size` gives a payload even where nothing is saved, for users who have no other codec to fall back on; `ends`
    says after which elements others begin that are distributed otherwise.
    """
    elements = _Elements.of(words_of(raw, plan.width, "words"), plan.exponent_first)
    coded = [_code_plane(elements, plane, ends) if pays else None for plane, pays in enumerate(plan.pays)]
    groups = _join_raw_planes(coded, elements)
    header = Header(plan.width, plan.exponent_first, raw.nbytes, groups)
    pays = at_any_size or frames.pays(header.payload_bytes, raw.nbytes)
    if not pays or raw.nbytes > MAX_RAW_BYTES:
        return None
    payload: Bytes = np.empty(header.payload_bytes, dtype=np.uint8)
    write_header(header, payload.data)
    position = header.header_bytes
    for group in groups:
        place = payload[position : position + group.stored_bytes]
        result = coded[group.first_byte]
        if result is None:
            elements.take(group.first_byte, group.byte_count, place)
        else:
            place.data[:] = result[1]
        position += group.stored_bytes
    payload.data[position:] = raw[elements.words.nbytes :]
    return payload.data


class _Elements(NamedTuple):
    words: Words
    tops: Words | None
    """The highest two bytes of every element, where the exponent goes first."""

    @classmethod
    def of(cls, words: Words, exponent_first: bool) -> _Elements:
        if not exponent_first:
            return cls(words, None)
        if words.itemsize == 2:
            return cls(words, words)
        tops: Words = scratch("tops", 2 * words.size).view("<u2")
        splitting.take(words, words.itemsize - 2, tops)
        return cls(words, tops)

    @property
    def joinable_end(self) -> int:
        """How many of the lower planes are plain bytes, which can be stored several together."""
        return self.words.itemsize - (0 if self.tops is None else 2)

    def take(self, first_byte: int, byte_count: int, out: Bytes) -> None:
        """Copy a group of planes to `out`, which need not be aligned."""
        if self.tops is None or first_byte < self.joinable_end:
            splitting.take(self.words, first_byte, out.view(f"<u{byte_count}"))
        elif first_byte == self.joinable_end:
            splitting.take_sign_and_mantissa(self.tops, out, scratch("spare", self.words.size))
        else:
            splitting.take_exponent(self.tops, out)


def _code_plane(elements: _Elements, plane: int, ends: Sequence[int]) -> _Coded | None:
    split = scratch("plane", elements.words.size)
    elements.take(plane, 1, split)
    if split[0] == split[-1] and split.min() == split.max():
        return Coding.CONSTANT, split[:1].tobytes()
    payload = palette.encode(split, ends)
    if payload is not None and frames.pays(len(payload), split.size):
        return Coding.CODES, payload
    frame = frames.compress_plane(split.data, ends)
    return (Coding.ZSTD, frame) if frames.pays(len(frame), split.size) else None


def _join_raw_planes(coded: Sequence[_Coded | None], elements: _Elements) -> tuple[Group, ...]:
    """Describe every plane; raw neighbours go together wherever one cast can copy them."""
    groups: list[Group] = []
    first_byte = 0
    while first_byte < len(coded):
        result = coded[first_byte]
        if result is None:
            byte_count = _joinable(coded[: elements.joinable_end], first_byte)
            groups.append(Group(first_byte, byte_count, Coding.RAW, byte_count * elements.words.size))
        else:
            byte_count = 1
            groups.append(Group(first_byte, byte_count, result[0], len(result[1])))
        first_byte += byte_count
    return tuple(groups)


def _joinable(coded: Sequence[_Coded | None], first_byte: int) -> int:
    """Return how many raw planes from `first_byte` on one integer type can hold: 4, 2 or 1."""
    for byte_count in (4, 2):
        end = first_byte + byte_count
        if first_byte % byte_count == 0 and end <= len(coded) and not any(coded[first_byte:end]):
            return byte_count
    return 1


def decode(payload: memoryview, out: memoryview) -> None:
    """Fill `out` with the raw bytes.

    Raises:
        MalformedError: the payload breaks a rule of its format, or has another number of raw bytes.
        UnsupportedError: the payload has a later version.
    """
    header = read_header(payload, out.nbytes)
    words: Words = np.frombuffer(out, dtype=f"<u{header.width}", count=header.element_count)
    if words.flags.aligned:
        _decode_elements(header, payload, words)
    else:
        aligned: Words = scratch("words", words.nbytes).view(words.dtype)
        _decode_elements(header, payload, aligned)
        np.copyto(words, aligned)
    out[words.nbytes :] = payload[payload.nbytes - header.tail_bytes :]


def _decode_elements(header: Header, payload: memoryview, out: Words) -> None:
    total = _Sum(out)
    has_tops = header.exponent_first and header.width > 2
    top = _Sum(scratch("tops", 2 * out.size).view("<u2")) if has_tops else total
    position = header.header_bytes
    for group in header.groups:
        stored = payload[position : position + group.stored_bytes]
        position += group.stored_bytes
        plane = _plane_of(group, stored, out.size)
        if group.first_byte < header.joinable_end:
            total.add(plane, partial(splitting.put, first_byte=group.first_byte))
        elif group.first_byte == header.joinable_end:
            top.add(plane, splitting.put_sign_and_mantissa)
        else:
            top.add(plane, splitting.put_exponent)
    if has_tops:
        total.add(top.finish(), partial(splitting.put, first_byte=header.joinable_end))
    total.finish()


def _plane_of(group: Group, stored: memoryview, element_count: int) -> Words:
    """Return the group's bytes of every element; of one element, where they are the same in all."""
    if group.coding in (Coding.RAW, Coding.CONSTANT):
        return np.frombuffer(stored, dtype=f"<u{group.byte_count}")
    if group.coding is Coding.CODES:
        return palette.decode(stored, element_count)
    plane = scratch("plane", element_count)
    frames.decompress_into(stored, plane.data)
    return plane


class _Sum:
    """Elements that are put together from planes, in as few passes as it takes."""

    def __init__(self, out: Words) -> None:
        self._out = out
        self._is_empty = True
        self._constant = np.zeros(1, out.dtype)

    def add(self, plane: Words, put: Callable[[Words, Words], None]) -> None:
        if plane.size == 1:
            bits = np.empty_like(self._constant)
            put(plane, bits)
            self._constant |= bits
        elif self._is_empty:
            put(plane, self._out)
            self._is_empty = False
        else:
            term: Words = scratch("term", self._out.nbytes).view(self._out.dtype)
            put(plane, term)
            np.bitwise_or(self._out, term, out=self._out)

    def finish(self) -> Words:
        if self._is_empty:
            self._out.fill(self._constant[0])
        elif self._constant[0]:
            np.bitwise_or(self._out, self._constant, out=self._out)
        return self._out
