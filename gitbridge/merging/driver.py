"""One call of the merge driver in which both sides changed the weights.

Nothing of git's is written but the file with the result, in one step, at the very end: whatever happens before, ours is
in it. In the merge of two merge bases (criss-cross histories) nobody can be asked: what nothing decides is taken from
their own base there, so that it conflicts in the merge itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from gitbridge.blobs import blob_oid
from gitbridge.errors import words_for
from gitbridge.merge_states import ConflictState, TensorConflict, lines_of, remove_state, write_state
from gitbridge.merging.opening import importance_opener
from gitbridge.merging.results import Merged, rules_used, store_result
from gitbridge.merging.rules import Rules, rules_for
from gitbridge.merging.sides import open_sides
from gitbridge.merging.trailers import leave_note, trailer_text
from gitbridge.repository import Repository
from thetastore.errors import ThetaError
from thetastore.merging import MergeError
from thetastore.merging.merge import Conflict, Merge, Sides, check_names, three_way_merge
from thetastore.merging.mixing import Rule
from thetastore.merging.registry import find_method
from thetastore.merging.three_way import Decision
from thetastore.store import Store

CLEAN, CONFLICT = 0, 1
"""No status above 128: with one, newer gits stop the whole merge, so that nobody could decide about the file."""


class Texts(NamedTuple):
    """What git has of the file on the three sides."""

    base: bytes
    ours: bytes
    theirs: bytes


class Outcome(NamedTuple):
    """What is to be told to git, and to the user."""

    status: int
    pointer: bytes | None
    """The result; None leaves ours."""
    lines: tuple[str, ...]


def merge_texts(repository: Repository, texts: Texts, path: str, is_virtual: bool) -> Outcome:
    """Merge a file of weights.

    Args:
        repository: where git merges.
        texts: pointers, plain files, or nothing.
        path: of the file, from the top of the work tree.
        is_virtual: the result is a merge base, nobody's file.
    """
    call = _Call(repository, path, texts, is_virtual)
    try:
        rules = rules_for(repository, path)
        with repository.open_store() as store:
            return _merged(call, store, rules)
    except (ThetaError, OSError) as error:
        return _refused(call, error)


class _Call(NamedTuple):
    """One call of the driver."""

    repository: Repository
    path: str
    texts: Texts
    is_virtual: bool

    def state(self, conflicts: tuple[TensorConflict, ...], trouble: str) -> ConflictState:
        """Return what is to be written down."""
        object_format = self.repository.object_format
        ours, theirs = (blob_oid(text, object_format).hex() for text in (self.texts.ours, self.texts.theirs))
        return ConflictState(self.path, conflicts, trouble, (ours, theirs))


def _refused(call: _Call, error: Exception) -> Outcome:
    """Leave ours, and say what to mend; merging again is the way to have what was set."""
    message, hint = words_for(error)
    if not call.is_virtual:
        write_state(call.repository, call.state((), f"{message}; {hint}" if hint else message))
    lines = [f"'{call.path}' is not merged: {message}", *([f"hint: {hint}"] if hint else []), f"hint: {_AGAIN}"]
    return Outcome(CONFLICT, None, tuple(lines))


_AGAIN = "ours is as it was. Mend that, abort this merge (or rebase, ...) and begin it again; or git theta mergetool"


def _merged(call: _Call, store: Store, rules: Rules) -> Outcome:
    repository, path, is_virtual = call.repository, call.path, call.is_virtual
    sides = open_sides(repository, store, path, *call.texts)
    check_names(sides)
    if not (sides.ours.tensors and sides.theirs.tensors):
        return _undecided(call, [], "its tensors are not known, so it cannot be merged by them")
    names = {name for side in sides for name in side.tensors}
    rules.check(names, path)
    rules = rules.with_importances(importance_opener(repository, store))
    merge = three_way_merge(sides, lambda decision: _rule(rules, decision, is_virtual))
    if is_virtual:
        merge = _with_base_in_conflicts(sides, merge)
    if merge.conflicts:
        return _undecided(call, merge.conflicts, "")
    try:
        merged = store_result(repository, store, merge, path)
    except MergeError as error:
        if is_virtual:
            merged = store_result(repository, store, _all_from_base(sides), path)
            return Outcome(CLEAN, merged.pointer, ())
        conflicts = [Conflict(one.decision, "") for one in merge.mixed]
        return _undecided(call, conflicts, str(error))
    if is_virtual:
        return Outcome(CLEAN, merged.pointer, ())
    return _clean(repository, path, merge, merged)


def _rule(rules: Rules, decision: Decision, is_virtual: bool) -> Rule | None:
    rule = rules.for_tensor(decision.name)
    return rule if rule is not None or not is_virtual else Rule(find_method("base"), {})


def _with_base_in_conflicts(sides: Sides, merge: Merge) -> Merge:
    """Take the base for what a rule did not decide; a tensor that the base lacks is left out."""
    undecided = {one.decision for one in merge.conflicts}
    if not undecided:
        return merge
    base = Rule(find_method("base"), {})
    by_rule = dict(merge.mixed)
    again = three_way_merge(sides, lambda decision: base if decision in undecided else by_rule[decision])
    return again._replace(conflicts=[])


def _all_from_base(sides: Sides) -> Merge:
    base = Rule(find_method("base"), {})
    return three_way_merge(sides, lambda decision: base)._replace(conflicts=[])


def _clean(repository: Repository, path: str, merge: Merge, merged: Merged) -> Outcome:
    remove_state(repository, path)
    used = rules_used(merge)
    if used:
        leave_note(repository, path, merged.pointer, trailer_text(path, used))
    taken = len(merge.taken("theirs"))
    lines = [f"'{path}': merged" + (f", {_counted(taken)} taken from theirs" if taken else "")]
    lines += [f"  {rule}: {_counted(len(names))} ({source})" for (rule, source), names in used.items()]
    return Outcome(CLEAN, merged.pointer, tuple(lines))


def _undecided(call: _Call, conflicts: list[Conflict], trouble: str) -> Outcome:
    """Leave ours, and write down what conflicts."""
    from shlex import quote

    if call.is_virtual:
        return Outcome(CONFLICT, None, ())
    found = conflicts_of(conflicts)
    state = call.state(found, trouble)
    write_state(call.repository, state)
    path = call.path
    hint = f"hint: git theta mergetool {quote(path)} decides, by tensor or for all"
    if not found:
        hint = (
            f"hint: git checkout --theirs -- {quote(path)} takes theirs whole; then, as for ours: git add {quote(path)}"
        )
    return Outcome(CONFLICT, None, (*lines_of(state), hint))


def conflicts_of(conflicts: Sequence[Conflict]) -> tuple[TensorConflict, ...]:
    """Return conflicts as they are written down and shown."""
    return tuple(
        TensorConflict(one.decision.name, one.decision.conflict, "; ".join(filter(None, (one.reason, one.hint))))
        for one in conflicts
    )


def _counted(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def write_whole(path: str, text: bytes) -> None:
    """Replace a file in one step."""
    temporary = f"{path}.theta-{os.getpid()}"
    with open(temporary, "wb") as stream:
        stream.write(text)
    os.replace(temporary, path)
