"""A diff as text for a terminal, and as `--name-status` for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gitbridge.diffing import FileDiff, ordered
from gitbridge.groups import Group, by_layer, by_module
from gitbridge.render import count_text, printable, table
from gitbridge.reports.figures import (
    LETTERS,
    cosine_text,
    group_relative_text,
    kind_text,
    name_text,
    number_text,
    relative_text,
    remark_text,
    share_of,
    share_text,
)
from thetastore.comparing.changes import KINDS
from thetastore.comparing.comparison import Measured
from thetastore.output import Paint

_COLOURS = {"added": "green", "removed": "red"}
_MOST_GROUPS = 100
"""Layers, or modules, that are listed: what has more is no stack of layers."""


def name_status(diffs: Sequence[FileDiff], order: str, top: int | None) -> Iterator[str]:
    """Yield a line a tensor: letter, path, tensor, of renamed ones old and new name; tabs between."""
    for diff in diffs:
        path = printable(diff.two.path)
        if diff.outside:
            yield f"X\t{path}\t\n"
        for measured in ordered(diff.changes, order, top):
            change = measured.change
            names = [printable(change.name)]
            if change.before and change.after and change.before.name != change.after.name:
                names.insert(0, printable(change.before.name))
            yield "\t".join([LETTERS[change.kind], path, *names]) + "\n"


def diff_text(
    diffs: Sequence[FileDiff], order: str, top: int | None, with_tensors: bool, paint: Paint
) -> Iterator[str]:
    """Yield the pieces of the text for people.

    Args:
        diffs: what changed.
        order: of the tensors.
        top: at most so many tensors of a file; None for all.
        with_tensors: False leaves the tensors out, and keeps the sums.
        paint: puts colours in, or leaves a text as it is.
    """
    for position, diff in enumerate(diffs):
        yield "\n" if position else ""
        yield paint(heading(diff), "bold") + "\n"
        if diff.outside:
            yield f"  {printable(diff.outside)}\n"
        if with_tensors and diff.changes:
            shown = ordered(diff.changes, order, top)
            yield "\n" + _tensor_table(shown, paint)
            if len(shown) < len(diff.changes):
                yield f"  ... and {len(diff.changes) - len(shown)} more\n"
        yield from _summaries(diff)


def heading(diff: FileDiff) -> str:
    """Return one line about a file."""
    before, after = diff.two.sides
    path = printable(diff.two.path)
    if before is not None and after is not None and before.path != after.path:
        path = f"{printable(before.path)} -> {path}"
    said = f"{path}: {_counts(diff)}"
    sides = [version.where for version in diff.two.sides if version is not None and version.where]
    if before is None or after is None:
        return f"{said}  ({'added in' if before is None else 'not in'} {_other(diff)})"
    return f"{said}  ({' -> '.join(sides)})" if len(sides) == 2 else said


def _other(diff: FileDiff) -> str:
    version = diff.two.after or diff.two.before
    assert version is not None, "one of two versions is there"
    return version.where if diff.two.after is not None else f"the newer version; {version.where} has it"


def _counts(diff: FileDiff) -> str:
    total = len(diff.changes) + len(diff.unchanged)
    kinds = [(kind, sum(one.change.kind == kind for one in diff.changes)) for kind in KINDS]
    said = ", ".join(f"{count} {kind}" for kind, count in kinds if count)
    return f"{said} of {count_text(total, 'tensor')}" if said else f"no change in {count_text(total, 'tensor')}"


def _tensor_table(shown: Sequence[Measured], paint: Paint) -> str:
    rows = [("", "changed", "relative", "L2", "max", "cosine", "looks", "type and shape", "tensor")]
    for one in shown:
        moments = one.moments
        rows.append(
            (
                paint(LETTERS[one.change.kind], _COLOURS.get(one.change.kind, "yellow")),
                share_of(one),
                relative_text(moments),
                number_text(moments.change_norm) if moments else "-",
                number_text(moments.largest) if moments else "-",
                cosine_text(moments),
                remark_text(one),
                kind_text(one),
                name_text(one),
            )
        )
    return table(rows, right=(1, 2, 3, 4, 5), indent="  ")


def _summaries(diff: FileDiff) -> Iterator[str]:
    if not any(one.moments or one.compared for one in diff.changes):
        return
    layers, modules = by_layer(diff), by_module(diff)
    if len(layers) > 1:
        yield "\n" + _group_table("layer", layers)
    if len(modules) > 1 and len(layers) > 1:
        yield "\n" + _group_table("module", modules)


def _group_table(title: str, groups: Sequence[Group]) -> str:
    head = (title, "tensors", "elements", "relative", "L2")
    chosen = groups if len(groups) <= _MOST_GROUPS else [group for group in groups if group.changed_count]
    rows = [
        (
            printable(group.label),
            f"{group.changed_count}/{group.tensor_count}",
            share_text(group.changed_elements, group.element_count),
            group_relative_text(group),
            number_text(group.change_norm) if group.changed_count else "-",
        )
        for group in chosen[:_MOST_GROUPS]
    ]
    more = f"  ... and {len(chosen) - len(rows)} more that changed\n" if len(chosen) > len(rows) else ""
    same = f"  ... and {len(groups) - len(chosen)} in which nothing did\n" if len(groups) > len(chosen) else ""
    return table([head, *rows], right=(1, 2, 3, 4), indent="  ") + more + same
