"""A pack in the making: appended to `incoming/`, readable by everybody at once, then sealed into `packs/`."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from thetastore.backends import Appender, Backend
from thetastore.digest import Buffer, Digest, checksum_of
from thetastore.errors import BackendError
from thetastore.packs.preamble import PREAMBLE_BYTES, checksum64, preamble
from thetastore.packs.reader import PACK_END, PACK_MAGIC, ROW, TABLE_MARK, TRAILER, Record
from thetastore.packs.records import Entry, encode_head

if TYPE_CHECKING:
    import threading  # imported when there is something to flush: it costs the filter 1 ms

SYNC_BYTES = 64 << 20
"""Write-back starts whenever so much is new: of 400 MiB, the last fsync then takes 7 ms instead of 140."""


_MOST_IDS = 100


class Row(NamedTuple):
    """One line of an index: where a record lies in a pack that the line's owner knows."""

    digest: Digest
    offset: int
    nbytes: int


class SealedPack(NamedTuple):
    """What an index run needs to know about a pack."""

    id: str
    file_bytes: int
    rows: list[Row]


def new_id() -> str:
    """Return a name that was never used and never will be: 12 digits of time in ms, 20 of chance."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def incoming_name(pack_id: str) -> str:
    """Return the file name of a pack in the making."""
    return f"incoming/{pack_id}.pack"


def sealed_name(pack_id: str) -> str:
    """Return the file name of a sealed pack."""
    return f"packs/{pack_id}.pack"


class PackWriter:
    """One pack in the making. Used by one thread.

    `file_name` is where its records can be read at the moment.
    """

    def __init__(self, pack_id: str, appender: Appender) -> None:
        self.id = pack_id
        self.file_name = incoming_name(pack_id)
        self.is_sealed = False
        self._appender = appender
        self._heads: list[bytes] = []
        self._rows: list[Row] = []
        self._flusher = _Flusher()
        self._failure: OSError | None = None

    @classmethod
    def new(cls, backend: Backend) -> PackWriter:
        """Start a pack.

        Another process that seals may take the new, still unlocked file for a dead writer's, and delete it;
        then another id is tried.
        """
        for _ in range(_MOST_IDS):
            pack_id = new_id()
            try:
                return cls(pack_id, backend.appender(incoming_name(pack_id)))
            except FileExistsError:
                continue
        raise BackendError(errno.EEXIST, f"{_MOST_IDS} new files were taken by others", backend.url)

    @classmethod
    def adopt(cls, pack_id: str, appender: Appender, records: list[Record]) -> PackWriter:
        """Go on with a pack whose writer died after these records; its torn end is cut off."""
        writer = cls(pack_id, appender)
        for record in records:
            writer._heads.append(ROW.pack(record.offset) + encode_head(record.entry))
            writer._rows.append(Row(record.entry.digest, record.offset, record.nbytes))
        appender.truncate(records[-1].offset + records[-1].nbytes if records else PREAMBLE_BYTES)
        return writer

    def has_room_for(self, nbytes: int, pack_bytes: int) -> bool:
        """Tell whether the pack, if it goes on at all, stays within `pack_bytes` with so many more."""
        return self._failure is None and self._appender.size() + nbytes <= pack_bytes

    def append(self, entry: Entry, stored: Buffer) -> Row:
        """Write one record; others can read it when this returns.

        Raises:
            BackendError: nothing of the record was kept.
        """
        head = encode_head(entry)
        offset = self._appender.size()
        if offset:
            self._appender.write(head, stored)
        else:
            self._appender.write(preamble(PACK_MAGIC), head, stored)
            offset = PREAMBLE_BYTES
        row = Row(entry.digest, offset, len(head) + entry.stored_bytes)
        self._heads.append(ROW.pack(offset) + head)
        self._rows.append(row)
        self._flusher.wrote(self._appender, self._appender.size())
        return row

    def seal(self) -> SealedPack:
        """Write the footer and make the pack durable in `packs/`. It stays locked until `close`.

        Raises:
            BackendError: it stays what it was, a pack in the making. Where there was no room for the footer,
                sealing may be tried again; after a failed fsync it fails for ever.
        """
        self._flusher.join()
        if self._failure is not None:
            raise self._failure
        self._drop_what_is_half_done()
        self._appender.write(_footer(self._heads, self._appender.size()))
        try:
            self._appender.seal(sealed_name(self.id))
        except OSError as error:
            self._failure = error
            raise
        self.file_name = sealed_name(self.id)
        self.is_sealed = True
        self._heads = []
        return SealedPack(self.id, self._appender.size(), self._rows)

    def _drop_what_is_half_done(self) -> None:
        """Cut off a record, or a footer, in whose writing an interrupt came: nobody was told that it is there."""
        del self._heads[len(self._rows) :]
        end = self._rows[-1].offset + self._rows[-1].nbytes if self._rows else PREAMBLE_BYTES
        if self._appender.size() > end:
            self._appender.truncate(end)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was appended yet."""
        return not self._heads and not self.is_sealed

    def discard(self) -> None:
        """Let go of a pack that is empty, and delete it."""
        assert self.is_empty
        self._appender.discard()

    def close(self) -> None:
        """Let go of the pack, sealed or not."""
        self._flusher.join()
        self._appender.close()
        self._rows = []


class _Flusher:
    """Starts write-back beside the writer. Its errors are the appender's, which reports them when it seals."""

    def __init__(self) -> None:
        self._synced_bytes = 0
        self._thread: threading.Thread | None = None

    def wrote(self, appender: Appender, nbytes: int) -> None:
        if nbytes - self._synced_bytes < SYNC_BYTES:
            return
        import threading

        if self._thread is not None and self._thread.is_alive():
            return
        self._synced_bytes = nbytes
        self._thread = threading.Thread(target=_sync_quietly, args=(appender,), name="thetastore-sync")
        self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _sync_quietly(appender: Appender) -> None:
    try:
        appender.sync()
    except OSError:
        pass  # the appender remembers, and refuses to seal


def _footer(heads: list[bytes], offset: int) -> bytes:
    table = TABLE_MARK + b"".join(heads)
    trailer = TRAILER.pack(offset, len(table), len(heads), checksum_of(table))
    return table + trailer + checksum64(trailer) + PACK_END
