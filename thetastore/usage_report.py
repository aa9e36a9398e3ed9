"""What `usage` counted, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from thetastore.tables import count_text, printable, size_text, table
from thetastore.usage import Amount, Contents, Row, Totals, Usage


class Report(NamedTuple):
    """Everything that a command says."""

    totals: Totals
    held_only_as_base: Amount
    codecs: Sequence[tuple[str, Amount]]
    tables: Mapping[str, Sequence[Row]]
    """By what their rows are: `files`, `commits`, `tensors`, ..."""
    contents: Contents | None = None
    """Of the store, where all of it was looked at."""
    unreached: Amount | None = None


def report_of(usage: Usage, totals: Totals, tables: Mapping[str, Sequence[Row]]) -> Report:
    """Return a report of all that a usage has seen."""
    return Report(totals, usage.held_only_as_base(), usage.codecs(), tables)


def report_values(report: Report) -> dict[str, Any]:
    """Return a report for JSON, schema 1."""
    values: dict[str, Any] = {
        "schema": 1,
        "totals": report.totals._asdict(),
        "held_only_as_base": report.held_only_as_base._asdict(),
        "codecs": [{"codec": codec, **amount._asdict()} for codec, amount in report.codecs],
    }
    if report.contents is not None and report.unreached is not None:
        values["unreached"] = report.unreached._asdict()
        values["duplicate_bytes"] = report.contents.duplicate_bytes
        values["pack_bytes"] = report.contents.pack_bytes
    for noun, rows in report.tables.items():
        values[noun] = [_row_values(noun, row) for row in rows]
    return values


def _row_values(noun: str, row: Row) -> dict[str, Any]:
    values = row._asdict()
    tensor = values.pop("tensor")
    key = {"tensors": "file"}.get(noun, noun.removesuffix("s"))
    return {key: values.pop("name"), **({"tensor": tensor} if noun == "tensors" else {}), **values}


def report_text(report: Report, labels: Mapping[str, str] | None = None) -> str:
    """Return a report as aligned text; `labels` say more of a row than its name."""
    pieces = [_summary(report)]
    for noun, rows in report.tables.items():
        if rows:
            pieces.append(_rows_text(noun.removesuffix("s"), rows, labels or {}))
    if report.codecs:
        lines: list[tuple[str, ...]] = [("raw", "stored", "objects", "codec")]
        lines += [(*_sizes(a.raw_bytes, a.stored_bytes), str(a.object_count), printable(c)) for c, a in report.codecs]
        pieces.append(table(lines, right=(0, 1, 2)))
    return "\n".join(pieces)


def _summary(report: Report) -> str:
    totals, held = report.totals, report.held_only_as_base
    share = f", {100 * totals.stored_bytes / totals.logical_bytes:.1f} % of logical" if totals.logical_bytes else ""
    lines = [
        ("logical", size_text(totals.logical_bytes), count_text(totals.file_count, "version of a file", "versions")),
        ("unique", size_text(totals.unique_bytes), "needed by one version only"),
        ("shared", size_text(totals.shared_bytes), "needed by several, counted once"),
        ("stored", size_text(totals.stored_bytes), "in packs, compressed" + share),
        ("base", size_text(held.stored_bytes), f"more, in {count_text(held.object_count, 'object')} held only as base"),
    ]
    if report.contents is not None and report.unreached is not None:
        lost, packs = report.unreached, report.contents
        lines += [
            ("unused", size_text(lost.stored_bytes), f"more, in {count_text(lost.object_count, 'object')} not needed"),
            ("twice", size_text(packs.duplicate_bytes), "more, of objects that are stored another time"),
            ("packs", size_text(packs.pack_bytes), "all of that, with the packs' own tables"),
        ]
    text = table(lines, right=(1,))
    if totals.missing_object_count:
        text += f"{count_text(totals.missing_object_count, 'object')} not in this store, or damaged: stored without\n"
    return text


def _rows_text(noun: str, rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    lines: list[tuple[str, ...]] = [("logical", "unique", "shared", "stored", "added", noun)]
    for row in rows:
        name = labels.get(row.name, row.name)
        if noun == "tensor":
            name += ": " + ("(of no tensor, or of several)" if row.tensor is None else row.tensor)
        sizes = _sizes(row.logical_bytes, row.unique_bytes, row.shared_bytes, row.stored_bytes, row.added_bytes)
        lines.append((*sizes, printable(name)))
    return table(lines, right=(0, 1, 2, 3, 4))


def _sizes(*sizes: int) -> tuple[str, ...]:
    return tuple(map(size_text, sizes))
