"""Where the program `git-theta` begins; nothing else may import this, as to import it is to begin."""

from __future__ import annotations

from thetastore import interrupts

interrupts.let_it_kill()  # before anything else is imported: that takes ten times as long

from gitbridge.cli.main import run as _run  # noqa: E402


def run() -> int:
    """Run the command line of this process; return the exit status."""
    return _run()
