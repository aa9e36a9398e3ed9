"""What has to be kept, by name: the files of refs and of pins. Nothing is left out in silence.

Whoever deletes by this must know everything that is named. So a file that cannot be read, or that is not understood, is
an error here, where other readers pass it by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from thetastore import pins, refs
from thetastore.backends import Backend
from thetastore.digest import Digest
from thetastore.errors import MalformedError


class Root(NamedTuple):
    """A file that somebody has a name for."""

    name: str
    """Whose, for people: the file of the ref or pin, or what else names it."""
    manifest_digest: Digest


Roots = Callable[[], Iterable[Root]]
"""Reads what is named at the moment of the call."""


CLIENTS = "repositories"
"""Whoever uses a store and keeps its roots elsewhere leaves a file there."""


def roots_of(backend: Backend, may_be_none: bool = False) -> list[Root]:
    """Return what refs and pins name now.

    Args:
        backend: of the store.
        may_be_none: whether it is meant if there is no ref and no pin at all, so that everything may go.

    Raises:
        MalformedError, UnsupportedError: a ref or pin breaks a rule, or a newer version wrote it; or others, who are
            not asked here, know what the store has to keep.
        BackendError: the place does not answer.
    """
    client = next(iter(backend.list(CLIENTS)), None)
    if client is not None:
        words = f"'{backend.url}' is the local store of Git repositories, which know what it has to keep ('{client}')"
        raise MalformedError(f"{words}; there, run: git theta prune")
    roots = [*_of_refs(backend), *_of_pins(backend)]
    has_names = roots or any(True for directory in (refs.DIRECTORY, pins.DIRECTORY) for _ in backend.list(directory))
    if not has_names and not may_be_none:
        words = f"nothing in '{backend.url}' has a name: there is no ref and no pin, so everything would be let go of"
        raise MalformedError(f"{words}; if that is meant: thetastore gc --everything")
    return roots


def _of_refs(backend: Backend) -> Iterator[Root]:
    all_refs = refs.Refs(backend)
    _check_all_known(backend, refs.DIRECTORY, sum(map(len, all_refs.numbers().values())))
    for entry in all_refs.live():
        for file in entry.files:
            yield Root(f"{refs.DIRECTORY}/{entry.name}/{entry.number:012d}", file.manifest_digest)


def _of_pins(backend: Backend) -> Iterator[Root]:
    names = pins.pin_names(backend)
    _check_all_known(backend, pins.DIRECTORY, len(names))
    for name in names:
        try:
            pin = pins.read_pin(backend, name)
        except FileNotFoundError:
            continue  # unpinned since it was listed
        for digest in pin.manifests:
            yield Root(pin.name, digest)


def _check_all_known(backend: Backend, directory: str, known_count: int) -> None:
    """Refuse files that are no refs or pins: a newer version may keep something by them.

    What is created between two listings makes more files than were known, too: then the next run goes on.
    """
    count = sum(1 for _ in backend.list(directory))
    if count > known_count:
        words = f"'{directory}/' has {count} files, and {known_count} of them are understood: nothing may be deleted"
        raise MalformedError(words)
