"""Conflicts that a merge has left, by file: what `git theta status` shows and `git theta mergetool` decides.

One JSON file a path, `docs/format/conflicts.md`. The index has the three sides; here is only which tensors conflict,
and why what was asked for did not decide them. What was written down of other sides than the index has, or of a file
that is not unmerged any more, counts for nothing: nobody tells us of `git merge --abort`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from gitbridge.repository import Repository
from thetastore.digest import digest_of
from thetastore.sharing import share_as_above
from thetastore.tables import count_text

_SCHEMA = 1
_MAX_STATE_BYTES = 256 << 20
_MOST_NAMES = 3


class TensorConflict(NamedTuple):
    """One tensor that is not decided."""

    name: str
    kind: str
    """`both changed` and the like; see docs/merge.md."""
    reason: str = ""
    """Why the method that was asked for did not decide it."""


class ConflictState(NamedTuple):
    """The conflicts of one file."""

    path: str
    conflicts: tuple[TensorConflict, ...]
    trouble: str = ""
    """What kept the whole file from being merged."""
    sides: tuple[str, str] = ("", "")
    """Names of the blobs of ours and theirs."""


def conflict_directory(repository: Repository) -> str:
    """Return where the conflicts of a work tree are."""
    return os.path.join(repository.theta_dir, "conflicts")


def write_state(repository: Repository, state: ConflictState) -> None:
    """Write down what is in conflict, in one step."""
    import json

    place = _place(repository, state.path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    share_as_above(os.path.dirname(place))
    values = {
        "schema": _SCHEMA,
        "path": state.path,
        "sides": list(state.sides),
        "trouble": state.trouble,
        "conflicts": [one._asdict() for one in state.conflicts],
    }
    temporary = f"{place}.{os.getpid()}"
    with open(temporary, "w", encoding="ascii") as stream:
        json.dump(values, stream, indent=1)
    share_as_above(temporary)
    os.replace(temporary, place)


def read_states(repository: Repository, paths: Sequence[str]) -> list[ConflictState]:
    """Return what is written down of files that are in conflict as it says, in a form that is known."""
    read = [state for state in (_read(repository, path) for path in paths) if state is not None]
    sides = _sides_in_index(repository, [state.path for state in read])
    return [state for state in read if sides.get(state.path) == state.sides]


def _read(repository: Repository, path: str) -> ConflictState | None:
    import json

    try:
        with open(_place(repository, path), encoding="ascii") as stream:
            return _parsed(json.loads(stream.read(_MAX_STATE_BYTES)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sides_in_index(repository: Repository, paths: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the blobs of ours and theirs of unmerged files."""
    if not paths:
        return {}
    listed = repository.git("--literal-pathspecs", "ls-files", "-u", "-z", "--", *paths)
    found: dict[str, tuple[str, str]] = {}
    for item in listed.split(b"\0")[:-1]:
        head, _, name = item.partition(b"\t")
        _, oid, stage = head.decode().split()
        ours, theirs = found.get(os.fsdecode(name), ("", ""))
        found[os.fsdecode(name)] = (oid if stage == "2" else ours, oid if stage == "3" else theirs)
    return found


def remove_state(repository: Repository, path: str) -> None:
    """Forget the conflicts of a file."""
    try:
        os.unlink(_place(repository, path))
    except FileNotFoundError:
        pass


def lines_of(state: ConflictState) -> list[str]:
    """Return what is said of a file in conflict: tensors of one kind and reason in one line."""
    lines = [f"'{state.path}': {state.trouble}"] if state.trouble else []
    if state.conflicts:
        counted = count_text(len(state.conflicts), "tensor")
        lines.append(f"'{state.path}': {counted} in conflict; the file in the work tree is ours, whole")
    return lines + lines_of_kinds(state.conflicts)


def lines_of_kinds(conflicts: Sequence[TensorConflict]) -> list[str]:
    """Return a line for each kind of conflict and reason, with a few tensors that have it."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for one in conflicts:
        kinds.setdefault((one.kind, one.reason), []).append(one.name)
    lines = []
    for (kind, reason), names in kinds.items():
        shown = ", ".join(names[:_MOST_NAMES]) + (
            f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        )
        lines.append(f"  {kind}: {shown}" + (f" ({reason})" if reason else ""))
    return lines


def _place(repository: Repository, path: str) -> str:
    return os.path.join(conflict_directory(repository), f"{str(digest_of(os.fsencode(path)))[:32]}.json")


def _parsed(values: Any) -> ConflictState | None:
    if values["schema"] != _SCHEMA:
        return None
    conflicts = tuple(TensorConflict(**one) for one in values["conflicts"])
    ours, theirs = values["sides"]
    return ConflictState(str(values["path"]), conflicts, str(values["trouble"]), (str(ours), str(theirs)))
