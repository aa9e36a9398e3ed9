"""What our hooks do."""

from __future__ import annotations

import sys

from gitbridge.cli.opening import has_journals, open_repository
from gitbridge.repository import Repository


def run(name: str, arguments: list[str]) -> int:
    """Run a hook of ours; names that we know nothing about do nothing."""
    with open_repository() as repository:
        if name == "pre-push":
            return _pre_push(repository, arguments, sys.stdin.buffer.read())
        if has_journals(repository):  # of the filter that waits while git runs this hook
            from gitbridge.materialize import complete_living

            complete_living(repository)
    return 0


def _pre_push(repository: Repository, arguments: list[str], lines: bytes) -> int:
    from gitbridge.cli.transfer import summary
    from gitbridge.render import Progress
    from gitbridge.sync import parse_updates, push

    remote, git_url = [*arguments, "", ""][:2]
    oids = [update.local_oid for update in parse_updates(lines) if not update.is_delete]
    progress = Progress("sending weights")
    try:
        pushed = push(repository, remote or git_url, git_url or None, oids, report=progress)
    finally:
        progress.done()
    if pushed.copied.object_count:
        print(summary(pushed), file=sys.stderr)
    return 0
