"""What our hooks do."""

from __future__ import annotations

import os
import sys

from gitbridge.cli.opening import has_journals, open_repository
from gitbridge.hooks import COMMIT_HOOK, MESSAGE_HOOK
from gitbridge.repository import Repository


def run(name: str, arguments: list[str]) -> int:
    """Run a hook of ours; names that we know nothing about do nothing."""
    with open_repository() as repository:
        if name == "pre-push":
            return _pre_push(repository, arguments, sys.stdin.buffer.read())
        if name == COMMIT_HOOK:
            _name_large_files(repository)
            return _refuse_edited_pointers(repository)
        if name == MESSAGE_HOOK and arguments:
            from gitbridge.merging.trailers import append_to

            append_to(repository, os.path.abspath(arguments[0]))
            return 0
        if has_journals(repository):  # of the filter that waits while git runs this hook
            from gitbridge.materialize import complete_living

            complete_living(repository)
    return 0


def _pre_push(repository: Repository, arguments: list[str], lines: bytes) -> int:
    from gitbridge.cli.push import summary
    from gitbridge.pushing import parse_updates, push
    from gitbridge.render import Progress

    remote, git_url = [*arguments, "", ""][:2]
    refs: dict[str, list[str]] = {}
    for update in parse_updates(lines):
        if not update.is_delete:
            refs.setdefault(update.local_oid, []).append(update.remote_ref)
    progress = Progress("sending weights")
    try:
        pushed = push(repository, remote or git_url, git_url or None, refs, report=progress)
    finally:
        progress.done()
    if pushed.copied.object_count:
        print(summary(pushed), file=sys.stderr)
    _name_plain_files(repository, list(refs))
    return 0


def _name_plain_files(repository: Repository, oids: list[str]) -> None:
    """Say which weights git itself is about to send, because somebody committed them without the filter."""
    from gitbridge.errors import RevisionError
    from gitbridge.status import plain_in_tree

    found: dict[str, None] = {}
    for oid in oids if repository.work_tree else ():
        try:
            found.update(dict.fromkeys(plain_in_tree(repository, oid)))
        except RevisionError:  # a tag of a blob
            continue
    if found:
        from shlex import quote

        names = " ".join(map(quote, list(found)[:_NAMED_COUNT])) if len(found) <= _NAMED_COUNT else "."
        shown = ", ".join(list(found)[:_NAMED_COUNT]) + (" …" if len(found) > _NAMED_COUNT else "")
        print(
            f"git theta: tracked, but committed as plain files, so git sends them whole: {shown}\n"
            f"hint: git add --renormalize {names} && git commit moves them to the store from then on",
            file=sys.stderr,
        )


_NAMED_COUNT = 5


def _name_large_files(repository: Repository) -> None:
    """Say which checkpoints the commit that is being made keeps whole."""
    from shlex import quote

    from gitbridge.attributes import paths_with_filter
    from gitbridge.large_files import staged_large_files
    from gitbridge.render import printable, size_text

    found = staged_large_files(repository)
    if not found:
        return
    shown = ", ".join(f"{printable(file.path)} ({size_text(file.nbytes)})" for file in found[:_NAMED_COUNT])
    shown += " …" if len(found) > _NAMED_COUNT else ""
    tracked = set(paths_with_filter(repository, [file.path for file in found]))
    patterns = dict.fromkeys(quote(file.pattern) for file in found[:_NAMED_COUNT] if file.path not in tracked)
    first = f"git theta track {' '.join(patterns)}" if patterns else "git theta install"  # tracked, but not filtered
    print(
        f"git theta: this commit keeps whole, for ever, in every clone: {shown}\n"
        f"hint: {first} && git add --renormalize . && git commit --amend --no-edit",
        file=sys.stderr,
    )


def _refuse_edited_pointers(repository: Repository) -> int:
    """Return 1, and say why, where the commit that is being made has pointers that nothing can be filled from."""
    from shlex import quote

    from gitbridge.checks.staged import edited_pointers
    from gitbridge.render import printable

    found = edited_pointers(repository)
    for file in found[:_NAMED_COUNT]:
        print(f"git theta: '{printable(file.path)}' cannot be committed so: {file.why}", file=sys.stderr)
    if found:
        names = " ".join(quote(f":/{file.path}") for file in found[:_NAMED_COUNT])
        print(
            "hint: weights are staged file by file, not by hunks, and their pointers never edited: "
            f"git restore --staged {names} && git add {names}",
            file=sys.stderr,
        )
    return 1 if found else 0
