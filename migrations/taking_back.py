"""`git theta migrate undo` and `forget`."""

from __future__ import annotations

import argparse

from gitbridge.render import count_text
from gitbridge.repository import Repository
from migrations import landing
from migrations.refs import check_is_clean


def undo(repository: Repository, options: argparse.Namespace) -> int:
    """Put refs, index and work tree back to where they were before the last migration."""
    check_is_clean(repository)
    for move in landing.undo(repository):
        print(f"{move.ref.removeprefix('refs/heads/').removeprefix('refs/')}: {move.old} -> {move.new}")
    return 0


def forget(repository: Repository, options: argparse.Namespace) -> int:
    """Let go of the old history."""
    count = landing.forget(repository)
    print(f"git theta: {count_text(count, 'old ref')} let go; git gc frees the space when the reflogs have expired")
    return 0
