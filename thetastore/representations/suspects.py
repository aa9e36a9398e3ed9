"""Objects that could not be read: names in `suspects/`, so that right bytes are not refused as being there already.

A store takes no object that it has, and does not read what it has to find out whether it is sound. So whoever fails to
read an object leaves an empty file with its digest for a name; where there is one, the object counts as there only if
it can be read now. Hints, as long as they are missing; a false one costs a read.
"""

from __future__ import annotations

from thetastore.backends import Backend
from thetastore.digest import Digest
from thetastore.errors import BackendError, MalformedError

_DIRECTORY = "suspects"


def list_suspects(backend: Backend) -> set[Digest]:
    """Return the objects that somebody could not read."""
    found = set()
    try:
        for name in backend.list(_DIRECTORY):
            try:
                found.add(Digest.parse(name.rpartition("/")[2]))
            except MalformedError:
                continue
    except BackendError:
        pass
    return found


def suspect(backend: Backend, digest: Digest) -> None:
    """Note that an object could not be read; a store that cannot be written to is no error."""
    try:
        backend.create(f"{_DIRECTORY}/{digest}", b"")
    except (BackendError, FileExistsError):
        pass


def acquit(backend: Backend, digest: Digest) -> None:
    """Take that back."""
    try:
        backend.delete(f"{_DIRECTORY}/{digest}")
    except BackendError:
        pass
