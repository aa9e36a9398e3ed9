"""What became of the runs of one experiment."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

HANG_S = 60
"""A run that takes longer hangs: without a fault it takes some milliseconds."""


class HangError(BaseException):
    """A run took longer than `HANG_S`; no handler may catch it."""


@dataclass
class Tally:
    """Counts. Only the first three may be other than 0."""

    what: str
    fault: str
    runs: int = 0
    succeeded: int = 0
    """Reported success, and were right."""
    failed: int = 0
    """Reported an error; everything from before was there, and doing it again succeeded."""
    wrong_bytes: int = 0
    """Read other bytes than were stored, without an error."""
    lost_refs: int = 0
    """A version that was committed before cannot be read."""
    lost_objects: int = 0
    """Objects of such a version that are gone."""
    false_successes: int = 0
    """Reported success, and what was to be done was not."""
    hangs: int = 0
    stuck: int = 0
    """Doing it again, without faults, failed."""
    unfound: int = 0
    """Damage that a check did not find, or a repair did not mend."""
    collected: int = 0
    """Packs that a collector deleted meanwhile."""
    example: str = ""
    """Of the first run that went wrong: where."""

    @property
    def bad(self) -> int:
        """How much there is that must not be."""
        return (
            self.wrong_bytes
            + self.lost_refs
            + self.lost_objects
            + self.false_successes
            + self.hangs
            + self.stuck
            + self.unfound
        )

    def blame(self, kind: str, where: str, count: int = 1) -> None:
        """Count what must not be."""
        setattr(self, kind, getattr(self, kind) + count)
        self.example = self.example or f"{kind} at {where}"

    def values(self) -> dict[str, object]:
        """Return all of it for JSON."""
        return asdict(self)

    @contextmanager
    def watched(self, where: str) -> Iterator[None]:
        """Count a run, and end it if it hangs; for the main thread."""
        self.runs += 1

        def stop(*_: object) -> None:
            raise HangError

        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(HANG_S)
        try:
            yield
        except HangError:
            self.blame("hangs", where)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
