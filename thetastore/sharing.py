"""Directories that a group shares: what comes into one lets the group in as well, whatever the umask says.

A directory that its group may write to, and that hands its group on (mode `g+ws`, as git makes those of a shared
repository), is shared.
"""

from __future__ import annotations

import os
import stat

_SHARED = stat.S_ISGID | stat.S_IWGRP
_GROUP_OF_FILE = stat.S_IRGRP | stat.S_IWGRP
_GROUP_OF_DIRECTORY = stat.S_ISGID | stat.S_IRWXG


def is_shared(directory: str) -> bool:
    """Tell whether what is made in a directory is for its group, too."""
    return os.stat(directory).st_mode & _SHARED == _SHARED


def share_directory(path: str) -> None:
    """Make a directory, if there is none, and let its group write to it and to all that comes into it.

    One that is somebody else's stays as it is: only its owner, or root, can do that.
    """
    os.makedirs(path, exist_ok=True)
    _let_in(path, os.stat(path))


def share_as_above(path: str, fd: int | None = None) -> None:
    """Let the group into a file or directory of ours, open as `fd` or not, if the directory that it is in is shared."""
    if is_shared(os.path.dirname(path) or os.curdir):
        _let_in(path if fd is None else fd, os.stat(path if fd is None else fd))


def _let_in(file: str | int, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        wanted = _GROUP_OF_DIRECTORY
    else:
        wanted = _GROUP_OF_FILE | (found.st_mode & stat.S_IXUSR) >> 3
    if found.st_mode & wanted != wanted and found.st_uid == os.geteuid():
        os.chmod(file, stat.S_IMODE(found.st_mode) | wanted)
