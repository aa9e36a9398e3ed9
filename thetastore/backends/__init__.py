"""Where the files of a store live, behind one Protocol.

Names are relative, with `/` between parts; every part matches `[A-Za-z0-9._-]{1,255}` and is neither
`.` nor `..`. A backend refuses other names (`MalformedError`), so that no digest or ref, however
spelled, leaves the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from thetastore.digest import Buffer


class Appender(Protocol):
    """A file in the making. Other readers of the backend see what was written once `write` has returned.

    It lives under the name it was opened with until `seal` gives it its final one. While it is open its
    name is locked, so that others can tell a file in the making from what a dead process left behind.
    """

    name: str

    def write(self, stored: Buffer) -> None:
        """Append bytes.

        Raises:
            BackendError: the disk is full or failing; what was written before stays readable.
        """

    def sync(self) -> None:
        """Make what was written so far durable. May be called from another thread."""

    def seal(self, name: str) -> None:
        """Make the file durable under `name`, create-if-absent, and drop the old name.

        Raises:
            FileExistsError: `name` is taken; the file stays under its old name.
        """

    def discard(self) -> None:
        """Close and delete the file."""


class Backend(Protocol):
    """Create-if-absent, range reads, listing, deletion: all that a store asks for.

    All methods may be called from several threads. Errors of the place are `BackendError`; a name that is
    not there is `FileNotFoundError`.
    """

    url: str
    """For messages: a path or URL without secrets."""

    def read(self, name: str, offset: int = 0, nbytes: int | None = None) -> bytes:
        """Return `[offset, offset + nbytes)` of a file (to its end for None); shorter only at its end."""

    def size(self, name: str) -> int:
        """Return the length of a file in bytes."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the full names of all files below the directory `prefix`, recursively, in any order."""

    def create(self, name: str, stored: Buffer) -> None:
        """Write a whole file, durable when this returns; readers see all of it or nothing.

        Raises:
            FileExistsError: the name is taken, whatever its content; nothing was changed.
        """

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""

    def appender(self, name: str) -> Appender:
        """Start a file that grows and can be read while it does (see `Appender`)."""

    def reopen(self, name: str, keep_bytes: int) -> Appender:
        """Take over a file in the making whose writer is dead, cut to its first `keep_bytes` bytes.

        Raises:
            BlockingIOError: its writer is alive.
        """

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """Lock a name among processes without waiting; the value says whether the lock was got."""
