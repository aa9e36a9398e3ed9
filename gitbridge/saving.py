"""Checkpoints committed while training goes on: `save` copies the tensors and returns, the rest happens behind it.

One commit is on its way at a time; a `save` that comes too early waits for it, so that memory holds one copy of the
state and no more. What went wrong is raised by the next `save`, by `wait` and by `close`, and never lost.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gitbridge.committing import commit
from thetastore.arrays import copy_into, empty_like
from thetastore.pool import Pool

if TYPE_CHECKING:
    from concurrent.futures import Future


class Saver:
    """Commits checkpoints to a branch in the background. A context manager; for one thread.

    The copy is made into memory that is kept and used again: after the first, a `save` costs its caller one copy of
    the state (from a GPU, the transfer).
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
        self._under_way: Future[str] | None = None
        self._copies: dict[str, Any] = {}
        self._last = ""

    def save(self, state_dict: Mapping[str, Any], message: str, base: str | None = None) -> None:
        """Copy tensors and commit them in the background; the caller may go on changing them.

        Waits for the save before, and raises what that one raised: then nothing was copied.
        """
        self.wait()
        self._copies = {name: self._copied(name, value) for name, value in state_dict.items()}
        self._under_way = self._pool.start(self._commit, (message, base))

    def wait(self) -> str:
        """Wait for what is under way; return the oid of the last commit, empty if there was none.

        Raises what `gitbridge.commit` raises, once.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            self._last = under_way.result()
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

    def _copied(self, name: str, value: Any) -> Any:
        copy = empty_like(value, self._copies.get(name))
        copy_into(copy, value)
        return copy

    def _commit(self, words: tuple[str, str | None]) -> str:
        message, base = words
        return commit(self._copies, self.path, message, self.branch, base, self._metadata, self._repository)
