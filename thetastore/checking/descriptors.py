"""The descriptor of a store made anew, where it is damaged or gone.

Everything else in a store is named by digests and has checksums, and comes back from elsewhere. The descriptor is a few
words of which there is one copy, and without it no command opens the store; but all that they have to say can be told
from the other files, or tried again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.descriptor import (
    DESCRIPTOR,
    MAX_DESCRIPTOR_BYTES,
    VERSION,
    check_nothing_is_under_way,
    create_descriptor,
    read_descriptor,
)
from thetastore.digest import digest_of
from thetastore.errors import MalformedError
from thetastore.packs.index import RUN_MAGIC
from thetastore.packs.preamble import PREAMBLE_BYTES, version_of
from thetastore.packs.reader import PACK_MAGIC


class MendedDescriptor(NamedTuple):
    """What was done to a descriptor."""

    set_aside: str | None
    """Where the damaged one lies now; None where there was none."""
    version: int
    """Of the store, as the new one says."""


def mend_descriptor(backend: Backend) -> MendedDescriptor | None:
    """Write the descriptor anew, if it is damaged or gone; return None where it is sound, or where there is no store.

    The version is that of the files, and how many may write a place far away is tried again. What no pack and no index
    run can tell is a required feature: this thetastore knows none, and its readers refuse files that need one.

    May be killed at any point; nothing is deleted that was not copied to `damaged/` before.

    Raises:
        MalformedError: something else is in its place, and nothing beside it is of a store.
        UnsupportedError: a file needs a newer thetastore; or an upgrade is under way, which `thetastore upgrade` ends.
        BackendError: the place cannot be read or written.
    """
    damage: MalformedError | None = None
    try:
        read_descriptor(backend)
    except FileNotFoundError:
        pass
    except MalformedError as error:
        damage = error
    else:
        return None
    version = _version_of_files(backend)
    if version is None and damage is not None:
        raise damage
    if version is None:
        return None
    set_aside = _set_aside(backend) if damage is not None else None
    check_nothing_is_under_way(backend)
    return MendedDescriptor(set_aside, create_descriptor(backend, version).version)


def _version_of_files(backend: Backend) -> int | None:
    """Return the version of the newest pack or index run; None where there are none."""
    newest: int | None = None
    for version in _versions(backend):
        newest = version if newest is None else max(newest, version)
        if newest == VERSION:
            break
    return newest


def _versions(backend: Backend) -> Iterator[int]:
    for directory, magic in (("index", RUN_MAGIC), ("packs", PACK_MAGIC)):
        for name in backend.list(directory):
            try:
                yield version_of(backend.read(name, 0, PREAMBLE_BYTES), magic, name)
            except (MalformedError, FileNotFoundError):
                continue  # damaged too, or merged away


def _set_aside(backend: Backend) -> str:
    """Copy what is there to a name of its own, and delete it; a longer one than any descriptor is cut."""
    stored = backend.read(DESCRIPTOR, 0, MAX_DESCRIPTOR_BYTES)
    name = f"damaged/{str(digest_of(stored))[:32]}.json"
    try:
        backend.create(name, stored)
    except FileExistsError:
        pass  # killed here, an earlier time
    backend.delete(DESCRIPTOR)
    return name
