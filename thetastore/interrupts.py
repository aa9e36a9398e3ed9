"""Ctrl-C while a program of ours starts and ends, where Python would print a traceback: both command lines use this.

Between, `main` turns KeyboardInterrupt into a word and status 130. What this imports is imported before it can help, so
that is a built-in module and nothing else: `signal` itself would import enum.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]

_come: list[int] = []
"""Grows by one with each interrupt of this process: the one thing that outlives a handler that took its exception."""


def let_it_kill() -> None:
    """Let the system end this process at an interrupt, without a word; a process that ignores them goes on to."""
    if _signal.getsignal(_signal.SIGINT) in (_signal.default_int_handler, _raise):
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


def raise_it() -> None:
    """Have an interrupt raise KeyboardInterrupt, and be remembered."""
    if _signal.getsignal(_signal.SIGINT) in (_signal.default_int_handler, _signal.SIG_DFL):
        _signal.signal(_signal.SIGINT, _raise)


def has_come() -> bool:
    """Tell whether this process was interrupted, though what came of it is another error.

    What is being imported may turn KeyboardInterrupt into an ImportError of its own, as numpy does.
    """
    return bool(_come)


def _raise(number: int, _frame: object) -> None:
    _come.append(number)
    raise KeyboardInterrupt
