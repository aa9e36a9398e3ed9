"""A diff as Markdown, for comments on pull requests: one table a file, the largest changes first to be seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gitbridge.diffing import FileDiff, ordered
from gitbridge.groups import Group, by_layer, by_module
from gitbridge.render import printable
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
from gitbridge.reports.text import heading


def diff_markdown(diffs: Sequence[FileDiff], order: str, top: int | None) -> Iterator[str]:
    """Yield the pieces of a Markdown text."""
    for position, diff in enumerate(diffs):
        yield "\n" if position else ""
        yield f"### {_escaped(heading(diff))}\n"
        if diff.outside:
            yield f"\n{_escaped(printable(diff.outside))}\n"
        shown = ordered(diff.changes, order, top)
        if shown:
            yield "\n"
            yield from _table(
                ("", "tensor", "type and shape", "changed", "relative", "max", "cosine", "looks"),
                "lllrrrrl",
                [
                    (
                        LETTERS[one.change.kind],
                        _code(name_text(one)),
                        kind_text(one),
                        share_of(one),
                        relative_text(one.moments),
                        number_text(one.moments.largest) if one.moments else "-",
                        cosine_text(one.moments),
                        remark_text(one),
                    )
                    for one in shown
                ],
            )
        if len(shown) < len(diff.changes):
            yield f"\n... and {len(diff.changes) - len(shown)} more\n"
        yield from _groups("layer", by_layer(diff))
        yield from _groups("module", by_module(diff))


def _groups(title: str, groups: Sequence[Group]) -> Iterator[str]:
    if len(groups) < 2:
        return
    rows = [
        (
            _code(printable(group.label)),
            f"{group.changed_count}/{group.tensor_count}",
            share_text(group.changed_elements, group.element_count),
            group_relative_text(group),
        )
        for group in groups
    ]
    yield f"\n<details><summary>By {title}</summary>\n\n"
    yield from _table((title, "tensors", "elements", "relative"), "lrrr", rows)
    yield "\n</details>\n"


def _table(head: Sequence[str], sides: str, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |\n"
    yield "| " + " | ".join("--:" if side == "r" else "---" for side in sides) + " |\n"
    for row in rows:
        yield "| " + " | ".join(_cell(cell) for cell in row) + " |\n"


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _cell(text: str) -> str:
    """Return text that does not end its cell; what stands in backticks is shown as it is."""
    return text.replace("|", "\\|") if text.startswith("`") else _escaped(text)


def _escaped(text: str) -> str:
    for mark in "\\`*_<[]|":
        text = text.replace(mark, "\\" + mark)
    return text
