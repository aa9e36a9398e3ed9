"""Packs read: backwards from the footer where they are sealed, forwards where they are not.

Everything here is hostile until its checksum has been seen, and a length is compared with the length
of the file before memory is taken for it. See docs/format/pack.md.
"""

from __future__ import annotations

import _thread
import errno
import struct
from collections.abc import Iterator
from typing import NamedTuple

from thetastore.backends import Backend, Reader
from thetastore.digest import checksum_of
from thetastore.errors import BackendError, MalformedError
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble, checksum64
from thetastore.packs.records import HEAD_BYTES, MAX_HEAD_BYTES, Entry, decode_head

PACK_MAGIC = b"\xa7thpack\n"
TABLE_MARK = b"\xa7tab"
PACK_END = b"\xa7thpend\n"
TRAILER = struct.Struct("<QQQ16s")  # table offset, table bytes, record count, XXH3-128 of the table
TRAILER_BYTES = TRAILER.size + 16
ROW = struct.Struct("<Q")  # offset of a record; its head follows
SUFFIX_BYTES = 64 << 10
_MAX_OPEN_PACKS = 64


class Record(NamedTuple):
    """Where a record lies in its pack, and what it holds."""

    offset: int
    nbytes: int
    """Head and stored bytes together."""
    entry: Entry


class Pack:
    """One pack, open for reading."""

    def __init__(self, reader: Reader, name: str) -> None:
        self.name = name
        self._reader = reader
        check_preamble(self.read(0, PREAMBLE_BYTES), PACK_MAGIC, name)

    def size(self) -> int:
        """Return the length of the pack in bytes; one in the making grows."""
        return self._reader.size()

    def read_into(self, offset: int, out: memoryview) -> int:
        """Fill `out` from `offset` on; return how many bytes were there."""
        return self._reader.read_into(offset, out)

    def read(self, offset: int, nbytes: int) -> memoryview:
        """Return `nbytes` bytes from `offset` on; fewer at the end of the pack."""
        out = memoryview(bytearray(nbytes))
        return out[: self._reader.read_into(offset, out)]

    def records(self, start: int = PREAMBLE_BYTES) -> Iterator[Record]:
        """Yield the whole records from `start` on, in order, up to the footer or to a torn end.

        Reads heads only. What follows a head that is not whole is never looked at.
        """
        file_bytes = self.size()
        while start + HEAD_BYTES <= file_bytes:
            head = self.read(start, min(MAX_HEAD_BYTES, file_bytes - start))
            try:
                entry, head_bytes = decode_head(head, self.name, start)
            except MalformedError:
                return
            end = start + head_bytes + entry.stored_bytes
            if end > file_bytes:
                return
            yield Record(start, end - start, entry)
            start = end

    def table(self) -> list[Record]:
        """Return all records of a sealed pack from its footer, in one or two reads at its end.

        Raises:
            MalformedError: there is no whole footer.
        """
        file_bytes = self.size()
        suffix = self.read(max(PREAMBLE_BYTES, file_bytes - SUFFIX_BYTES), min(file_bytes, SUFFIX_BYTES))
        table_bytes, count, checksum = self._trailer(suffix[-TRAILER_BYTES:], file_bytes)
        table_offset = file_bytes - TRAILER_BYTES - table_bytes
        if table_bytes + TRAILER_BYTES <= len(suffix):
            table = suffix[len(suffix) - TRAILER_BYTES - table_bytes : len(suffix) - TRAILER_BYTES]
        else:
            table = self.read(table_offset, table_bytes)
        if checksum_of(table) != checksum or table[:4] != TABLE_MARK:
            raise MalformedError(f"'{self.name}' is malformed: its table does not have its checksum")
        return self._rows(table, count, table_offset)

    def _trailer(self, trailer: memoryview, file_bytes: int) -> tuple[int, int, bytes]:
        if len(trailer) < TRAILER_BYTES or trailer[-8:] != PACK_END:
            raise MalformedError(f"'{self.name}' is malformed: it does not end as a sealed pack does")
        if checksum64(trailer[: TRAILER.size]) != trailer[TRAILER.size : -8]:
            raise MalformedError(f"'{self.name}' is malformed: its trailer does not have its checksum")
        table_offset, table_bytes, count, checksum = TRAILER.unpack_from(trailer)
        if table_offset < PREAMBLE_BYTES or table_offset + table_bytes + TRAILER_BYTES != file_bytes:
            raise MalformedError(f"'{self.name}' is malformed: {file_bytes} bytes do not fit its trailer")
        return table_bytes, count, checksum

    def _rows(self, table: memoryview, count: int, table_offset: int) -> list[Record]:
        rows = []
        at, end = len(TABLE_MARK), PREAMBLE_BYTES
        while at + ROW.size <= len(table):
            (offset,) = ROW.unpack_from(table, at)
            entry, head_bytes = decode_head(table[at + ROW.size :][:MAX_HEAD_BYTES], self.name, table_offset + at)
            if offset < end or offset + head_bytes + entry.stored_bytes > table_offset:
                raise MalformedError(f"'{self.name}' is malformed: its table puts a record at {offset}")
            end = offset + head_bytes + entry.stored_bytes
            rows.append(Record(offset, end - offset, entry))
            at += ROW.size + head_bytes
        if at != len(table) or len(rows) != count:
            raise MalformedError(f"'{self.name}' is malformed: its table has {len(rows)} rows, expected {count}")
        return rows


_NO_FILE = frozenset({errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENXIO})
"""What a directory answers where one of its files is something else: it follows no links, and waits for nobody."""


class Packs:
    """The packs of a backend that are open at the moment; thread-safe."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: dict[str, Pack] = {}
        self._lock = _thread.allocate_lock()

    def get(self, name: str) -> Pack:
        """Return a pack by its file name.

        Raises:
            FileNotFoundError: it is not there.
            MalformedError, UnsupportedError: its preamble, or it is no file at all.
        """
        pack = self._open.get(name)
        if pack is None:
            pack = Pack(self._opened(name), name)
            with self._lock:
                if len(self._open) >= _MAX_OPEN_PACKS:
                    del self._open[next(iter(self._open))]
                self._open[name] = pack
        return pack

    def size(self, name: str) -> int:
        """Return the length of a pack in bytes, of a far one as it was listed. Raises as `get` does."""
        return self._opened(name).size()

    def _opened(self, name: str) -> Reader:
        try:
            return self._backend.open(name)
        except BackendError as error:
            if error.errno in _NO_FILE:
                raise MalformedError(f"'{name}' is malformed: not a file, but a link, a pipe or the like") from error
            raise

    def keep(self, names: frozenset[str]) -> None:
        """Close all packs but these, so that the space of deleted ones is freed."""
        with self._lock:
            self._open = {name: pack for name, pack in self._open.items() if name in names}
