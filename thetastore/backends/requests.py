"""What a place far away is asked for: single requests, each tried once.

`thetastore.backends.remote` makes a backend of them: it tries again, cuts long bodies into parts, coalesces ranges.
A new kind of place (or a test that breaks things) has to offer no more than this.

Names are those of a store, which `remote` has checked. A file is written once and never changed, so a name's length
is the same for ever.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from thetastore.digest import Buffer
from thetastore.errors import BackendError

NO_BUCKET = "the bucket (or what lies above the store) is not there: make it first"


class PassingError(BackendError):
    """A request failed in a way that may pass: connection lost, time over, 500, 503, 429, a body cut off.

    Nobody knows whether it had its effect.
    """


class Listed(NamedTuple):
    """A file in a listing."""

    name: str
    file_bytes: int | None
    """None where a listing does not say."""


MOST_LISTED = 4_000_000
"""Packs of 64 MiB each: 256 TB. Whoever lists more is not to be believed, and would fill the memory."""
DEEPEST_DIRECTORY = 8
"""What a place lists deeper down is left out: a store has nothing there."""
_LONGEST_LISTING_S = 1800.0


class ListingLimit:
    """How much a place may list at once: a hostile one may go on for ever."""

    def __init__(self, place: str) -> None:
        """Begin to list a place, named so in messages."""
        self._place = place
        self._left = MOST_LISTED
        self._started = time.monotonic()

    def count(self, more: int = 1) -> None:
        """Count what was listed, or asked for.

        Raises:
            BackendError: that was too much, or took too long.
        """
        self._left -= more
        if self._left < 0 or time.monotonic() - self._started > _LONGEST_LISTING_S:
            raise BackendError(errno.EPROTO, "it lists more, or longer, than a store does", self._place)


class Requests(Protocol):
    """A place, request by request. All methods may be called from several threads.

    Raises, all of them: `FileNotFoundError`: the name (or the upload) is not there. `PassingError`: try again.
    `BackendError`: it is no use.
    """

    part_bytes: int
    """Longer files are written in parts of this length, but for the last; 0 where one request takes any length."""

    def get(self, name: str, start: int, stop: int) -> bytes:
        """Return `[start, stop)` of a file, `start < stop`; shorter only at its end, empty behind it."""

    def size(self, name: str) -> int:
        """Return the length of a file in bytes."""

    def written_s(self, name: str) -> float:
        """Return when a file was created, in seconds since 1970 by the place's own clock."""

    def list(self, prefix: str) -> Iterator[Listed]:
        """Yield all files below the directory `prefix`, recursively; an empty prefix is the whole store."""

    def put_new(self, name: str, stored: Buffer) -> None:
        """Write a file of at most `part_bytes`; readers see all of it or nothing.

        Raises:
            FileExistsError: the name is taken; nothing was changed.
        """

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is no error."""

    def begin(self, name: str) -> str:
        """Begin to write a file in parts; return what names the upload. Nobody sees the file before `finish`."""

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """Write a part, by its number (from 0) and its offset in the file; return what `finish` wants to know of it."""

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """Have the parts be the file.

        Raises:
            FileExistsError: the name is taken; nothing was changed.
        """

    def abandon(self, name: str, upload: str) -> None:
        """Forget an upload and its parts."""
