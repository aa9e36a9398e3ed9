"""The journal of files that are being put where pointers are: `docs/format/journal.md`.

What it is for: after kill -9 the next command of ours finishes the work, and no temporary file stays behind.
Between processes it rests on `flock` alone: the kernel drops the lock of whoever dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

import xxhash

from thetastore.digest import Digest
from thetastore.sharing import share_as_above

VERSION = 1
_VERSIONS = (0, VERSION)
"""Those that are read: a process of the draft, which differs in nothing else, may have died with one."""
MAX_BODY_BYTES = 1 << 20
TEMPORARY_MARK = b".theta-"

_MAGIC = b"THPJ"
_HEAD = struct.Struct("<4sHH")
_LENGTH = struct.Struct("<I")
_INTENT = struct.Struct("<BHH")
_READY = struct.Struct("<BHHBQ32sQQQq")
_INTENT_KIND, _READY_KIND = 1, 2


class Identity(NamedTuple):
    """What tells a file that we wrote from one that somebody has touched since."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """Return the identity of the file that was looked at."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class Placement(NamedTuple):
    """A whole file, ready beside the place where its pointer is or will be."""

    path: bytes
    """From the top of the work tree, as git spells it."""
    temporary: bytes
    """Name in the same directory."""
    oid: bytes
    """Of the blob that holds the pointer."""
    pointer_bytes: int
    pointer_digest: Digest
    """Plain BLAKE3 of the pointer's text."""
    identity: Identity
    """Of the temporary file."""


class Records(NamedTuple):
    """What a journal says."""

    temporaries: dict[bytes, bytes]
    """Path by name of each temporary file that may exist, ready or not. Names are random, so they differ."""
    ready: dict[bytes, Placement]
    """By path."""
    is_of_this_boot: bool
    """Whether the content of temporary files can be believed."""


class Journal:
    """The journal of this process, locked while it is open."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd

    @classmethod
    def create(cls, directory: str) -> Self:
        """Start a journal.

        Raises:
            OSError: the directory cannot be written.
        """
        os.makedirs(directory, exist_ok=True)
        share_as_above(directory)
        while True:
            path = os.path.join(directory, os.urandom(8).hex())
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                break
            # Somebody took it for a dead process's before we had locked it.
            os.close(fd)
        share_as_above(path, fd)  # whoever else works here completes what we leave
        boot = boot_id()
        os.write(fd, _HEAD.pack(_MAGIC, VERSION, len(boot)) + boot)
        return cls(path, fd)

    def intend(self, path: bytes, temporary: bytes) -> None:
        """Say that a temporary file is about to be made."""
        self._append(_INTENT.pack(_INTENT_KIND, len(path), len(temporary)) + path + temporary)

    def ready(self, placement: Placement) -> None:
        """Say that a temporary file is whole and verified."""
        self._append(encode_ready(placement))

    def _append(self, body: bytes) -> None:
        record = _LENGTH.pack(len(body)) + body + xxhash.xxh3_64_digest(body)
        if os.write(self._fd, record) != len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def leave(self) -> None:
        """Let go of the journal without deleting it: the next command completes what it lists."""
        os.close(self._fd)

    def remove(self) -> None:
        """Delete the journal: there is nothing left to do."""
        os.unlink(self._path)
        os.close(self._fd)


def encode_ready(placement: Placement) -> bytes:
    """Return the body of a ready record."""
    path, temporary, oid = placement.path, placement.temporary, placement.oid
    pointer = (placement.pointer_bytes, placement.pointer_digest)
    fixed = _READY.pack(_READY_KIND, len(path), len(temporary), len(oid), *pointer, *placement.identity)
    return fixed + oid + path + temporary


def boot_id() -> bytes:
    """Return what names this boot of the machine; nothing where the platform does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as stream:
            return stream.read(64).strip()
    except OSError:
        return b""


class FoundJournal(NamedTuple):
    """A journal of another process."""

    path: str
    fd: int
    is_dead: bool
    """Whether its process is gone; we then hold its lock."""

    def read(self) -> Records | None:
        """Return what it says, as far as it can be read; None for what is no journal of this version."""
        with open(self.fd, "rb", closefd=False) as stream:
            stream.seek(0)
            return parse_journal(stream.read())

    def remove(self) -> None:
        """Delete it."""
        os.unlink(self.path)


def journal_directory(theta_dir: str) -> str:
    """Return where the journals of a work tree are, whose `Repository.theta_dir` is given."""
    return os.path.join(theta_dir, "pending")


def has_journals(directory: str) -> bool:
    """Tell whether there is anything for `found_journals` to look at."""
    try:
        return bool(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False


def found_journals(directory: str) -> Iterator[FoundJournal]:
    """Yield the journals of other processes; each is closed, and its lock dropped, when the next is asked for."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = os.path.join(directory, name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            is_dead = _try_lock(fd)
            if os.fstat(fd).st_nlink:
                yield FoundJournal(path, fd, is_dead)
        finally:
            os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def parse_journal(raw: bytes) -> Records | None:
    """Read a journal up to its end or its first damaged record; None for another magic or version."""
    if len(raw) < _HEAD.size:
        return Records({}, {}, False)
    magic, version, boot_bytes = _HEAD.unpack_from(raw)
    if magic != _MAGIC or version not in _VERSIONS:
        return None
    start = _HEAD.size + boot_bytes
    boot = raw[_HEAD.size : start]
    records = Records({}, {}, bool(boot) and boot == boot_id())
    for body in _bodies(raw, start):
        _take(body, records)
    return records


def _bodies(raw: bytes, start: int) -> Iterator[bytes]:
    while start + _LENGTH.size <= len(raw):
        (size,) = _LENGTH.unpack_from(raw, start)
        start += _LENGTH.size
        body, checksum = raw[start : start + size], raw[start + size : start + size + 8]
        if not 0 < size <= MAX_BODY_BYTES or xxhash.xxh3_64_digest(body) != checksum:
            return
        yield body
        start += size + 8


def _take(body: bytes, records: Records) -> None:
    """Take over one record; what breaks a rule is left out, since its checksum fits and no writer of ours made it."""
    try:
        if body[0] == _INTENT_KIND:
            _, path_bytes, temporary_bytes = _INTENT.unpack_from(body)
            path, temporary = _names(body[_INTENT.size :], path_bytes, temporary_bytes)
            records.temporaries[temporary] = path
            records.ready.pop(path, None)
        elif body[0] == _READY_KIND:
            placement = _decode_ready(body)
            records.temporaries[placement.temporary] = placement.path
            records.ready[placement.path] = placement
    except (struct.error, ValueError):
        return


def _decode_ready(body: bytes) -> Placement:
    _, path_bytes, temporary_bytes, oid_bytes, pointer_bytes, digest, *identity = _READY.unpack_from(body)
    names_start = _READY.size + oid_bytes
    path, temporary = _names(body[names_start:], path_bytes, temporary_bytes)
    oid = body[_READY.size : names_start]
    return Placement(path, temporary, oid, pointer_bytes, Digest(digest), Identity(*identity))


def _names(body: bytes, path_bytes: int, temporary_bytes: int) -> tuple[bytes, bytes]:
    path, temporary = body[:path_bytes], body[path_bytes:]
    if len(temporary) != temporary_bytes or not is_safe_path(path) or b"/" in temporary or b"\0" in temporary:
        raise ValueError
    if not temporary.startswith(b".") or TEMPORARY_MARK not in temporary:
        raise ValueError
    return path, temporary


def is_safe_path(path: bytes) -> bool:
    """Tell whether a path stays in the work tree and out of the git directory."""
    return b"\0" not in path and not any(part.lower() in (b"", b".", b"..", b".git") for part in path.split(b"/"))
