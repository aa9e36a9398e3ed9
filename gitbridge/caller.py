"""Which git command started us: the filter protocol does not say, and a few commands can only be told by it.

Read from `/proc`. Where there is none, nothing is known, and every answer is what it would be without us asking.
"""

from __future__ import annotations

import os

_VALUED = (b"-c", b"-C", b"--git-dir", b"--work-tree", b"--namespace", b"--exec-path", b"--config-env")
"""Options before the command whose value may be a word of its own."""


def git_command() -> list[bytes]:
    """Return the git command that runs us and its arguments; empty where it cannot be told.

    Git runs a filter through a shell, and not every shell makes way for the program.
    """
    pid = os.getppid()
    words = _command_line(pid)
    if words[1:2] == [b"-c"]:
        words = _command_line(_parent_of(pid))
    return command_of(words) if words and os.path.basename(words[0]) == b"git" else []


def command_of(words: list[bytes]) -> list[bytes]:
    """Return a command line of git from the command on, without the options of git itself."""
    position = 1
    while position < len(words) and words[position].startswith(b"-"):
        position += 2 if words[position] in _VALUED else 1
    return words[position:]


def _command_line(pid: int) -> list[bytes]:
    return _read(f"/proc/{pid}/cmdline").split(b"\0")[:-1]


def _parent_of(pid: int) -> int:
    # The name of the program, in parentheses, may hold blanks and parentheses.
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""
