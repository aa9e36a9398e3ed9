"""A three-way merge of checkpoints: decide, mix what conflicts by rules, assemble the file.

Nothing is written here. `three_way_merge` says at once what is known from names and shapes; numbers are read when the
result's `source` is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, NamedTuple

from thetastore.checkpoints.ingest import Source
from thetastore.layout import Tensor
from thetastore.merging import MergeError
from thetastore.merging import assembling as assembly
from thetastore.merging.checkpoints import Checkpoint
from thetastore.merging.mixing import Part, Result, Rule, copied, plan
from thetastore.merging.three_way import Decision, decide


class Sides(NamedTuple):
    """The three sides."""

    base: Checkpoint
    ours: Checkpoint
    theirs: Checkpoint

    def part(self, decision: Decision, side: str) -> Part | None:
        """Return a decision's tensor on a side, or None where it is absent."""
        found = decision.side(side)
        return None if found is None else Part(getattr(self, side), found.name)


class Conflict(NamedTuple):
    """A tensor that nothing decides."""

    decision: Decision
    reason: str
    """Why the rule that was given does not decide it; empty where none was."""
    hint: str = ""


class Mixed(NamedTuple):
    """A conflict that a rule decided."""

    decision: Decision
    rule: Rule


class Merge(NamedTuple):
    """What came of it."""

    sides: Sides
    decisions: list[Decision]
    results: list[Result]
    """Every tensor of the result; those in conflict are not among them."""
    mixed: list[Mixed]
    conflicts: list[Conflict]

    def taken(self, side: str) -> list[Decision]:
        """Return the decisions for a side that change what ours has, or, for `ours`, what theirs has."""
        other = "ours" if side == "theirs" else "theirs"
        return [one for one in self.decisions if one.taken == side and one.side(other) != one.result]


_NUMBERED = frozenset({"torch-dcp"})
"""Formats of files that number their tensors; names are in another file."""

RuleFor = Callable[[Decision], Rule | None]
"""Which rule decides a conflict; None for none."""


def three_way_merge(sides: Sides, rule_for: RuleFor) -> Merge:
    """Decide about every tensor of three checkpoints.

    Args:
        sides: must stay open until the results' pieces have been read.
        rule_for: asked for each conflict.

    Raises:
        MergeError: a side has no tensors that are known (it is not that it deleted them all), or they have no names.
    """
    check_names(sides)
    for side in (sides.ours, sides.theirs):
        if not side.tensors:
            raise MergeError(
                f"the tensors of '{side.label}' are not known, so it cannot be merged by them",
                "take one side whole: git checkout --ours (or --theirs) -- FILE, then git add FILE",
            )
    decisions = decide(sides.base.table(), sides.ours.table(), sides.theirs.table())
    merge = Merge(sides, decisions, [], [], [])
    for decision in decisions:
        if decision.taken is None:
            _decide_conflict(merge, decision, rule_for(decision))
            continue
        part = sides.part(decision, decision.taken)
        if part is not None:
            merge.results.append(_copied(decision.name, part))
    return merge


def check_names(sides: Sides) -> None:
    """Refuse files whose tensors are only numbered: another sharding, and a number is another tensor.

    Raises:
        MergeError: a side is a part of a model of several files.
    """
    for side in sides:
        if side.format in _NUMBERED:
            raise MergeError(
                f"its tensors ('{side.label}') have numbers for names: it is a part of a model of several files",
                "take all files of one side: git checkout --ours (or --theirs) -- DIRECTORY, then git add DIRECTORY",
            )


def _copied(name: str, part: Part) -> Result:
    return copied(name, part, part.checkpoint.table()[part.name])


def _decide_conflict(merge: Merge, decision: Decision, rule: Rule | None) -> None:
    if rule is None:
        merge.conflicts.append(Conflict(decision, ""))
        return
    try:
        result = _by_rule(merge.sides, decision, rule)
    except MergeError as error:
        merge.conflicts.append(Conflict(decision, error.message, error.hint))
        return
    if result is not None:
        merge.results.append(result)
    merge.mixed.append(Mixed(decision, rule))


def _by_rule(sides: Sides, decision: Decision, rule: Rule) -> Result | None:
    """Return the tensor that a rule makes of a conflict; None where it chooses a side that has none.

    Raises:
        MergeError: the rule does not fit.
    """
    method = rule.method
    if method.name in ("ours", "theirs", "base"):
        part = sides.part(decision, method.name)
        if part is None and method.name == "base" and decision.base is None:
            raise MergeError("the base has no such tensor", "take ours or theirs")
        name = part.name if part is not None and decision.conflict == "renamed twice" else decision.name
        return None if part is None else _copied(name, part)
    ours, theirs, base = (sides.part(decision, side) for side in ("ours", "theirs", "base"))
    if ours is None or theirs is None:
        raise MergeError("there is nothing to mix", "take ours or theirs")
    if decision.conflict == "renamed twice":
        raise MergeError(f"both sides renamed it: '{ours.name}' and '{theirs.name}'", "take ours or theirs")
    result = plan(decision.name, rule, base, [ours, theirs], _importances(sides, rule, decision))
    # Tied tensors have one place in a file. They must not differ by what chance makes of their names.
    contents = [found and found.content for found in (decision.base, decision.ours, decision.theirs)]
    return result._replace(key=("mixed", rule.text(), *contents))


def _importances(sides: Sides, rule: Rule, decision: Decision) -> Sequence[Part]:
    """Return for each side how much its elements count, from the checkpoints that the rule was given."""
    if not rule.method.needs_importances:
        return ()
    if len(rule.importances) != 2:
        raise MergeError(
            f"method '{rule.method.name}' needs a checkpoint of importances for each side", "fisher=OURS,THEIRS"
        )
    parts = []
    for checkpoint, side in zip(rule.importances, ("ours", "theirs"), strict=True):
        found = decision.side(side)
        if found is None or found.name not in checkpoint.tensors:
            raise MergeError(f"'{checkpoint.label}' has no tensor '{decision.name}'")
        parts.append(Part(checkpoint, found.name))
    return parts


# The file


def source_of(merge: Merge, scratch: Callable[[], IO[bytes]]) -> Source:
    """Return the file of a merge without conflicts.

    Args:
        merge: what was decided.
        scratch: makes an empty file, for formats with checksums.

    Raises:
        MergeError: the format of ours cannot hold the result. While it is read: the numbers do not allow a mix.
    """
    assert not merge.conflicts, "a file with conflicts is ours"
    layout = _layout_side(merge)
    if layout is not None:
        return assembly.in_place(merge.results, layout, scratch() if assembly.needs_scratch(layout) else None)
    ours = merge.sides.ours
    if ours.format != "safetensors":
        raise MergeError(
            f"the result cannot be written as {ours.format or 'one file'}: "
            + assembly.why_not_in_place(merge.results, ours),
            "take one side whole, or convert the checkpoints to safetensors",
        )
    return assembly.composed(merge.results, _merged_metadata(merge.sides))


def _layout_side(merge: Merge) -> Checkpoint | None:
    """Return whose header and order the file has: ours, or theirs if ours did not change that; None for a new one."""
    base, ours, theirs = merge.sides
    ours_fits, theirs_fits = (not assembly.why_not_in_place(merge.results, side) for side in (ours, theirs))
    if ours_fits and theirs_fits and base.format == ours.format:
        before, here, there = (assembly.skeleton_digest(side) for side in (base, ours, theirs))
        return theirs if before == here != there else ours
    if ours_fits:
        return ours
    return theirs if theirs_fits and theirs.format == ours.format else None


def _merged_metadata(sides: Sides) -> dict[str, str]:
    """Merge the texts beside the tensors key by key; what both changed is ours."""
    base, ours, theirs = (assembly.metadata_of(side) for side in sides)
    merged = {}
    for key in sorted({*ours, *theirs}):
        value = theirs.get(key) if ours.get(key) == base.get(key) else ours.get(key)
        if value is not None:
            merged[key] = value
    return merged


def placed(merge: Merge) -> dict[str, Tensor]:
    """Return dtype and shape that each tensor of the result must have."""
    return {one.name: Tensor(one.name, one.dtype, one.shape, 0) for one in merge.results}
