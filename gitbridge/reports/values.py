"""A diff as values for programs: what `--json` prints. Fields are listed in docs/diff.md, and only ever added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gitbridge.diffing import FileDiff, ordered
from gitbridge.groups import Group, by_layer, by_module
from gitbridge.history import Commit
from gitbridge.versions import Version
from thetastore.comparing.changes import Entry
from thetastore.comparing.comparison import Measured


def diff_values(diffs: Sequence[FileDiff], order: str, top: int | None) -> dict[str, Any]:
    """Return everything that is known of a diff, as JSON has it."""
    return {"files": [_file(diff, order, top) for diff in diffs]}


def _file(diff: FileDiff, order: str, top: int | None) -> dict[str, Any]:
    return {
        "path": diff.two.path,
        "before": _version(diff.two.before),
        "after": _version(diff.two.after),
        "unchanged_count": len(diff.unchanged),
        "changed_count": len(diff.changes),
        "outside": diff.outside or None,
        "tensors": [tensor_values(one) for one in ordered(diff.changes, order, top)],
        "layers": [_group(group) for group in by_layer(diff)],
        "modules": [_group(group) for group in by_module(diff)],
    }


def _version(version: Version | None) -> dict[str, Any] | None:
    if version is None:
        return None
    return {
        "path": version.path,
        "where": version.where or None,
        "format": version.format,
        "size_bytes": version.file_bytes,
        "digest": str(version.file_digest) if version.file_digest else None,
    }


def tensor_values(one: Measured) -> dict[str, Any]:
    """Return what is known of a changed tensor."""
    values: dict[str, Any] = {
        "name": one.change.name,
        "change": one.change.kind,
        "before": _entry(one.change.before),
        "after": _entry(one.change.after),
    }
    if one.compared:
        values |= {"unit": one.unit, "compared": one.compared, "changed": one.changed, "read_bytes": one.read_bytes}
    if one.rows is not None:
        values["rows"] = {"changed": one.rows[0], "compared": one.rows[1]}
    if one.looks is not None:
        values["looks"] = {name: value for name, value in one.looks._asdict().items() if value is not None}
    values |= _figures(one)
    if one.metrics:
        values["metrics"] = {name: dict(figures) for name, figures in one.metrics.items()}
    return values


def _figures(one: Measured) -> dict[str, Any]:
    moments = one.moments
    if moments is None or not one.compared:
        return {}
    exact = moments.has_read_all
    return {
        "norm": _finite(moments.change_norm),
        "max": _finite(moments.largest),
        "relative": moments.relative if exact else None,
        "relative_at_most": moments.relative,
        "cosine": moments.cosine if exact else None,
        "cosine_at_least": moments.cosine,
        "nan": [moments.nan_before, moments.nan_after],
        "inf": [moments.inf_before, moments.inf_after],
    }


def _entry(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {"name": entry.name, "dtype": entry.dtype, "shape": list(entry.shape), "digest": str(entry.digest) or None}


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": group.label,
        "tensors": group.tensor_count,
        "changed": group.changed_count,
        "elements": group.element_count,
        "changed_elements": group.changed_elements,
        "norm": _finite(group.change_norm),
        "relative": group.relative,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def commit_values(commit: Commit) -> dict[str, Any]:
    """Return what is known of a commit."""
    return {"oid": commit.oid, "author": commit.author, "date": commit.date, "subject": commit.subject}
