"""Writers that tell a collector, in files, that they live: `docs/format/sessions.md`.

A writer begins a session before it looks at a store, and ends it after what it wrote is named by a ref or a pin. What
was condemned before a session began, the writer sees, and does not rely on; what is condemned later stays until the
session has ended. A session that is not renewed for a day is revoked: its writer is dead, or asleep.

A sleeper may wake up and write its ref all the same. No clock and no lock can keep it from that, so it looks once more
afterwards: the collector revokes (deletes the session's files) first and reads the refs then; the writer writes its
ref first and looks then whether all its files are there. One of the two sees the other, whatever the order.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, NamedTuple

from thetastore.errors import BackendError, MalformedError
from thetastore.packs.writer import new_id

if TYPE_CHECKING:
    from thetastore.backends import Backend

DIRECTORY = "sessions"
SESSION_S = 24 * 3600.0
"""Without a sign of life for so long, by the place's clock, a session is revoked."""
RENEW_S = 3600.0
_DIGITS = frozenset("0123456789")
_HEXADECIMAL = frozenset("0123456789abcdef")


class Session:
    """One writer's session. Used by one thread at a time."""

    def __init__(self, backend: Backend) -> None:
        """Begin one: from now on the store may be looked at.

        Raises:
            BackendError: the place cannot be written to.
        """
        self._backend = backend
        self._id = new_id()
        self._number = 0
        self._renew()

    def _renew(self) -> None:
        self._number += 1
        self._renewed_s = time.monotonic()
        self._backend.create(_file_name(self._id, self._number), b"")

    def keep_alive(self) -> None:
        """Give a sign of life, if the last one was an hour ago.

        Raises:
            BackendError: the place cannot be written to.
        """
        if time.monotonic() - self._renewed_s >= RENEW_S:
            self._renew()

    def seen_s(self) -> float:
        """Return when it gave the last sign of life, by the place's clock.

        Raises:
            FileNotFoundError: it was revoked.
            BackendError: the place does not answer, or does not tell (`ENOTSUP`).
        """
        return self._backend.written_s(_file_name(self._id, self._number))

    def was_honoured(self) -> bool:
        """Tell whether no collector has revoked it: asked after a ref or a pin was written, it vouches for that.

        Raises:
            BackendError: the place does not answer.
        """
        return self._own_names() <= set(self._backend.list(DIRECTORY))

    def end(self) -> None:
        """End it; nothing that it relied on is kept for its sake any more.

        Who may write far away need not be allowed to delete: then a collector waits a day, and revokes it.

        Raises:
            BackendError: the place does not answer; the session is revoked in a day.
        """
        try:
            for name in sorted(self._own_names()):
                self._backend.delete(name)
        except BackendError as error:
            if not self._backend.is_remote or error.errno != errno.EACCES:
                raise

    def _own_names(self) -> set[str]:
        return {_file_name(self._id, number) for number in range(1, self._number + 1)}


class Known(NamedTuple):
    """What a collector knows of somebody else's session."""

    id: str
    begun_s: float
    """By the place's clock."""
    seen_s: float
    """When it gave the last sign of life."""


def alive(backend: Backend, now_s: float, revokes: bool = True) -> list[Known]:
    """Return the sessions that are to be honoured, after the others were revoked.

    Args:
        backend: where they are.
        now_s: the time by the place's clock.
        revokes: False: leave out those that could be revoked, but change nothing.

    Raises:
        MalformedError: there is something else among the sessions, which a newer version may have put there.
        BackendError: the place does not answer, or does not tell when files were written.
    """
    found: list[Known] = []
    for session_id, numbers in sorted(_by_id(backend).items()):
        names = [_file_name(session_id, number) for number in sorted(numbers)]
        try:
            known = Known(session_id, backend.written_s(names[0]), backend.written_s(names[-1]))
        except FileNotFoundError:
            continue  # it has ended
        if now_s - known.seen_s <= SESSION_S:
            found.append(known)
        elif revokes:
            for name in names:
                backend.delete(name)
    return found


def _file_name(session_id: str, number: int) -> str:
    # Not in a directory of its own: an empty one would be left of it.
    return f"{DIRECTORY}/{session_id}.{number:012d}"


def _by_id(backend: Backend) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for name in backend.list(DIRECTORY):
        session_id, _, number = name.removeprefix(f"{DIRECTORY}/").partition(".")
        is_session = len(session_id) == 32 and _HEXADECIMAL.issuperset(session_id)
        if not is_session or len(number) != 12 or not _DIGITS.issuperset(number):
            raise MalformedError(f"'{name}' is not a file of a session: a newer version may have put it there")
        found.setdefault(session_id, set()).add(int(number))
    return found
