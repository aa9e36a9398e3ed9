"""Does a place know create-if-absent? Asked once, before a store is made there: docs/format/store.md has the verdict.

Three things are tried on names of their own: a file that is there is not replaced, by one request or, where long files
go in parts, by parts; and of several that create one name at once, one wins. A server may ignore the condition (s3rver
does), check it only for one of the two ways, or look first and write then.
"""

from __future__ import annotations

import os
import threading

from thetastore.backends import Backend
from thetastore.backends.remote import RemoteBackend
from thetastore.errors import BackendError

_RACERS = 4
_RACES = 3
_LEAST_PART_BYTES = 5 << 20
"""S3 takes no shorter part, but for the last."""


def keeps_what_is_there(backend: Backend) -> bool:
    """Tell whether creating a file never replaces one. Writes and deletes some 10 MiB under `probe/`.

    Raises:
        BackendError: the place cannot be written to.
    """
    directory = f"probe/{os.urandom(16).hex()}"
    names: list[str] = []

    def name(what: str) -> str:
        names.append(f"{directory}/{what}")
        return names[-1]

    try:
        return (
            _refuses_second(backend, name("one"), b"first", b"second")
            and _refuses_parts(backend, name("one"), name("parts"))
            and all(_one_wins(backend, name(f"race-{number}")) for number in range(_RACES))
        )
    finally:
        _delete(backend, names)


def _delete(backend: Backend, names: list[str]) -> None:
    for name in names:
        try:
            backend.delete(name)
        except BackendError:
            return  # litter; what is wrong, if anything is, is on its way


def _refuses_second(backend: Backend, name: str, first: bytes, second: bytes) -> bool:
    backend.create(name, first)
    try:
        backend.create(name, second)
    except FileExistsError:
        return backend.read(name) == first
    return False


def _refuses_parts(backend: Backend, taken: str, name: str) -> bool:
    if not isinstance(backend, RemoteBackend) or not backend.requests.part_bytes:
        return True
    body = memoryview(bytes(_LEAST_PART_BYTES) + b"!")
    try:
        backend.create_in_parts(taken, body, _LEAST_PART_BYTES)
        return False
    except FileExistsError:
        if backend.size(taken) == len(body):
            return False
    backend.create_in_parts(name, body, _LEAST_PART_BYTES)
    try:
        backend.create(name, b"short")
    except FileExistsError:
        return backend.size(name) == len(body)
    return False


def _one_wins(backend: Backend, name: str) -> bool:
    won: list[bytes] = []
    start = threading.Barrier(_RACERS)

    def race(number: int) -> None:
        body = f"racer {number}".encode()
        start.wait()
        try:
            backend.create(name, body)
        except OSError:  # it was not first, or the server had enough: it has not won
            return
        won.append(body)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(_RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won) == 1 and backend.read(name) == won[0]
