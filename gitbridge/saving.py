"""Checkpoints committed while training goes on: `save` copies the tensors and returns, the rest happens behind it.

One commit is on its way at a time; a `save` that comes too early waits for it, so that memory holds one copy of the
state and no more. What went wrong is raised by the next `save`, by `wait` and by `close`, and never lost: where none of
them is called any more, since training was interrupted or failed, it is told on standard error.
"""

from __future__ import annotations

import os
import signal
import sys
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gitbridge.committing import commit
from thetastore.arrays import check_whole, copy_into, empty_like
from thetastore.pool import Pool

if TYPE_CHECKING:
    from concurrent.futures import Future


class Saver:
    """Commits checkpoints to a branch in the background. A context manager; for one thread. Pickled, it is a new one.

    The copy is made into memory that is kept and used again: after the first, a `save` costs its caller one copy of
    the state (from a GPU, the transfer). A commit that was begun is brought to its end before the process ends, also
    when its user interrupts it, as long as it is not killed.
    """

    def __init__(
        self,
        path: str,
        branch: str,
        repository: str | os.PathLike[str] = ".",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Commit to `path` on `branch`; see `gitbridge.commit` for both, and for `metadata`."""
        self.path = path
        self.branch = branch
        self._repository = os.path.abspath(repository)
        self._metadata = metadata
        self._pool = Pool(1)
        self._under_way: _UnderWay | None = None
        self._copies: dict[str, Any] = {}
        self._last = ""

    def save(self, state_dict: Mapping[str, Any], message: str, base: str | None = None) -> None:
        """Copy tensors and commit them in the background; the caller may go on changing them.

        Waits for the save before, and raises what that one raised: then nothing was copied.

        Raises:
            UnsupportedError: a tensor is in pieces on several processes, and this one has not all of it.
        """
        self.wait()
        for name, value in state_dict.items():
            check_whole(name, value)
        self._copies = {name: self._copied(name, value) for name, value in state_dict.items()}
        future = self._pool.start(self._commit, _Words(self._copies, message, base))
        self._under_way = _UnderWay(future, weakref.finalize(self, _tell_of_failure, future, message, self.branch))

    def wait(self) -> str:
        """Wait for what is under way; return the oid of the last commit, empty if there was none.

        Raises what `gitbridge.commit` raises, once.
        """
        under_way = self._under_way
        if under_way is not None:
            under_way.future.exception()  # interrupted here, it is still under way, and its memory in use
            self._under_way = None
            under_way.reporter.detach()
            self._last = under_way.future.result()
        return self._last

    def close(self) -> str:
        """Wait for what is under way, and free memory and thread; returns and raises as `wait`."""
        try:
            return self.wait()
        finally:
            self._copies = {}
            self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Saver], tuple[str, str, str, Mapping[str, str] | None]]:
        return Saver, (self.path, self.branch, self._repository, self._metadata)

    def _copied(self, name: str, value: Any) -> Any:
        copy = empty_like(value, self._copies.get(name))
        copy_into(copy, value)
        return copy

    def _commit(self, words: _Words) -> str:
        # The git that this thread starts inherits its mask: a terminal's Ctrl-C would end it in the middle of a commit.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        return commit(
            words.tensors, self.path, words.message, self.branch, words.base, self._metadata, self._repository
        )


class _Words(NamedTuple):
    tensors: dict[str, Any]
    message: str
    base: str | None


class _UnderWay(NamedTuple):
    future: Future[str]
    reporter: weakref.finalize[[Future[str], str, str], Saver]
    """Tells of a failure when the saver is gone, or the process ends, and nobody has asked."""


def _tell_of_failure(future: Future[str], message: str, branch: str) -> None:
    def tell(done: Future[str]) -> None:
        error = done.exception()
        if error is not None and sys.stderr is not None:
            print(f"gitbridge: '{message}' was not committed to '{branch}': {error}", file=sys.stderr)

    future.add_done_callback(tell)
