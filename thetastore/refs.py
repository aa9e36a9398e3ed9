"""Names with numbered entries, of which the highest that has all lower ones counts: `docs/format/refs.md`.

A version of a model is an entry of a ref. Entries are created and never changed, so several writers need nothing of a
place but that creating a file fails where there is one. Whoever is slower finds the number taken, and takes the next.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from thetastore.backends import Range, announced
from thetastore.errors import BackendError, MalformedError, UnsupportedError
from thetastore.ref_entries import (
    MAX_ENTRY_BYTES,
    NUMBER_DIGITS,
    Draft,
    Entry,
    check_ref_name,
    encode_entry,
    next_entry,
    parse_entry,
)

if TYPE_CHECKING:
    from thetastore.backends import Backend

DIRECTORY = "refs"
_USUAL_BYTES = 256 << 10
"""What is asked for first: a place far away takes one request for so much, and two for what may be longer."""
_READ_AT_ONCE = 128
_MOST_TRIES = 1000
"""Each is lost to somebody who got an entry in: so many in a row means that something else is wrong."""


class Refs:
    """The refs of one store. Threads may share it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def numbers(self, below: str = "") -> dict[str, list[int]]:
        """Return all numbers that a listing has, ascending, by ref; of the refs whose first parts are `below`.

        One listing. Refs that were deleted are among them.
        """
        if below:
            check_ref_name(below)
        found: dict[str, list[int]] = {}
        for name in self._backend.list(f"{DIRECTORY}/{below}" if below else DIRECTORY):
            parsed = _parse_file_name(name)
            if parsed is not None:
                found.setdefault(parsed[0], []).append(parsed[1])
        return {name: sorted(numbers) for name, numbers in sorted(found.items())}

    def latest(self, name: str) -> Entry | None:
        """Return the entry that counts, which may be a tombstone; None if there never was such a ref.

        Raises:
            MalformedError: the name is none, or the entry breaks a rule.
            UnsupportedError: a newer version wrote it.
        """
        number = self._latest_number(name, self._listed(name))
        return self.read(name, number) if number else None

    def read(self, name: str, number: int) -> Entry:
        """Return an entry. Raises as `latest`, and `FileNotFoundError` where there is no such number."""
        file_name = _file_name(name, number)
        encoded = self._backend.read(file_name, 0, _USUAL_BYTES)
        if len(encoded) == _USUAL_BYTES:
            encoded = self._backend.read(file_name, 0, MAX_ENTRY_BYTES + 1)
        return parse_entry(encoded, name, number)

    def append(self, name: str, draft: Callable[[Entry | None], Draft], known: Entry | None = None) -> Entry:
        """Add an entry; return it. What its files need must be durable before.

        Args:
            name: of the ref.
            draft: gives the content, from the entry before; asked again each time that another writer was faster.
            known: an entry that was read before, to be tried as the one before without looking.

        Raises:
            MalformedError: the name or the draft breaks a rule.
            BackendError: the place refused, or it is unknown whether the entry was made.
        """
        check_ref_name(name)
        before = known or self.latest(name)
        for _ in range(_MOST_TRIES):
            entry = next_entry(name, before, draft(before))
            if self._create(entry):
                return entry
            # It is taken, whatever a listing that is late may say.
            before = self.read(name, self._latest_number(name, [*self._listed(name), entry.number]))
        words = f"others write it all the time: {_MOST_TRIES} tries were too few"
        raise BackendError(errno.EAGAIN, words, name)

    def mirror(self, entry: Entry) -> bool:
        """Make an entry of another store be here, as it is; tell whether it is here now, and no other of its number.

        Raises:
            BackendError: the place refused, or it is unknown whether the entry was made.
        """
        return self._create(entry)

    def live(self) -> Iterator[Entry]:
        """Yield every entry whose files are to be kept; all of a ref at a time.

        Raises:
            MalformedError, UnsupportedError, BackendError: an entry cannot be read or is missing; what is to be kept
                is unknown then, and nothing may be deleted.
        """
        found = self.numbers()
        waiting = list(found)
        while waiting:
            window = waiting[: _first_count(waiting, found)]
            waiting = waiting[len(window) :]
            self._backend.expect(_range_of(name, number) for name in window for number in found[name])
            for name in window:
                yield from self._live(name, found[name])

    def _live(self, name: str, numbers: list[int]) -> Iterator[Entry]:
        latest = self._latest_number(name, numbers)
        oldest = self.read(name, latest).oldest if latest else 1
        living = range(oldest, max(numbers) + 1)
        for number in announced(self._backend, living, lambda number: _range_of(name, number), _READ_AT_ONCE):
            try:
                yield self.read(name, number)
            except FileNotFoundError:
                raise MalformedError(f"entry {number} of the ref '{name}' is missing") from None

    def _listed(self, name: str) -> list[int]:
        return self.numbers(name).get(name, [])

    def _latest_number(self, name: str, numbers: Iterable[int]) -> int:
        """Return the highest number that counts, 0 if there is none.

        Args:
            name: of the ref.
            numbers: those that are known to be there; a listing may lack some.
        """
        listed = set(numbers)
        most = max(listed, default=0)
        number = 0
        while number < most and (number + 1 in listed or self._is_there(name, number + 1)):
            number += 1
        return number

    def _is_there(self, name: str, number: int) -> bool:
        try:
            self._backend.size(_file_name(name, number))
            return True
        except FileNotFoundError:
            return False

    def _create(self, entry: Entry) -> bool:
        """Create an entry; tell whether it was this one, and not another writer's."""
        encoded = encode_entry(entry)
        try:
            self._backend.create(_file_name(entry.name, entry.number), encoded)
        except FileExistsError:
            if not self._is_ours(entry):
                return False
        except BackendError as error:
            # It may have been made nevertheless: only the answer, or the last step to the disk, may be what failed.
            try:
                is_ours = self._is_ours(entry)
            except (FileNotFoundError, BackendError):
                raise _unknown(error, entry) from error
            if not is_ours:
                return False
        if self._latest_number(entry.name, [*self._listed(entry.name), entry.number]) < entry.number:
            words = f"entry {entry.number} was made, and does not count, since a lower one is gone"
            raise BackendError(errno.EIO, words, entry.name)
        return True

    def _is_ours(self, entry: Entry) -> bool:
        try:
            return self.read(entry.name, entry.number).write_id == entry.write_id
        except (MalformedError, UnsupportedError):
            return False


def _unknown(error: BackendError, entry: Entry) -> BackendError:
    words = f"whether entry {entry.number} of '{entry.name}' was made is unknown: {error.strerror or error}"
    return BackendError(error.errno or errno.EIO, words, error.filename)


def _first_count(names: Sequence[str], numbers: Mapping[str, Sequence[int]]) -> int:
    """Return how many names have no more entries together than can be read at once; at least 1."""
    count = 0
    for at, name in enumerate(names):
        count += len(numbers[name])
        if count > _READ_AT_ONCE:
            return max(at, 1)
    return len(names)


def _range_of(name: str, number: int) -> Range:
    return Range(_file_name(name, number), 0, _USUAL_BYTES)


def _file_name(name: str, number: int) -> str:
    check_ref_name(name)
    return f"{DIRECTORY}/{name}/{number:0{NUMBER_DIGITS}d}"


def _parse_file_name(file_name: str) -> tuple[str, int] | None:
    """Return name and number; None for a file that is none of ours."""
    name, _, last = file_name.removeprefix(f"{DIRECTORY}/").rpartition("/")
    if "/" not in name or len(last) != NUMBER_DIGITS or not (last.isascii() and last.isdecimal()) or not int(last):
        return None
    try:
        check_ref_name(name)
    except MalformedError:
        return None
    return name, int(last)
