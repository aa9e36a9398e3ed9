"""Conflicts that a merge has left, by file: what `git theta status` shows and `git theta mergetool` decides.

One JSON file a path, in `$GIT_DIR/theta/conflicts`. The index has the three sides; here is only which tensors conflict,
and why what was asked for did not decide them. A file whose path is not unmerged any more counts for nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from gitbridge.repository import Repository
from thetastore.digest import digest_of

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


def conflict_directory(repository: Repository) -> str:
    """Return where the conflicts of a work tree are."""
    return os.path.join(repository.theta_dir, "conflicts")


def write_state(repository: Repository, state: ConflictState) -> None:
    """Write down what is in conflict, in one step."""
    import json

    place = _place(repository, state.path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    values = {
        "schema": _SCHEMA,
        "path": state.path,
        "trouble": state.trouble,
        "conflicts": [one._asdict() for one in state.conflicts],
    }
    temporary = f"{place}.{os.getpid()}"
    with open(temporary, "w", encoding="ascii") as stream:
        json.dump(values, stream, indent=1)
    os.replace(temporary, place)


def read_state(repository: Repository, path: str) -> ConflictState | None:
    """Return the conflicts of a file; None where none are written down, or not in a form that is known."""
    import json

    try:
        with open(_place(repository, path), encoding="ascii") as stream:
            return _parsed(json.loads(stream.read(_MAX_STATE_BYTES)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_state(repository: Repository, path: str) -> None:
    """Forget the conflicts of a file."""
    try:
        os.unlink(_place(repository, path))
    except FileNotFoundError:
        pass


def read_states(repository: Repository, paths: Sequence[str]) -> list[ConflictState]:
    """Return what is written down of some paths: those that are unmerged."""
    found = (read_state(repository, path) for path in paths)
    return [state for state in found if state is not None]


def lines_of(state: ConflictState) -> list[str]:
    """Return what is said of a file in conflict: tensors of one kind and reason in one line."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for one in state.conflicts:
        kinds.setdefault((one.kind, one.reason), []).append(one.name)
    lines = [f"'{state.path}': {state.trouble}"] if state.trouble else []
    if state.conflicts:
        count = len(state.conflicts)
        counted = f"{count} tensor{'' if count == 1 else 's'}"
        lines.append(f"'{state.path}': {counted} in conflict; the file in the work tree is ours, whole")
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
    return ConflictState(str(values["path"]), conflicts, str(values["trouble"]))
