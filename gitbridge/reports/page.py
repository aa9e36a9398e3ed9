"""A diff as one HTML page that needs nothing else: no network, no script, light or dark as the reader has it.

Wide things scroll in themselves, so that the page fits a phone. What a plot says under the pointer is in tables, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from gitbridge.anatomy import Place
from gitbridge.diffing import FileDiff, ordered
from gitbridge.groups import Group, by_layer, by_module, by_place
from gitbridge.render import printable
from gitbridge.reports import svg
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
from thetastore.comparing.changes import KINDS
from thetastore.comparing.comparison import Measured

_MOST_ROWS = 1000
"""Tensors in the table, where the command line does not say: a page of 200,000 opens nowhere."""
_MOST_CELLS = 5000
_SPECTRA = 8
_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --faint: #667079; --line: #dfe3e7; --card: #f6f7f9;
  --accent: #1d5fd1; }
@media (prefers-color-scheme: dark) { :root { --back: #121417; --text: #e4e7ea; --faint: #98a2ac; --line: #30363d;
  --card: #1b1f24; --accent: #6ea8fe; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1100px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 4px; } h2 { font-size: 1.1rem; margin: 32px 0 4px; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 24px 0 4px; } p { margin: 2px 0 8px; color: var(--faint); }
code { font-size: .92em; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 8px; margin: 12px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; }
.tile b { display: block; font-size: 1.15rem; font-variant-numeric: tabular-nums; } .tile span { color: var(--faint);
  font-size: .85rem; }
.wide { overflow-x: auto; -webkit-overflow-scrolling: touch; }
.plots { display: flex; flex-wrap: wrap; gap: 16px; } figure { margin: 0; max-width: 100%; }
figcaption { font-size: .85rem; color: var(--faint); max-width: 340px; overflow-wrap: anywhere; }
.spectra figure { flex: 0 1 230px; } @media (max-width: 560px) { .spectra figure { flex-basis: calc(50% - 8px); } }
svg { display: block; color: var(--text); } .plots svg { max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
.heat, .bar, .dot { fill: var(--accent); } .still { fill: none; stroke: var(--line); }
.odd { fill: none; stroke: var(--accent); }
.axis, .grid { stroke: var(--line); } .curve { fill: none; stroke: var(--accent); stroke-width: 1.5; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--faint); font-weight: 500; } td.n, th.n { text-align: right; }
.key i { display: inline-block; width: 22px; height: 12px; background: var(--accent); vertical-align: -1px; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
"""


def page(diffs: Sequence[FileDiff], order: str, top: int | None) -> Iterator[str]:
    """Yield the pieces of the page."""
    title = " and ".join(printable(diff.two.path) for diff in diffs[:2]) or "nothing"
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What changed in {escape(title)}</title>\n<style>{_STYLE}</style></head><body>\n"
        "<h1>What changed</h1>\n"
    )
    if not diffs:
        yield "<p>Nothing did.</p>\n"
    for diff in diffs:
        yield from _file(diff, order, _MOST_ROWS if top is None else top)
    yield "</body></html>\n"


def _file(diff: FileDiff, order: str, top: int) -> Iterator[str]:
    name, _, rest = heading(diff).partition(": ")
    yield f"<h2>{escape(name)}</h2>\n<p>{escape(rest)}</p>\n"
    if diff.outside:
        yield f"<p>{escape(printable(diff.outside))}</p>\n"
    yield from _tiles(diff)
    yield from _heat_map(diff)
    yield from _histograms(diff)
    yield from _spectra(diff)
    yield from _groups("layer", by_layer(diff))
    yield from _groups("module", by_module(diff))
    yield from _tensors(diff, order, top)


def _tiles(diff: FileDiff) -> Iterator[str]:
    measured = [one for one in diff.changes if one.moments]
    change = math.hypot(*(one.moments.change_norm for one in measured if one.moments))
    before = math.hypot(*(one.moments.before_norm for one in measured if one.moments))
    layers = by_layer(diff)
    tiles = [(f"{len(diff.changes)}/{len(diff.changes) + len(diff.unchanged)}", "tensors changed")]
    elements = sum(group.element_count for group in layers)
    tiles.append((share_text(sum(group.changed_elements for group in layers), elements), "of all elements"))
    if before:
        tiles.append((number_text(change / before), "relative change of these"))
        tiles.append(
            (number_text(max(one.moments.largest for one in measured if one.moments)), "largest of an element")
        )
    odd = sum(one.moments.nan_after + one.moments.inf_after for one in measured if one.moments)
    if odd:
        tiles.append((str(odd), "NaN or infinite"))
    looks = Counter(one.looks.word for one in measured if one.looks)
    tiles += [(str(count), word) for word, count in looks.most_common(4)]
    cards = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(what)}</span></div>' for value, what in tiles
    )
    yield f'<div class="tiles">{cards}</div>\n'


def _heat_map(diff: FileDiff) -> Iterator[str]:
    places = {place: group for place, group in by_place(diff).items() if place.layer}
    layers = {layer: at for at, layer in enumerate(_in_order(places))}
    modules = {module: at for at, module in enumerate(sorted({place.module for place in places}))}
    if len(layers) < 2 or len(places) > _MOST_CELLS or not any(group.change_norm for group in places.values()):
        return
    values: dict[tuple[int, int], tuple[float | None, str]] = {}
    for place, group in places.items():
        where = f"{place.layer}.{place.module}"
        counts = f"{group.changed_count} of {group.tensor_count} tensors changed"
        text = f"{where}: {group_relative_text(group)} relative, {counts}"
        value = (group.relative or 0.0) if group.changed_count else None
        values[layers[place.layer], modules[place.module]] = value, text
    shown = [value for value, _ in values.values() if value]
    yield "<h3>Relative change by layer and module</h3>\n"
    yield (
        '<p class="key">norm of the change over the norm before: '
        f'<i style="opacity:.12"></i> {number_text(min(shown))} '
        f'<i style="opacity:.56"></i> <i></i> {number_text(max(shown))}; '
        "outlined: unchanged; in colour: changed, but nothing that is finite</p>\n"
    )
    plot = svg.heat_map([printable(layer) for layer in layers], [printable(m) for m in modules], values, "heat map")
    yield f'<div class="wide">{plot}</div>\n'


def _in_order(places: Iterable[Place]) -> Iterable[str]:
    return dict.fromkeys(place.layer for place in sorted(places, key=lambda place: place.layer_order))


def _histograms(diff: FileDiff) -> Iterator[str]:
    relatives = [one.moments.relative for one in diff.changes if one.moments and one.moments.relative]
    plots = []
    if len(relatives) > 1:
        bins = _log_bins([value for value in relatives if value])
        plots.append((svg.bars(bins, "histogram of relative changes", "tensors"), "relative change of tensors"))
    exponents: Counter[int] = Counter()
    for one in diff.changes:
        for exponent, count in one.metrics.get("histogram", {}).get("exponents", ()):
            exponents[exponent] += count
    if exponents:
        most = max(exponents)
        # What is far below the largest are rounding errors of rounding errors: a tail that hides the shape.
        span = range(max(min(exponents), most - 47), most + 1)
        named = [(f"2^{at}", exponents[at], f"{exponents[at]} elements moved by 2^{at} to 2^{at + 1}") for at in span]
        plots.append((svg.bars(named, "histogram of changes of elements", "elements"), "change of single elements"))
    if plots:
        figures = "".join(f"<figure>{plot}<figcaption>{caption}</figcaption></figure>" for plot, caption in plots)
        yield f'<h3>How large the changes are</h3>\n<div class="plots">{figures}</div>\n'


def _log_bins(values: Sequence[float]) -> list[tuple[str, int, str]]:
    """Count values in bins of a quarter of a decade."""
    counts = Counter(math.floor(4 * math.log10(value)) for value in values)
    bins = []
    for at in range(max(min(counts), max(counts) - 47), max(counts) + 1):
        low, high = 10 ** (at / 4), 10 ** ((at + 1) / 4)
        bins.append(
            (f"{low:.0e}".replace("e-0", "e-"), counts[at], f"{counts[at]} tensors from {low:.2g} to {high:.2g}")
        )
    return bins


def _spectra(diff: FileDiff) -> Iterator[str]:
    figures: list[str] = []
    for one in ordered(diff.changes, "relative", None):
        found = one.metrics.get("spectrum") or one.metrics.get("sketch") or {}
        values = [value for value in found.get("singular_values", ()) if value > 0]
        if len(values) > 1 and len(figures) < _SPECTRA:
            kind = "exact" if found["is_exact"] else "estimated"
            name = name_text(one)
            caption = f"{name} ({kind}; {remark_text(one)})"
            figures.append(
                f"<figure>{svg.curve(values, f'singular values of the change of {name}')}"
                f"<figcaption><code>{escape(caption)}</code></figcaption></figure>"
            )
    if figures:
        yield (
            "<h3>Spectrum of the change</h3>\n<p>singular values over the largest, of the tensors that changed most: "
            f'a cliff is a low rank</p>\n<div class="plots spectra">{"".join(figures)}</div>\n'
        )


def _groups(title: str, groups: Sequence[Group]) -> Iterator[str]:
    if len(groups) < 2:
        return
    rows = [
        (
            f"<code>{escape(printable(group.label))}</code>",
            f"{group.changed_count}/{group.tensor_count}",
            share_text(group.changed_elements, group.element_count),
            escape(group_relative_text(group)),
        )
        for group in groups[:_MOST_ROWS]
    ]
    yield f"<details><summary>Figures by {title}</summary>\n"
    yield _table((title, "tensors", "elements", "relative"), "lnnn", rows)
    if len(groups) > len(rows):
        yield f"<p>... and {len(groups) - len(rows)} more</p>\n"
    yield "</details>\n"


def _tensors(diff: FileDiff, order: str, top: int) -> Iterator[str]:
    shown = ordered(diff.changes, order, top)
    if not shown:
        return
    yield "<h3>Tensors</h3>\n"
    kinds = ", ".join(f"{LETTERS[kind]} {kind}" for kind in KINDS if any(one.change.kind == kind for one in shown))
    yield f"<p>{kinds}</p>\n"
    head = ("", "tensor", "changed", "relative", "max", "cosine", "looks", "type and shape")
    yield _table(head, "llnnnnll", [_row(one) for one in shown])
    if len(shown) < len(diff.changes):
        yield f"<p>... and {len(diff.changes) - len(shown)} more: --top N shows more of them</p>\n"


def _row(one: Measured) -> tuple[str, ...]:
    return (
        LETTERS[one.change.kind],
        f"<code>{escape(name_text(one))}</code>",
        escape(share_of(one)),
        escape(relative_text(one.moments)),
        number_text(one.moments.largest) if one.moments else "-",
        escape(cosine_text(one.moments)),
        escape(remark_text(one)),
        escape(kind_text(one)),
    )


def _table(head: Sequence[str], sides: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already; columns of `n` in `sides` hold numbers."""
    mark = [' class="n"' if side == "n" else "" for side in sides]
    top = "".join(f"<th{side}>{escape(cell)}</th>" for side, cell in zip(mark, head, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{side}>{cell}</td>" for side, cell in zip(mark, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>\n'
