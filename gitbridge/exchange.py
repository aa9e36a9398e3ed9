"""Two names in one directory change places, in one step that nothing can come between.

Source: renameat2(2), RENAME_EXCHANGE. Python has no call for it. Linux only, and not on every file system.
"""

from __future__ import annotations

import os
from collections.abc import Callable

_RENAME_EXCHANGE = 2


def exchange(directory_fd: int, one: bytes, other: bytes) -> bool:
    """Let two files of a directory change names; False where this system or file system cannot.

    Raises:
        OSError: it can, and refused: one of them is not there, the directory is read-only.
    """
    import errno

    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    number = renameat2(directory_fd, one, directory_fd, other, _RENAME_EXCHANGE)
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    if number:
        raise OSError(number, os.strerror(number), os.fsdecode(one), None, os.fsdecode(other))
    return True


def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Return the C library's function, with the error number (0 for none) as its result."""
    import ctypes

    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)

    def call(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> int:
        return ctypes.get_errno() if function(old_fd, old, new_fd, new, flags) else 0

    return call
