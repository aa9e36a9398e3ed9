"""Sorted tables: keys with values, as LevelDB writes them into a file, read strictly and in order.

Not checked are the CRCs of the blocks: whoever reads a file from a store has had its digests checked.

Source: https://github.com/google/leveldb, doc/table_format.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from thetastore.errors import NotThisFormat
from thetastore.formats.forward import Forward
from thetastore.layout import MAX_NAME_BYTES, MAX_TABLE_BYTES

MAX_ENTRIES = 500_000
"""Of all blocks of a file."""

_FOOTER_BYTES = 48
_MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_TRAILER_BYTES = 5
_PLAIN = 0
"""Type of a block that is not compressed."""
_WORD_BYTES = 4


class Value(NamedTuple):
    """An entry of a table."""

    key: bytes
    offset: int
    """Where the value lies in the file."""
    nbytes: int


class _Block(NamedTuple):
    offset: int
    nbytes: int
    """Without its trailer."""


def values(forward: Forward) -> Iterator[Value]:
    """Yield the entries of a table in the order of their keys. Between two of them the file may be moved.

    Raises:
        NotThisFormat: it is no table, one that is compressed, or keys do not ascend or are too many or too long.
    """
    table = _Table(forward)
    before = None
    end = 0
    for handle in table.entries(table.index_block()):
        block, _ = table.block(handle.offset, handle.offset + handle.nbytes)
        if block.offset < end:
            raise NotThisFormat("blocks that overlap, or are not in order")
        end = block.offset + block.nbytes
        for value in table.entries(block):
            if before is not None and value.key <= before:
                raise NotThisFormat("keys that do not ascend")
            before = value.key
            yield value


class _Table:
    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._room = MAX_ENTRIES
        self._room_bytes = MAX_TABLE_BYTES
        """Keys share their beginnings, so all of them can take the square of the file's bytes."""

    def index_block(self) -> _Block:
        """Return the block that lists the others: the second that the end of the file names."""
        forward = self._forward
        start = forward.end - _FOOTER_BYTES
        forward.move(start)
        if not forward.take(_FOOTER_BYTES).endswith(_MAGIC):
            raise NotThisFormat("a file that does not end as tables do")
        end = forward.end - len(_MAGIC)
        _, named = self.block(start, end)
        return self.block(named, end)[0]

    def block(self, start: int, end: int) -> tuple[_Block, int]:
        """Return the block that the bytes `[start, end)` of the file begin with the name of, and where that ends."""
        forward = self._forward
        forward.move(start)
        block = _Block(forward.varint(), forward.varint())
        named = forward.at
        if named > end or block.offset + block.nbytes + _TRAILER_BYTES > forward.end - _FOOTER_BYTES:
            raise NotThisFormat("a block that is not within the file")
        forward.move(block.offset + block.nbytes)
        if forward.take(1)[0] != _PLAIN:
            raise NotThisFormat("a block that is compressed")
        return block, named

    def entries(self, block: _Block) -> Iterator[Value]:
        """Yield the entries of a block."""
        forward = self._forward
        at, end = block.offset, self._end_of_entries(block)
        key = b""
        while at < end:
            forward.move(at)
            shared_bytes, own_bytes, nbytes = forward.varint(), forward.varint(), forward.varint()
            self._room -= 1
            self._room_bytes -= shared_bytes + own_bytes
            if shared_bytes > len(key) or shared_bytes + own_bytes > MAX_NAME_BYTES:
                raise NotThisFormat("a key that is too long, or shares more than the one before it has")
            if self._room < 0 or self._room_bytes < 0:
                raise NotThisFormat(f"more than {MAX_ENTRIES} entries, or {MAX_TABLE_BYTES} bytes of keys")
            key = key[:shared_bytes] + forward.take(own_bytes)
            value = Value(key, forward.at, nbytes)
            at = value.offset + nbytes
            if at > end:
                raise NotThisFormat("an entry that ends outside of its block")
            yield value

    def _end_of_entries(self, block: _Block) -> int:
        """Return where the places begin at which a reader could start within a block."""
        end = block.offset + block.nbytes - _WORD_BYTES
        if end < block.offset:
            raise NotThisFormat("a block without an end")
        self._forward.move(end)
        restart_count = int.from_bytes(self._forward.take(_WORD_BYTES), "little")
        end -= _WORD_BYTES * restart_count
        if end < block.offset:
            raise NotThisFormat("a block of nothing but places to start at")
        return end
