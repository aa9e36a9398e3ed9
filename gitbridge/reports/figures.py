"""How the figures of a diff are written, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gitbridge.groups import Group
from gitbridge.render import printable, shape_text
from thetastore.comparing.changes import ADDED, CHANGED, RECAST, REMOVED, RENAMED, RESHAPED, Entry
from thetastore.comparing.comparison import Measured
from thetastore.statistics.moments import Moments

LETTERS = {CHANGED: "M", RECAST: "T", RESHAPED: "S", RENAMED: "R", ADDED: "A", REMOVED: "D"}
"""What stands for a kind of change, as near as can be to git's letters; `S` is a shape, `T` a type."""


def number_text(value: float) -> str:
    """Return a number in three significant digits: `0.0123`, `1.23e-05`, `456`."""
    return "0" if value == 0 else f"{value:.3g}"


def share_text(part: int, whole: int) -> str:
    """Return a share in per cent; never 0 where there is something, nor 100 where something is left."""
    if not part or not whole:
        return "0%"
    percent = 100 * part / whole
    if part < whole and percent > 99.9:
        return ">99.9%"
    return "<0.01%" if percent < 0.01 else f"{percent:.3g}%"


def relative_text(moments: Moments | None) -> str:
    """Return the norm of a change over that of what was there; with `<` where unread chunks would make it less."""
    if moments is None:
        return "-"
    relative = moments.relative
    if relative is None:
        return "inf" if moments.change_norm else "0"
    bound = "" if moments.has_read_all or not relative else "<"
    return bound + number_text(relative)


def group_relative_text(group: Group) -> str:
    """Return the same of a layer or a module."""
    if group.relative is None or not group.changed_count:
        return "-"
    return ("<" if group.is_bound and group.relative else "") + number_text(group.relative)


def cosine_text(moments: Moments | None) -> str:
    """Return the cosine of before and after; with `>` where it is a bound."""
    cosine = moments.cosine if moments is not None else None
    if cosine is None or moments is None:
        return "-"
    is_bound = moments.change_norm and not moments.has_read_all
    return (">" if is_bound else "") + f"{cosine:.6f}"


def looks_text(measured: Measured) -> str:
    """Return what a change looks like, in a few words."""
    looks, rows = measured.looks, measured.rows
    if measured.change.kind == RENAMED and looks is not None and looks.word == "same":
        return ""
    if looks is None:
        return "other bytes" if measured.compared else ""
    if looks.word == "sparse":
        is_of_rows = rows is not None and rows[0] * 20 <= rows[1]
        return f"sparse: {rows[0]} of {rows[1]} rows" if rows and is_of_rows else "sparse"
    words = {
        "same": "same values",
        "bits": "other bits, same values",
        "not-finite": "nothing that is finite",
        "rounded": "rounded only",
        "scaled": f"scaled by {looks.factor:.4g}" if looks.factor is not None else "scaled",
        "low-rank": f"low-rank: {looks.rank}",
    }
    return words.get(looks.word, looks.word)


def kind_text(measured: Measured) -> str:
    """Return type and shape, with an arrow where they changed."""
    before, after = measured.change.before, measured.change.after
    if before is None or after is None:
        return _typed(after or before)
    dtype = after.dtype if before.dtype == after.dtype else f"{before.dtype} -> {after.dtype}"
    shape = shape_text(after.shape)
    return f"{dtype} {shape}" if before.shape == after.shape else f"{dtype} {shape_text(before.shape)} -> {shape}"


def _typed(entry: Entry | None) -> str:
    assert entry is not None, "a change has a side"
    return f"{entry.dtype} {shape_text(entry.shape)}"


def name_text(measured: Measured) -> str:
    """Return the name, with the old one where it was renamed."""
    before, after = measured.change.before, measured.change.after
    if before is not None and after is not None and before.name != after.name:
        return f"{printable(before.name)} -> {printable(after.name)}"
    return printable(measured.change.name)


def odd_text(measured: Measured) -> str:
    """Say how many values are not finite, where there are any; else nothing."""
    moments = measured.moments
    if moments is None:
        return ""
    pairs = (("NaN", moments.nan_before, moments.nan_after), ("inf", moments.inf_before, moments.inf_after))
    said = [f"{name} {_arrow(before, after)}" for name, before, after in pairs if before or after]
    return ", ".join(said)


def _arrow(before: int, after: int) -> str:
    return str(after) if before == after else f"{before} -> {after}"


def remark_text(measured: Measured) -> str:
    """Return what a change looks like, and what else is to be known of it."""
    compared = measured.compared
    after = measured.change.after
    said = [looks_text(measured), odd_text(measured)]
    if measured.moments is not None and after is not None and compared < after.element_count:
        said.append(f"first {measured.moments.pair.after.shape[0]} rows compared")
    if "rank" in measured.metrics.get("spectrum", {}):
        said.append(f"rank {measured.metrics['spectrum']['rank']} exactly")
    said += [_metric_text(name, values) for name, values in measured.metrics.items() if name not in _DRAWN]
    return ", ".join(word for word in said if word)


_DRAWN = ("histogram", "sketch", "spectrum")
"""Metrics whose figures are plots."""


def _metric_text(name: str, figures: Mapping[str, Any]) -> str:
    """Return what another package's metric says, as far as it is numbers and words; or how it failed."""
    if "error" in figures:
        return printable(f"{name}: {figures['error']}")
    plain = {key: value for key, value in figures.items() if isinstance(value, int | float | str)}
    return printable(" ".join([f"{name}:", *(f"{key} {_plain_text(value)}" for key, value in plain.items())]))


def _plain_text(value: float | str) -> str:
    return number_text(value) if isinstance(value, float) else str(value)


def share_of(measured: Measured) -> str:
    """Return the share of what changed, in elements, or in blocks where there are none; `-` where it is not known."""
    return share_text(measured.changed, measured.compared) if measured.compared else "-"
