"""Where the files of a store live, behind one Protocol.

Names are relative, with `/` between parts; every part matches `[A-Za-z0-9._-]{1,255}` and is neither
`.` nor `..`. A backend refuses other names (`MalformedError`), so that no digest or ref, however
spelled, leaves the store.

Files are written once and then never changed. `thetastore.testing.BackendConformance` is this contract as tests.

A backend is near (a directory, memory) or far (a bucket, a server: `is_remote`). A far one can do less, and all that
differs is this: a file in the making is seen by nobody but its own process and vanishes with it; a file that was opened
cannot be read any more when its name was deleted; and what will be read is better announced (`expect`), since each
request takes a round trip.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar

from thetastore.digest import Buffer
from thetastore.errors import MalformedError

T = TypeVar("T")

OF_ONE_FILE = frozenset(
    {
        errno.EACCES,
        errno.EBADMSG,
        errno.EINVAL,
        errno.EIO,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENXIO,
        errno.EPERM,
        getattr(errno, "EUCLEAN", errno.EIO),
    }
)
"""What a system answers where one file cannot be read, and others can: a failing disk or file system, permissions, or
no file at all, but a link, a pipe, a directory. Too many open files, for one, say nothing of what was to be opened."""


class Range(NamedTuple):
    """Some bytes of a file."""

    name: str
    offset: int
    nbytes: int


class Reader(Protocol):
    """One open file. May be used by several threads.

    A near one goes on reading a file whose name was deleted; a far one raises `FileNotFoundError` then.
    """

    def size(self) -> int:
        """Return the length of the file in bytes, as it is now: a file in the making grows."""

    def read_into(self, offset: int, out: memoryview) -> int:
        """Fill `out` from `offset` on; return how many bytes were there (fewer only at the end)."""


class Appender(Protocol):
    """A file in the making. Other readers of a near backend see what was written once `write` has returned.

    It lives under the name it was opened with, and that name stays locked, until `close` or `discard` or
    the death of the process: so others can tell a file in the making from what a dead process left.
    """

    name: str

    def size(self) -> int:
        """Return how many bytes were written so far."""

    def write(self, *parts: Buffer) -> None:
        """Append the parts, all of them or none.

        Raises:
            BackendError: the disk is full or failing; what was written before stays readable.
        """

    def truncate(self, keep_bytes: int) -> None:
        """Keep only the first `keep_bytes` bytes: for the torn end of a file that was reopened."""

    def sync(self) -> None:
        """Make what was written so far durable. May be called from another thread than `write`."""

    def seal(self, name: str) -> None:
        """Make the file durable under `name`, create-if-absent. The old name stays until `close`.

        Raises:
            FileExistsError: `name` is taken; the file stays under its old name only.
            BackendError: some of the file may not be durable; sealing it again fails too.
        """

    def close(self) -> None:
        """Let go of the file: drop the old name of a sealed one, leave another for whoever reopens it."""

    def discard(self) -> None:
        """Let go of the file and delete its old name."""


class Backend(Protocol):
    """Create-if-absent, range reads, listing, deletion: all that a store asks for.

    All methods may be called from several threads. Errors of the place are `BackendError`; a name that is
    not there is `FileNotFoundError`. A near place that does not give one file says `FileUnreadableError` when it is
    read (`OF_ONE_FILE`); of a far one nobody can tell whether it would give others.
    """

    url: str
    """For messages: a path or URL without secrets."""

    is_remote: bool
    """Whether it is far: see above."""

    def read(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Return `[offset, offset + nbytes)` of a file (to its end for None); shorter only at its end."""

    def open(self, name: str) -> Reader:
        """Open a file for many range reads; a far backend may find out that it is not there when it is first read."""

    def view(self, name: str) -> memoryview:
        """Return a whole file as read-only memory: mapped where that can be, so only what is touched is read."""

    def size(self, name: str) -> int:
        """Return the length of a file in bytes."""

    def written_s(self, name: str) -> float:
        """Return when a file was created, in seconds since 1970 by the place's own clock; it may count whole seconds.

        Raises:
            BackendError: the place does not tell (`ENOTSUP`).
        """

    def expect(self, ranges: Iterable[Range]) -> None:
        """Say what will be read soon, of sealed files: a far backend begins to fetch it, neighbours together.

        Only a hint; a few tens of megabytes are heeded. A range may reach beyond the end of a file whose length nobody
        was told, and the file need not be there.
        """

    def expect_list(self, prefix: str) -> None:
        """Say that a directory will be listed soon: a far backend begins; what is written later may be left out."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the full names of all files below the directory `prefix`, recursively, in any order."""

    def create(self, name: str, stored: Buffer, durable: bool = True) -> None:
        """Write a whole file, durable when this returns; readers see all of it or nothing.

        Args:
            name: of the file.
            stored: what it holds.
            durable: False for a hint that may be lost with the machine: nobody waits for the disk then.

        Raises:
            FileExistsError: the name is taken, whatever its content; nothing was changed.
        """

    def look_before_creating(self) -> None:
        """Make up for a place where creating a file replaces one that is there, as far as one writer alone needs it."""

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""

    def move(self, name: str, new_name: str) -> None:
        """Give a file another name, as it is: a near place does so to what cannot be read, too.

        Whoever may do the same at the same time is to be kept away by a lock. A far place copies, and then deletes.

        Raises:
            FileExistsError: `new_name` is taken; nothing was changed.
        """

    def delete_litter(self, age_s: float) -> int:
        """Delete what processes that were killed while creating files have left; return how many files that were.

        Args:
            age_s: what was changed later than so long ago, by the place's own clock, is left: it may be in the making.
        """

    def appender(self, name: str) -> Appender:
        """Start a file that grows and can be read while it does (see `Appender`).

        Raises:
            FileExistsError: the name is taken.
        """

    def reopen(self, name: str) -> Appender:
        """Take over a file in the making whose writer is dead.

        Raises:
            BlockingIOError: its writer is alive.
            FileNotFoundError: it was sealed, discarded or adopted by somebody else.
        """

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """Lock a name among processes without waiting; the value says whether the lock was got."""


def announced(backend: Backend, items: Iterable[T], range_of: Callable[[T], Range], most: int) -> Iterator[T]:
    """Yield items, for each of which a range of a file will be read: from a place far away, `most` come together."""
    rest = iter(items)
    while window := list(islice(rest, most)):
        backend.expect(map(range_of, window))
        yield from window


_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def check_name(name: str) -> None:
    """Refuse what is not a name of a file in a store.

    Raises:
        MalformedError: an empty part, `.`, `..`, a part of more than 255 characters, other characters.
    """
    for part in name.split("/"):
        if not 0 < len(part) <= 255 or part in (".", "..") or not _NAME_CHARACTERS.issuperset(part):
            raise MalformedError(f"'{name[:300]}' is not a name in a store: its part '{part[:80]}' is not allowed")
