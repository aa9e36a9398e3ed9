"""Git's index, read without git, and its cached stat data brought up to date in place.

Git knows that a file is unchanged by the stat data in the index. When we put a whole file where git wrote a
pointer, that data must follow, or the next `git status` reads every weight. It is patched *by blob*: an entry
is touched only if it is a regular file at stage 0 whose blob is the one that the new file was made from, so
what the index says afterwards is true whoever wrote it in between. Nothing moves: extensions that hold offsets
(EOIE, IEOT) or positions (FSMN) stay valid, and the trailing checksum is made anew.

What is not understood (a split index, an unknown required extension, a newer version) is never written.

Source: gitformat-index(5), versions 2 to 4.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

from gitbridge.errors import BridgeError

OID_BYTES = {"sha1": 20, "sha256": 32}
_FIXED_BYTES = 40
"""Stat data and mode, before the oid."""
_EXTENDED, _STAGES = 0x4000, 0x3000
_REGULAR = 0o100000
_TYPES = 0o170000
_STAT = struct.Struct(">6I4x3I")
"""ctime s and ns, mtime s and ns, dev, ino, (mode,) uid, gid, size."""


class IndexUnsupportedError(BridgeError):
    """The index is of a kind that we read or write only through git."""

    code = "index-unsupported"


class IndexLockedError(BridgeError):
    """Another process holds the lock of the index, and kept it."""

    code = "index-locked"


class Entry(NamedTuple):
    """One entry, and where its stat data lies."""

    path: bytes
    offset: int
    mode: int
    oid: bytes
    stage: int


class Filled(NamedTuple):
    """What the work tree now holds at a path."""

    oid: bytes
    """Of the blob whose content stands for the file."""
    stat: os.stat_result


def parse_index(index: bytes, object_format: str, wanted: Container[bytes] | None = None) -> Iterator[Entry]:
    """Yield the entries in order, or only those at the paths that are wanted (0.6 us each for the others).

    Raises:
        IndexUnsupportedError: a version we do not know, or a malformed file.
    """
    layout = _entry_layout(object_format)
    for path, offset in _places(index, object_format):
        if wanted is None or path in wanted:
            mode, oid, flags = layout.unpack_from(index, offset)
            yield Entry(path, offset, mode, oid, (flags & _STAGES) >> 12)


def _entry_layout(object_format: str) -> struct.Struct:
    """Return the layout of mode, oid and flags."""
    return struct.Struct(f">24xI12x{OID_BYTES[object_format]}sH")


def _places(index: bytes, object_format: str) -> Iterator[tuple[bytes, int]]:
    if not index:
        return
    try:
        yield from _walk(index, _FIXED_BYTES + OID_BYTES[object_format])
    except (struct.error, IndexError, ValueError):
        raise IndexUnsupportedError("the index is cut short or malformed") from None


def _walk(index: bytes, flags_at: int) -> Iterator[tuple[bytes, int]]:
    """Yield path and offset of each entry, then judge the extensions."""
    signature, version, count = struct.unpack_from(">4sII", index)
    if signature != b"DIRC" or not 2 <= version <= 4:
        raise IndexUnsupportedError(f"the index has version {version}, expected 2, 3 or 4")
    offset, name = 12, b""
    for _ in range(count):
        at = offset + flags_at
        start = at + (4 if index[at] & _EXTENDED >> 8 else 2)
        if version == 4:
            name, end = _read_compressed_name(index, start, name)
            yield name, offset
            offset = end
        else:
            end = index.index(0, start)
            yield index[start:end], offset
            offset += end - offset + 8 & ~7
    _check_extensions(index, offset, len(index) - flags_at + _FIXED_BYTES)


def _read_compressed_name(index: bytes, start: int, before: bytes) -> tuple[bytes, int]:
    """Read a name of version 4: how many bytes to drop from the name before, then what to append."""
    dropped = index[start] & 127
    while index[start] & 128:
        start += 1
        dropped = (dropped + 1 << 7) | (index[start] & 127)
    end = index.index(0, start + 1)
    if dropped > len(before):
        raise ValueError
    return before[: len(before) - dropped] + index[start + 1 : end], end + 1


def _check_extensions(index: bytes, offset: int, end: int) -> None:
    """Refuse extensions that change what the entries mean; those with a capital first letter never do."""
    while offset < end:
        name = index[offset : offset + 4]
        if not name[:1].isupper() and name != b"sdir":
            raise IndexUnsupportedError(f"the index has the extension {name!r}")
        offset += 8 + int.from_bytes(index[offset + 4 : offset + 8], "big")
    if offset != end:
        raise ValueError


class IndexLookup:
    """Finds blobs by path in one version of an index: read once, then at the cost of a dictionary."""

    def __init__(self, index: bytes, object_format: str) -> None:
        self._index = index
        self._object_format = object_format
        # Of the stages of a conflict the last one stays here; `oid` then looks again.
        self._offsets = dict(_places(index, object_format))

    def oid(self, path: bytes) -> bytes | None:
        """Return the blob at stage 0, else (in a conflict) at stage 2, which is ours; None where there is neither."""
        offset = self._offsets.get(path)
        if offset is None:
            return None
        _, oid, flags = _entry_layout(self._object_format).unpack_from(self._index, offset)
        if not flags & _STAGES:
            return bytes(oid)
        stages = parse_index(self._index, self._object_format, {path})
        return next((entry.oid for entry in stages if entry.stage == 2), None)


def patch_index(index: bytes, object_format: str, filled: Mapping[bytes, Filled]) -> bytes:
    """Return the index with the stat data of what was filled; the very same object where nothing changes.

    Raises:
        IndexUnsupportedError: it is damaged, or of a kind that we do not write.
    """
    patched = bytearray(index)
    for entry in parse_index(index, object_format, filled):
        now = filled[entry.path]
        if not entry.stage and entry.mode & _TYPES == _REGULAR and entry.oid == now.oid:
            _pack_stat(patched, entry.offset, now.stat)
    if patched == index:
        return index
    # A checksum of zeros says that there is none (index.skipHash).
    end = len(index) - OID_BYTES[object_format]
    if any(index[end:]):
        if _checksum(index, end, object_format) != index[end:]:
            raise IndexUnsupportedError("the index is damaged: its checksum does not fit its content")
        patched[end:] = _checksum(patched, end, object_format)
    return bytes(patched)


def _checksum(index: bytes | bytearray, end: int, object_format: str) -> bytes:
    import hashlib

    return hashlib.new(object_format, memoryview(index)[:end], usedforsecurity=False).digest()


def _pack_stat(index: bytearray, offset: int, stat: os.stat_result) -> None:
    mode = index[offset + 24 : offset + 28]
    seconds_of_change, ns_of_change = divmod(stat.st_ctime_ns, 10**9)
    seconds, ns = divmod(stat.st_mtime_ns, 10**9)
    fields = (seconds_of_change, ns_of_change, seconds, ns, stat.st_dev, stat.st_ino)
    owner = (stat.st_uid, stat.st_gid, stat.st_size)
    # Git keeps the low 32 bits of everything.
    _STAT.pack_into(index, offset, *(value & 0xFFFFFFFF for value in fields + owner))
    index[offset + 24 : offset + 28] = mode


def read_index(path: str) -> bytes:
    """Return the index file's bytes; none where there is no index, which means one without entries."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except FileNotFoundError:
        return b""


def update_index(path: str, object_format: str, filled: Mapping[bytes, Filled], patience_s: float = 2.0) -> None:
    """Patch an index file under git's own lock; whoever reads it sees the old one or the new one.

    The new content is made before the lock is taken, so that the lock is held for one write and a rename.

    Raises:
        IndexUnsupportedError: nothing was written; ask git to refresh it.
        IndexLockedError: nothing was written; the lock was taken for all of `patience_s`.
    """
    import time

    deadline = time.monotonic() + patience_s
    while not _try_update(path, object_format, filled):
        if time.monotonic() > deadline:
            raise IndexLockedError(
                f"'{path}.lock' is there: another git process is at work, or one has crashed",
                "the weights are in their place; once the lock is gone, git theta status tells the index",
            )
        time.sleep(0.01)


def _try_update(path: str, object_format: str, filled: Mapping[bytes, Filled]) -> bool:
    before = _identity(path)
    index = read_index(path)
    patched = patch_index(index, object_format, filled)
    if patched is index:
        return True
    lock = path + ".lock"
    try:
        fd = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        if _identity(path) != before:
            return False
        _write_whole(fd, patched, before[-1])
        os.rename(lock, path)
        lock = ""
    finally:
        os.close(fd)
        if lock:
            os.unlink(lock)
    return True


def _write_whole(fd: int, content: bytes, mode: int) -> None:
    os.fchmod(fd, mode & 0o7777)
    left = memoryview(content)
    while left:
        left = left[os.write(fd, left) :]


def _identity(path: str) -> tuple[int, ...]:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return (0,)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_mode
