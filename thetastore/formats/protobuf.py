"""The wire format of protocol buffers, read strictly and without knowing the messages.

Source: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from thetastore.errors import NotThisFormat
from thetastore.formats.forward import MAX_VARINT_BYTES, Forward

MAX_FIELDS = 2_000_000
"""In all messages of a file; a million takes 1.5 s."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}


class Field(NamedTuple):
    """One field of a message, or a run of bytes of a file."""

    number: int
    wire_type: int
    value: int
    """Of a varint. 0 for others."""
    offset: int
    """Where its bytes lie, if it is no varint."""
    nbytes: int


class Messages:
    """The messages of one file. A field's bytes are passed over; whoever wants them reads them."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._room = MAX_FIELDS

    def fields(self, offset: int, nbytes: int) -> Iterator[Field]:
        """Yield the fields of the message in these bytes, which lie within the file.

        Raises:
            NotThisFormat: it is malformed, has groups (which are no longer written), or all messages have too many
                fields.
        """
        forward, end = self._forward, offset + nbytes
        at = offset
        while at < end:
            self._room -= 1
            if self._room < 0:
                raise NotThisFormat(f"more than {MAX_FIELDS} fields")
            forward.move(at)
            tag = forward.varint()
            number, wire_type = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise NotThisFormat(f"a field of the number {number}")
            value = length = 0
            if wire_type == VARINT:
                value = forward.varint()
            elif wire_type == BYTES:
                length = forward.varint()
            elif wire_type in _FIXED_BYTES:
                length = _FIXED_BYTES[wire_type]
            else:
                raise NotThisFormat(f"a field of the wire type {wire_type}")
            start = forward.at
            at = start + length
            if at > end:
                raise NotThisFormat("a field is longer than its message")
            yield Field(number, wire_type, value, start, length)

    def read(self, field: Field, limit_bytes: int) -> bytes:
        """Return the bytes of a field.

        Raises:
            NotThisFormat: it is a number, or longer than the limit.
        """
        if field.wire_type != BYTES or field.nbytes > limit_bytes:
            raise NotThisFormat(f"field {field.number} is no text of at most {limit_bytes} bytes")
        self._forward.move(field.offset)
        return self._forward.take(field.nbytes)

    def integers(self, field: Field, limit: int) -> list[int]:
        """Return the values of a repeated integer field: one, or a packed run of at most `limit`.

        Raises:
            NotThisFormat: it is no varint and no run of varints, or too long a one.
        """
        if field.wire_type == VARINT:
            return [field.value]
        if field.wire_type != BYTES or field.nbytes > MAX_VARINT_BYTES * limit:
            raise NotThisFormat(f"field {field.number} is no short list of integers")
        values = []
        self._forward.move(field.offset)
        while self._forward.at < field.offset + field.nbytes:
            values.append(self._forward.varint())
        if self._forward.at != field.offset + field.nbytes:
            raise NotThisFormat("a list of integers that ends within one")
        return values
