"""A file in the making for a place that cannot append: a nameless file on this machine, uploaded when it is sealed.

It dies with its process, so there is nothing to lock and nothing to adopt. Its length is bounded by who writes it:
packs for far stores are of 64 MiB, and each is sealed before the next is begun.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable

from thetastore.digest import Buffer
from thetastore.errors import BackendError

_COPY_BYTES = 1 << 20


class Spool:
    """See `Appender`. Reading is thread-safe."""

    _descriptor = -1

    def __init__(self, name: str, upload: Callable[[str, Buffer], None], forget: Callable[[str], None]) -> None:
        """Write under `name`.

        Args:
            name: where this process finds it.
            upload: makes a file of the store, create-if-absent.
            forget: called with the name when it is let go.
        """
        self.name = name
        self._upload = upload
        self._forget = forget
        try:
            self._descriptor, path = tempfile.mkstemp(prefix="thetastore-")
            os.unlink(path)
        except OSError as error:
            raise BackendError(error.errno, error.strerror, tempfile.gettempdir()) from error
        self._end = 0

    def size(self) -> int:
        """See `Appender.size`."""
        return self._end

    def write(self, *parts: Buffer) -> None:
        """See `Appender.write`."""
        end = self._end
        try:
            for part in parts:
                for view in _pieces(part):
                    end += os.pwrite(self._fd(), view, end)
        except OSError as error:
            raise BackendError(error.errno, error.strerror, tempfile.gettempdir()) from error
        self._end = end

    def truncate(self, keep_bytes: int) -> None:
        """See `Appender.truncate`."""
        self._end = min(self._end, keep_bytes)

    def sync(self) -> None:
        """See `Appender.sync`: what dies with the process need not survive the machine."""

    def seal(self, name: str) -> None:
        """See `Appender.seal`."""
        os.ftruncate(self._fd(), self._end)
        if not self._end:
            self._upload(name, b"")
            return
        self._upload(name, memoryview(mmap.mmap(self._fd(), self._end, prot=mmap.PROT_READ)))

    def close(self) -> None:
        """See `Appender.close`."""
        if self._descriptor >= 0:
            self._forget(self.name)
            self.__del__()

    discard = close

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read_into(self, offset: int, out: memoryview) -> int:
        """See `Reader.read_into`."""
        wanted = out[: max(0, self._end - offset)]
        done = 0
        while done < wanted.nbytes:
            count = os.preadv(self._fd(), [wanted[done:]], offset + done)
            if not count:
                break
            done += count
        return done

    def _fd(self) -> int:
        if self._descriptor < 0:
            raise BackendError(errno.EBADF, "the file is closed", self.name)
        return self._descriptor


def _pieces(part: Buffer) -> list[memoryview]:
    view = memoryview(part).cast("B")
    return [view[start : start + _COPY_BYTES] for start in range(0, view.nbytes, _COPY_BYTES)]
