"""What `usage` counted, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from thetastore.output import Paint, Rows
from thetastore.tables import count_text, printable, size_text, table
from thetastore.upkeep.usage import Amount, Contents, Group, Row, Totals, Usage

_MOST_BASES = 20
_SIZES = ("logical_bytes", "unique_bytes", "shared_bytes", "stored_bytes", "added_bytes")
_AMOUNT = ("raw_bytes", "stored_bytes", "object_count")
USAGE_ROWS = (
    Rows("totals", ("file_count", *_SIZES[:4])),
    Rows("files", ("file", *_SIZES)),
    Rows("commits", ("commit", *_SIZES)),
    Rows("tensors", ("file", "tensor", *_SIZES)),
    Rows("codecs", ("codec", *_AMOUNT)),
)
"""What `--porcelain` says of a report."""


class Report(NamedTuple):
    """Everything that a command says."""

    totals: Totals
    held_only_as_base: Amount
    codecs: Sequence[tuple[str, Amount]]
    tables: Mapping[str, Sequence[Row]]
    """By what their rows are: `files`, `commits`, `tensors`, ..."""
    bases: Sequence[tuple[str | None, Amount]] = ()
    """By what they lean on: differences and copies; under None, on what is held only as base."""
    contents: Contents | None = None
    """Of the store, where all of it was looked at."""
    unreached: Amount | None = None


def report_of(
    usage: Usage, totals: Totals, tables: Mapping[str, Sequence[Row]], groups: Iterable[Group] = ()
) -> Report:
    """Return a report of all that a usage has seen; `groups` are what differences may lean on."""
    return Report(totals, usage.held_only_as_base(), usage.codecs(), tables, usage.by_base(groups))


def report_values(report: Report) -> dict[str, Any]:
    """Return a report as values for programs."""
    values: dict[str, Any] = {
        "totals": report.totals._asdict(),
        "held_only_as_base": report.held_only_as_base._asdict(),
        "codecs": [{"codec": codec, **amount._asdict()} for codec, amount in report.codecs],
    }
    values["bases"] = [{"base": name, **amount._asdict()} for name, amount in report.bases]
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


def report_text(report: Report, labels: Mapping[str, str] | None = None, paint: Paint = lambda text, _: text) -> str:
    """Return a report as aligned text; `labels` say more of a row than its name."""
    pieces = [_summary(report)]
    for noun, rows in report.tables.items():
        if rows:
            pieces.append(_rows_text(noun.removesuffix("s"), rows, labels or {}))
    if report.codecs:
        lines: list[tuple[str, ...]] = [("raw", "stored", "objects", "codec")]
        lines += [(*_sizes(a.raw_bytes, a.stored_bytes), str(a.object_count), printable(c)) for c, a in report.codecs]
        pieces.append(table(lines, right=(0, 1, 2)))
    if report.bases:
        pieces.append(_bases_text(report.bases, labels or {}))
    heads = (piece.partition("\n") for piece in pieces[1:])
    return "\n".join([pieces[0], *(paint(head, "bold") + end + rest for head, end, rest in heads)])


def _bases_text(bases: Sequence[tuple[str | None, Amount]], labels: Mapping[str, str]) -> str:
    lines: list[tuple[str, ...]] = [("raw", "stored", "objects", "leaning on")]
    for name, amount in bases[:_MOST_BASES]:
        what = "(what is held only as base)" if name is None else printable(labels.get(name, name))
        lines.append((*_sizes(amount.raw_bytes, amount.stored_bytes), str(amount.object_count), what))
    more = len(bases) - _MOST_BASES
    return table(lines, right=(0, 1, 2)) + (f"and {more} more that take less: --json has them\n" if more > 0 else "")


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
