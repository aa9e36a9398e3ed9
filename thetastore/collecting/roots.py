"""What has to be kept, by name: the files of refs and of pins. Nothing is left out in silence.

Whoever deletes by this must know everything that is named. So a file that cannot be read, or that is not understood, is
an error here, where other readers pass it by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from thetastore import pins, refs
from thetastore.backends import Backend
from thetastore.digest import Digest
from thetastore.errors import MalformedError
from thetastore.pins import Pin, PinName


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
    found = pins_of(backend)
    _check_all_can_stand(found)
    for name, pin in found.items():
        for digest in pin.manifests:
            yield Root(name.file_name, digest)


def pins_of(backend: Backend) -> dict[PinName, Pin]:
    """Return all pins of a store, as they are at one moment.

    Raises:
        MalformedError, UnsupportedError: something among them is not understood.
        BackendError: the place does not answer.
    """
    while True:
        listing = pins.list_pins(backend)
        if listing.unknown:
            words = f"'{listing.unknown[0]}' is not a file of a pin: a newer version may have put it there"
            raise MalformedError(f"{words}; nothing may be deleted")
        try:
            return dict(pins.read_pins(backend, listing.names))
        except FileNotFoundError:
            continue  # unpinned since it was listed, and what was needed of it is in newer ones: look for these


def _check_all_can_stand(found: Mapping[PinName, Pin]) -> None:
    """Refuse commits each of whose pins leans on one that is not there: what they need is unknown then."""
    standing = {(name.repository, name.commit) for name in pins_that_stand(found)}
    for name in found:
        if not name.is_going and (name.repository, name.commit) not in standing:
            words = f"what commit '{name.commit}' needs is unknown: its pin leans on one that is not there"
            raise MalformedError(f"{words}; from a clone that has the commit, run: git theta push --all")


def pins_that_stand(found: Mapping[PinName, Pin]) -> set[PinName]:
    """Return those of pins which, with what they lean on, name all weights of their commits."""
    waiting: dict[tuple[str, str], list[PinName]] = {}
    lacking = {name: len(pin.leans_on) for name, pin in found.items()}
    for name, pin in found.items():
        for commit in pin.leans_on:
            waiting.setdefault((name.repository, commit), []).append(name)
    ready = [name for name, count in lacking.items() if not count]
    standing, leanable = set(), set[tuple[str, str]]()
    while ready:
        name = ready.pop()
        standing.add(name)
        key = name.repository, name.commit
        if name.is_partial or key in leanable:
            continue
        leanable.add(key)
        for leaner in waiting.get(key, ()):
            lacking[leaner] -= 1
            if not lacking[leaner]:
                ready.append(leaner)
    return standing


def _check_all_known(backend: Backend, directory: str, known_count: int) -> None:
    """Refuse files that are no refs: a newer version may keep something by them.

    What is created between two listings makes more files than were known, too: then the next run goes on.
    """
    count = sum(1 for _ in backend.list(directory))
    if count > known_count:
        words = f"'{directory}/' has {count} files, and {known_count} of them are understood: nothing may be deleted"
        raise MalformedError(words)
