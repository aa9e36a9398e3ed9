"""The errors of the bridge, in the store's tree, shaped by what the person at the keyboard would do.

ThetaError
|-- MalformedError
|   `-- PointerError            text that claims to be a pointer and is none
|       `-- PointerVersionError written by a newer version: update this one
`-- BridgeError                 has a `hint`: the way out, on a line of its own
    |-- RepositoryMissingError(FileNotFoundError)  run it inside of a repository
    |-- PointerInPlaceError(FileNotFoundError)  only a pointer is here, and nothing that knows of its weights
    |-- GitError                git itself said no; its words are kept
    |-- RevisionError(LookupError)  no such revision, path or blob
    |   `-- PathMissingError(FileNotFoundError)  no tracked file at a path of a revision, which is there
    |-- ConfigError             a setting is missing, malformed or not understood
    |-- RemoteError             the remote store cannot be reached, or lacks what is needed
    |   |-- ConsentError        a URL that only committed configuration names needs a yes
    |   `-- WeightsMissingError weights are in no store that is known; has their `paths`
    |-- HookError               a hook could not be put beside the user's own
    `-- UsageError              the command line makes no sense
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from thetastore.errors import BackendError, FileUnreadableError, HintedError, MalformedError, ObjectCorruptError

if TYPE_CHECKING:
    from typing import Self


class BridgeError(HintedError):
    """Base of what the bridge raises on purpose."""

    code = "bridge"


class PointerError(MalformedError):
    """Text begins like a pointer and is not one that this version would have written."""

    code = "pointer"


class PointerVersionError(PointerError):
    """A pointer was written by a newer version."""

    code = "pointer-version"


class RepositoryMissingError(BridgeError, FileNotFoundError):
    """There is no Git repository here."""

    code = "repository-missing"


class PointerInPlaceError(BridgeError, FileNotFoundError):
    """A file is only a pointer, and nothing here knows where its weights are."""

    code = "pointer-in-place"


class GitError(BridgeError):
    """A git command failed."""

    code = "git"


class RevisionError(BridgeError, LookupError):
    """A revision, a path in it, or a Git object cannot be found."""

    code = "revision"


class PathMissingError(RevisionError, FileNotFoundError):
    """A revision is there, and has no tracked file at a path."""

    code = "path-missing"

    def __new__(cls, *args: object, **words: object) -> Self:
        """Make one as `OSError` does: `LookupError`, found first, makes none of this layout, and clusters unpickle."""
        return OSError.__new__(cls, *args)


class ConfigError(BridgeError):
    """A setting is missing, malformed, or of a kind that this version does not know."""

    code = "config"


class RemoteError(BridgeError):
    """A remote store cannot be reached, written to, or lacks what is needed."""

    code = "remote"


class ConsentError(RemoteError):
    """Weights would go to a place that only committed configuration names, and nobody has agreed to it."""

    code = "consent"


class WeightsMissingError(RemoteError):
    """What was to be pushed is in no store that is known here."""

    code = "weights-missing"

    def __init__(self, message: str, hint: str = "", paths: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.args = (message, hint, paths)
        self.paths = paths
        """Of the files, from the top of the work tree."""


class HookError(BridgeError):
    """A hook of ours could not be put in, or taken out, beside the user's."""

    code = "hook"


class UsageError(BridgeError):
    """Arguments that make no sense together."""

    code = "usage"


def how_to_replace(place: str) -> str:
    """Return how damaged objects are replaced: a store takes no object that it has, even if it is rotten."""
    return f"git theta fsck --repair sets '{place}' aside and brings back what it can (of a remote: --remote)"


_OLDER_POINTER = (
    "take the pointer from a commit that has it as it was written: git log --oneline -- FILE names commits, "
    "git checkout COMMIT -- FILE takes it"
)


def words_for(error: Exception) -> tuple[str, str]:
    """Return what to tell a person of an error: what is wrong, and the way out (empty where none is known)."""
    if isinstance(error, HintedError):
        return error.message, error.hint
    if isinstance(error, PointerError):
        return str(error), "" if isinstance(error, PointerVersionError) else _OLDER_POINTER
    if isinstance(error, ObjectCorruptError):
        return error.message, how_to_replace(error.place)
    if not isinstance(error, OSError) or not error.strerror:
        return str(error), ""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    is_far = "://" in name
    where = f"'{name}'{' in the store' if isinstance(error, BackendError) and not is_far else ''}: " if name else ""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if is_full:
        hint = "make room and run the command again (git theta env says where the store is)"
    elif error.errno == errno.EFBIG:
        hint = "the file system, or 'ulimit -f', allows no file so large: put it on another one, or raise the limit"
    elif isinstance(error, FileUnreadableError):
        is_forbidden = error.errno in (errno.EACCES, errno.EPERM)
        hint = f"whoever owns it may let it be read: chmod +r '{name}'" if is_forbidden else how_to_replace(name)
    elif is_far and error.errno == errno.EACCES:
        hint = "who are you there, and which rights does it take? docs/remotes.md, 'Getting in'"
    elif is_far and error.errno == errno.EROFS:
        hint = "name a place that can be written to: git config theta.url s3://bucket/prefix, or a directory"
    elif isinstance(error, BackendError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "git theta doctor says which store may not be written, and what mends it"
    else:
        hint = ""
    return f"{where}{error.strerror}", hint
