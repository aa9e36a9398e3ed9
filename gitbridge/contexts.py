"""Which git command asks for a file, told from what the filter protocol says, and what it gets.

`docs/git-contexts.md` lists the commands and how this was found out. The rule: git keeps whatever we answer in
memory, so a large file is answered with its pointer wherever the whole file can be put in its place before
anybody looks; and with its bytes where it cannot.
"""

from __future__ import annotations

import enum
import os
from typing import NamedTuple

from gitbridge import hooks
from gitbridge.caller import git_command
from gitbridge.repository import Repository

_REBASE = "rebase-merge"
_HOOKS_AFTER_CHECKOUT = ("post-checkout", "post-merge", "post-rewrite")
"""Git runs these before it closes our input. Our lines in them complete the fill; see `gitbridge.hooks`."""
_HOOKS_AFTER_MERGE = ("pre-merge-commit", "post-commit")
"""The same for merge, cherry-pick, revert and rebase; we have no lines in these."""


class Answer(enum.Enum):
    """What a request for a tracked file gets."""

    FILL = enum.auto()
    """The pointer; the whole file is ready beside it, and takes its place when git is done."""
    BYTES = enum.auto()
    """The file itself, through git's memory."""
    POINTER = enum.auto()
    """The pointer, since a diff wants just that; if it lands in the work tree, it is filled then."""


class Request(NamedTuple):
    """What git says of a file that it wants smudged."""

    path: bytes
    can_delay: bool
    treeish: str | None
    """The commit or tree being checked out or archived."""
    blob: str | None
    """Oid of the blob that holds the pointer."""

    @classmethod
    def parse(cls, fields: dict[bytes, bytes]) -> Request:
        """Read the fields of a smudge request."""
        treeish = fields.get(b"treeish") or fields.get(b"ref")
        blob = fields.get(b"blob")
        return cls(
            fields[b"pathname"],
            fields.get(b"can-delay") == b"1",
            treeish.decode("utf-8", "surrogateescape") if treeish else None,
            blob.decode("ascii", "replace") if blob else None,
        )


def is_for_diff(request: Request) -> bool:
    """Tell whether a request is what a diff sends, and a few others that only the command line tells from it."""
    return bool(request.blob) and not request.can_delay and not request.treeish


def leaves_work_tree(command: list[bytes]) -> bool:
    """Tell whether a git command hands the file to somebody else: nobody would ever fill a pointer there."""
    options = (b"--prefix=", b"--temp")
    return command[:1] == [b"cat-file"] or (
        command[:1] == [b"checkout-index"] and any(word.startswith(options) for word in command[1:])
    )


class Contexts:
    """Answers for one process, which serves one git command."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._hooks: dict[str, hooks.Hook] = {}
        self._run: dict[str, bool] = {}
        self._leaves_work_tree: bool | None = None

    def answer(self, request: Request) -> Answer:
        """Tell what a request gets."""
        if is_for_diff(request):
            return Answer.BYTES if self._bytes_leave() else Answer.POINTER
        if request.can_delay and request.blob and self._repository.work_tree:
            return Answer.BYTES if self._programs_come_first(request) else Answer.FILL
        return Answer.BYTES

    def _bytes_leave(self) -> bool:
        if self._leaves_work_tree is None:
            self._leaves_work_tree = leaves_work_tree(git_command())
        return self._leaves_work_tree

    def _programs_come_first(self, request: Request) -> bool:
        """Tell whether git will run a program of the user's on the work tree before it lets us fill."""
        if is_rebasing(self._repository):
            # Our lines in the hooks fill nothing during a rebase, see `materialize.complete_living`.
            todo = os.path.join(self._repository.git_dir, _REBASE, "git-rebase-todo")
            names = (*_HOOKS_AFTER_CHECKOUT, *_HOOKS_AFTER_MERGE)
            return _has_exec(todo) or any(not self._hook(name).is_ours_alone for name in names if self._runs(name))
        # Without a tree, can-delay comes from the merge machinery, whose commands go on to make commits.
        names = (*_HOOKS_AFTER_CHECKOUT, *(_HOOKS_AFTER_MERGE if request.treeish is None else ()))
        return any(not self._hook(name).has_ours for name in names if self._runs(name))

    def _runs(self, name: str) -> bool:
        """Tell whether git will run a hook; asked once, since there may be a thousand files."""
        if name not in self._run:
            self._run[name] = os.access(self._hook(name).path, os.X_OK)
        return self._run[name]

    def _hook(self, name: str) -> hooks.Hook:
        if name not in self._hooks:
            self._hooks[name] = hooks.read_hook(os.path.join(hooks.hooks_dir(self._repository), name))
        return self._hooks[name]


def is_rebasing(repository: Repository) -> bool:
    """Tell whether a rebase is going on that keeps one git process, and its index in memory, over many commits."""
    return os.path.isdir(os.path.join(repository.git_dir, _REBASE))


def _has_exec(todo_path: str) -> bool:
    """Tell whether what is left of a rebase runs commands."""
    try:
        with open(todo_path, "rb") as stream:
            return any(line.split(None, 1)[:1] in ([b"exec"], [b"x"]) for line in stream)
    except OSError:
        return False
