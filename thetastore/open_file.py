"""An open file that is read and written at absolute offsets, by several threads at once."""

from __future__ import annotations

import os


class OpenFile:
    """A descriptor with the length of its file. Does not own the descriptor."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        """Length of the file in bytes."""

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return the bytes `[offset, offset + nbytes)`; shorter only at the end of the file."""
        return os.pread(self.descriptor, nbytes, offset)

    def write_at(self, offset: int, raw: memoryview) -> None:
        """Write all of `raw` at an offset.

        Raises:
            OSError: the disk is full or failing.
        """
        while raw:
            written = os.pwrite(self.descriptor, raw, offset)
            raw, offset = raw[written:], offset + written


class Replacing:
    """A new file that takes its name, and the place of what has it, only if the `with` block ends well.

    Entering gives a descriptor open for reading and writing. After an error nothing is left behind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.realpath(path)
        name = os.path.basename(self._path)[:200]
        self._temporary = os.path.join(os.path.dirname(self._path), f".{name}.theta-tmp-{os.urandom(8).hex()}")
        self._descriptor = -1

    def __enter__(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._temporary, flags, 0o666)
        return self._descriptor

    def __exit__(self, kind: object, error: object, _: object) -> None:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self._path  # a write by descriptor knows none, and people ask which file
        try:
            os.close(self._descriptor)
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            try:
                os.unlink(self._temporary)
            except FileNotFoundError:
                pass
