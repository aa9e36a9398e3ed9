"""Refs to their new places, in one transaction; then index and work tree; and back again.

What is in the work tree stays: its bytes are those of the new commits. Only files that are not (pointers of another
tool that nobody had filled) are checked out anew. The old values are kept under `refs/theta/before/<number>/`. A
process that is killed at any moment leaves either the old refs or the new ones; `settle_pending` does the rest.
"""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from gitbridge.attributes import FILE_NAME
from gitbridge.errors import GitError, UsageError
from gitbridge.repository import Repository

KEPT = "refs/theta/before/"
_PENDING = "pending.json"


class Move(NamedTuple):
    """A ref that goes from one oid to another."""

    ref: str
    """Its full name, or `HEAD` where no branch is checked out."""
    old: str
    new: str


def directory_of(repository: Repository) -> str:
    """Return where migrations keep what they know, made if it is not there."""
    directory = os.path.join(repository.common_dir, "theta-migrate")
    os.makedirs(directory, exist_ok=True)
    return directory


def next_number(repository: Repository) -> int:
    """Return a number that no migration of this repository has had."""
    names = [name for name in os.listdir(directory_of(repository)) if name.isdigit()]
    return 1 + max([*map(int, names), *_kept_numbers(repository), 0])


def _kept_numbers(repository: Repository) -> list[int]:
    listed = repository.git("for-each-ref", "--format=%(refname)", KEPT).decode().splitlines()
    return [int(number) for name in listed if (number := name[len(KEPT) :].partition("/")[0]).isdigit()]


def land(repository: Repository, number: int, moves: list[Move], notes: list[str], commits: dict[str, str]) -> None:
    """Move refs, all or none, keep where they were, and put index and work tree right.

    Args:
        repository: where.
        number: of this migration.
        moves: what goes where.
        notes: refs of notes, which are copied to the new commits.
        commits: new oids by old ones.

    Raises:
        GitError: a ref has moved meanwhile, or is locked: then none was moved.
    """
    before = _head(repository)
    pending = {"number": number, "moves": moves, "notes": notes, "before": before, "is_undo": False}
    directory = os.path.join(directory_of(repository), str(number))
    os.makedirs(directory, exist_ok=True)
    listed = "".join(f"{old} {new}\n" for old, new in commits.items())
    _write_durably(os.path.join(directory, "commits"), listed.encode())
    _write_durably(os.path.join(directory, "refs"), json.dumps({move.ref: move.new for move in moves}).encode())
    _write_pending(repository, pending)
    kept = [f"create {KEPT}{number}/{_short(move.ref)} {move.old}\n" for move in moves]
    kept += [f"create {KEPT}{number}/{_short(ref)} {_oid(repository, ref)}\n" for ref in notes]
    _move(repository, moves, "git theta migrate", kept)
    settle_pending(repository)


def _short(ref: str) -> str:
    return ref.removeprefix("refs/")


def _oid(repository: Repository, ref: str) -> str:
    return repository.git("rev-parse", "--verify", ref).decode().strip()


def _head(repository: Repository) -> str:
    return repository.git("rev-parse", "--verify", "-q", "HEAD", check=False).decode().strip()


def _move(repository: Repository, moves: list[Move], why: str, more: list[str]) -> None:
    lines = [("option no-deref\n" if ref == "HEAD" else "") + f"update {ref} {new} {old}\n" for ref, old, new in moves]
    text = "start\n" + "".join([*lines, *more]) + "prepare\ncommit\n"
    try:
        repository.git("update-ref", "-m", why, "--stdin", input=text.encode("utf-8", "surrogateescape"))
    except GitError:
        os.unlink(_pending_path(repository))
        raise


def _pending_path(repository: Repository) -> str:
    return os.path.join(directory_of(repository), _PENDING)


def _write_pending(repository: Repository, pending: dict[str, object]) -> None:
    _write_durably(_pending_path(repository), json.dumps(pending).encode())


def _write_durably(path: str, content: bytes) -> None:
    """Replace a file in one step."""
    with open(f"{path}.new", "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(f"{path}.new", path)


def settle_pending(repository: Repository) -> bool:
    """Complete what a migration began once its refs had moved; tell whether there was anything to do."""
    try:
        with open(_pending_path(repository), "rb") as stream:
            pending = json.load(stream)
    except FileNotFoundError:
        return False
    moves = [Move(*move) for move in pending["moves"]]
    has_moved = all(_oid(repository, move.ref) == move.new for move in moves)
    if has_moved:
        if not pending["is_undo"]:
            _copy_notes(repository, pending["number"], pending["notes"])
        _settle(repository, pending["before"])
    os.unlink(_pending_path(repository))
    return has_moved


def _copy_notes(repository: Repository, number: int, notes: list[str]) -> None:
    with open(os.path.join(directory_of(repository), str(number), "commits"), encoding="ascii") as stream:
        commits = dict(line.split() for line in stream)
    for ref in notes:
        listed = repository.git("notes", f"--ref={ref}", "list").decode("ascii").split()[1::2]
        lines = "".join(f"{old} {commits[old]}\n" for old in listed if old in commits)
        if lines:
            repository.git("notes", f"--ref={ref}", "copy", "-f", "--stdin", input=lines.encode())


def _settle(repository: Repository, before: str) -> None:
    """Put index and work tree right after the commit that is checked out has become another one."""
    if repository.work_tree is None or _head(repository) == before:
        return
    changed = _names(repository, "diff-tree", "-r", "-z", "--name-only", "--no-renames", before, "HEAD")
    repository.git("read-tree", "--reset", "HEAD")
    _check_out(repository, [name for name in changed if os.path.basename(name) == FILE_NAME])
    repository.git("update-index", "-q", "--refresh", check=False)
    _check_out(repository, _names(repository, "diff-files", "-z", "--name-only"))
    gone = set(changed) - set(_names(repository, "ls-files", "-z"))
    for name in gone:
        _remove(repository, name)


def _names(repository: Repository, *command: str) -> list[str]:
    return [os.fsdecode(name) for name in repository.git(*command).split(b"\0")[:-1]]


def _check_out(repository: Repository, names: list[str]) -> None:
    there = set(_names(repository, "ls-files", "-z", "-t")) if names else set()
    wanted = b"".join(os.fsencode(name) + b"\0" for name in names if f"H {name}" in there)
    if wanted:
        repository.git(
            "--literal-pathspecs", "checkout", "-q", "-f", "--pathspec-from-file=-", "--pathspec-file-nul", input=wanted
        )
    for name in names:
        if f"H {name}" not in there and f"S {name}" not in there:
            _remove(repository, name)


def _remove(repository: Repository, name: str) -> None:
    path = os.path.join(repository.work_tree or "", name)
    if os.path.lexists(path):
        os.unlink(path)


def undo(repository: Repository) -> list[Move]:
    """Put back the refs that the last migration moved; return how they went.

    Raises:
        UsageError: there was none, or a ref has moved since.
    """
    numbers = _kept_numbers(repository)
    if not numbers:
        raise UsageError("there is no migration to take back", "git theta migrate info says what could be migrated")
    number = max(numbers)
    prefix = f"{KEPT}{number}/"
    listed = repository.git("for-each-ref", "--format=%(refname) %(objectname)", prefix).decode().splitlines()
    kept = dict(line.rsplit(" ", 1) for line in listed)
    moved = _landed(repository, number)
    moves = []
    for name, old in kept.items():
        ref = "HEAD" if name == prefix + "HEAD" else "refs/" + name[len(prefix) :]
        now = _oid(repository, ref)
        if ref in moved and now != moved[ref]:
            raise UsageError(
                f"'{_short(ref)}' has moved since the migration, and going back would lose that",
                f"the history before it is {name}; to go back by hand: git branch old {name}",
            )
        moves.append(Move(ref, now, old))
    before = _head(repository)
    _write_pending(repository, {"number": number, "moves": moves, "notes": [], "before": before, "is_undo": True})
    _move(repository, moves, "git theta migrate undo", [f"delete {name} {oid}\n" for name, oid in kept.items()])
    settle_pending(repository)
    return moves


def _landed(repository: Repository, number: int) -> dict[str, str]:
    """Return where a migration moved the refs of commits and tags to."""
    try:
        with open(os.path.join(directory_of(repository), str(number), "refs"), "rb") as stream:
            moved: dict[str, str] = json.load(stream)
    except FileNotFoundError:
        return {}
    return moved


def forget(repository: Repository) -> int:
    """Give up what `undo` would need; return how many refs went."""
    listed = repository.git("for-each-ref", "--format=delete %(refname)", KEPT)
    repository.git("update-ref", "--stdin", input=listed)
    return len(listed.splitlines())
