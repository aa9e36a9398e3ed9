"""Make `docs/benchmarks.md` and its plots from the results of a run.

    python -m benchmarks.peers.document [RESULTS.json] [--docs DIRECTORY]

The results are copied beside the page, so that every figure in it can be traced. Needs matplotlib (the extra `bench`);
without it the page is made and the plots stay as they were.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
_DOCS = Path(__file__).parents[2] / "docs"

OURS = ("thetastore", "git theta", "repacked")
WITHOUT_DIFFERENCES = ("git-lfs", "zstd -3", "ZipNN", "Xet-like")
TOLD = ("XOR + zstd -3", "BitX", "BitX on parent")
_NAMES = {
    "Xet-like": "Xet-like ¹",
    "XOR + zstd -3": "XOR + zstd -3 ¹ ²",
    "BitX": "BitX ¹ ²",
    "BitX on parent": "BitX on parent ¹ ²",
}
_SHORT = {"thetastore": "thetastore", "repacked": "the same, repacked"}


class Figures(NamedTuple):
    """What one contender made of one scenario."""

    ratio: float
    """Stored / raw bytes of all versions."""
    later_ratio: float | None
    """The same of the versions after the first; None where there is but one."""
    add_mb_s: float
    checkout_mb_s: float
    add_mb_cpu_s: float
    checkout_mb_cpu_s: float
    first_checkout_s: float
    later_checkout_s: float | None
    """Of the second version, in the fastest round."""
    later_add_s: float | None


class Results:
    """The runs of a file of results, by scenario and contender."""

    def __init__(self, whole: dict[str, Any]) -> None:
        self.machine: dict[str, Any] = whole["machine"]
        self.scale: dict[str, Any] = whole.get("scale", {})
        self.scenarios: dict[str, dict[str, Any]] = whole["scenarios"]
        self._runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.contenders: dict[str, str] = {}
        """What each is, by name, in the order of the runs."""
        self.inexact: set[str] = set()
        """Those that gave back other bytes than they got."""
        self.absent: dict[str, str] = {}
        for run in whole["runs"]:
            if "stored_bytes" in run:
                self._runs.setdefault((run["scenario"], run["contender"]), []).append(run)
                self.contenders.setdefault(run["contender"], run["about"])
                if not run["is_exact"]:
                    self.inexact.add(run["contender"])
            else:
                self.absent.setdefault(run["contender"], run.get("absent") or f"failed: {run.get('failed')}")

    def figures(self, scenario: str, contender: str) -> Figures | None:
        """Return what was measured; speeds are those of the fastest round."""
        runs = self._runs.get((scenario, contender))
        if not runs:
            return None
        raw = self.scenarios[scenario]["raw_bytes"]
        stored = runs[0]["stored_bytes"]
        mb = sum(raw) / 1e6
        fastest = {
            key: mb / min(sum(run[key]) for run in runs)
            for key in ("add_s", "checkout_s", "add_cpu_s", "checkout_cpu_s")
        }
        has_later = len(raw) > 1
        return Figures(
            stored[-1] / sum(raw),
            (stored[-1] - stored[0]) / sum(raw[1:]) if has_later else None,
            fastest["add_s"],
            fastest["checkout_s"],
            fastest["add_cpu_s"],
            fastest["checkout_cpu_s"],
            min(run["checkout_s"][0] for run in runs),
            min(run["checkout_s"][1] for run in runs) if has_later else None,
            min(run["add_s"][1] for run in runs) if has_later else None,
        )

    def repacking(self) -> str:
        """Return a sentence on what repacking takes; it is in no other figure."""
        said = [
            f"{min(run['finish_s'] for run in runs):.1f} s for {scenario}"
            for (scenario, contender), runs in self._runs.items()
            if contender == "repacked" and scenario.startswith(("chain", "fine-tunes"))
        ]
        return f"Repacking takes time of its own: {', '.join(said)}." if said else ""

    def ratio(self, scenario: str, contender: str) -> float | None:
        found = self.figures(scenario, contender)
        return None if found is None else found.ratio


class Target(NamedTuple):
    """A figure to reach."""

    what: str
    value: float | None
    limit: float
    is_least: bool = False

    def row(self) -> str:
        sign = "≥" if self.is_least else "≤"
        if self.value is None:
            return f"| {self.what} | not measured | {sign} {self.limit:g} | |"
        is_reached = self.value >= self.limit if self.is_least else self.value <= self.limit
        return f"| {self.what} | {self.value:.4f} | {sign} {self.limit:g} | {'yes' if is_reached else '**no**'} |"


def targets(results: Results) -> list[Target]:
    def later(scenario: str) -> float | None:
        found = results.figures(scenario, OURS[0])
        return None if found is None else found.later_ratio

    def against(scenario: str, others: Iterable[str], name: str = OURS[0]) -> float | None:
        ours = results.ratio(scenario, name)
        best = min((ratio for other in others if (ratio := results.ratio(scenario, other)) is not None), default=None)
        return None if ours is None or best is None else ours / best

    def later_against(scenario: str, other: str) -> float | None:
        found = [results.figures(scenario, name) for name in (OURS[0], other)]
        ratios = [figures.later_ratio for figures in found if figures is not None and figures.later_ratio]
        return ratios[0] / ratios[1] if len(ratios) == len(found) else None

    def between(contender: str, scenario: str) -> float | None:
        found = results.figures(scenario, contender)
        return (
            None if found is None or found.later_checkout_s is None else found.first_checkout_s / found.later_checkout_s
        )

    def adds(scenario: str) -> float | None:
        ours, lfs = results.figures(scenario, OURS[1]), results.figures(scenario, "git-lfs")
        if ours is None or lfs is None or ours.later_add_s is None or lfs.later_add_s is None:
            return None
        return ours.later_add_s / lfs.later_add_s

    rows = [
        Target("a fine-tune at lr 2e-5, bf16: stored / raw", later("lr 2e-5 bf16"), 0.135),
        Target("a fine-tune at lr 1e-6, bf16: stored / raw", later("lr 1e-6 bf16"), 0.03),
        Target("LoRA merged, bf16: stored / raw", later("LoRA bf16"), 0.03),
        Target("1 % sparse, bf16: stored / raw", later("sparse bf16"), 0.014),
    ]
    for scenario in ("chain bf16", "fine-tunes bf16", "chain fp32"):
        rows.append(Target(f"{scenario}: bytes / those of XOR + zstd -3", against(scenario, ["XOR + zstd -3"]), 0.8))
        repacked = against(scenario, ["XOR + zstd -3"], "repacked")
        rows.append(Target(f"{scenario}: the same, repacked", repacked, 0.8))
        rows.append(Target(f"{scenario}: bytes / those of BitX", against(scenario, ["BitX"]), 0.8))
        rows.append(Target(f"{scenario}: the same without the first version", later_against(scenario, "BitX"), 0.8))
        rows.append(
            Target(f"{scenario}: bytes / the best without differences", against(scenario, WITHOUT_DIFFERENCES), 0.5)
        )
    for scenario in ("lr 2e-5 bf16", "lr 2e-5 fp32"):
        what = f"{scenario}: speed of the second version's checkout / the first's"
        rows += [Target(f"{what}, {ours}", between(ours, scenario), 0.4, is_least=True) for ours in OURS[:2]]
        rows.append(Target(f"{scenario}: time to add the second version / git-lfs's", adds(scenario), 1.0))
    return rows


def page(results: Results) -> str:
    parts = [
        *_heading(results),
        *_stored(results),
        *_speed(results),
        "## Figures to reach",
        "",
        "| | measured | wanted | reached |",
        "| --- | ---: | ---: | --- |",
        *(target.row() for target in targets(results)),
        "",
        *_scale(results.scale),
        *_scenarios(results),
        *_contenders(results),
        "## Once more",
        "",
        "`make bench` runs all of it in less than ten minutes, once inputs are made; `make peers` first "
        "installs the peers that "
        "bring torch with them (4 GB), without which they are reported as absent and versions are made by recipe. "
        "`make bench ARGS='--resume'` goes on after an interruption, `ARGS='--only \"chain bf16\"'` runs one scenario.",
        "",
    ]  # fmt: skip
    return "\n".join(parts)


def _heading(results: Results) -> list[str]:
    about = results.machine
    peers = about.get("peers", {})
    versions = ", ".join(f"{name} {version}" for name, version in {**about["versions"], **peers}.items() if version)
    load = " to ".join(f"{about[key][0]:.1f}" for key in ("load_average", "load_average_at_end") if key in about)
    return [
        "# Benchmarks",
        "",
        "Made by `make bench` (`benchmarks/peers`); `docs/benchmarks.json` has every run. Do not edit this page.",
        "",
        f"Machine: {about['processor']}, {about['cores']} cores, {about['memory_bytes'] / 2**30:.0f} GiB, "
        f"{about['file_system']}, Linux {about['kernel']}; load {load}. Python {about['python']}; {about['git']}; "
        f"{about['git_lfs'] or 'no git-lfs'}; {versions}.",
        "",
    ]


def _stored(results: Results) -> list[str]:
    return [
        "![Stored bytes](benchmarks-bytes.svg)",
        "",
        "## Stored bytes / raw bytes",
        "",
        "All versions of a scenario together, the first one included.",
        "",
        *_table(results, lambda figures: f"{figures.ratio:.4f}"),
        "",
        "Of the versions after the first alone, which is what another version costs:",
        "",
        *_table(results, lambda figures: f"{figures.later_ratio:.4f}", later=True),
        "",
        "¹ re-implemented here, see below. ² has to be told which version is the base; the others find it or "
        "have none.",
        "",
    ]  # fmt: skip


def _speed(results: Results) -> list[str]:
    return [
        "## Speed",
        "",
        "Raw MB a second by the clock, add / checkout, all processors allowed, of the fastest round. Input comes from "
        "memory. What `thetastore` and `git theta` stored has reached the disk when the time ends; the others leave "
        "that to the system. Under Git, every version is a command of its own, start-up and Git's own work included. "
        + results.repacking(),
        "",
        "![Speed](benchmarks-speed.svg)",
        "",
        *_table(results, lambda figures: f"{figures.add_mb_s:.0f} / {figures.checkout_mb_s:.0f}"),
        "",
        "The same by seconds of processor time, add / checkout:",
        "",
        *_table(results, lambda figures: f"{figures.add_mb_cpu_s:.0f} / {figures.checkout_mb_cpu_s:.0f}"),
        "",
    ]


def _table(results: Results, cell: Any, later: bool = False) -> list[str]:
    names = list(results.contenders)
    lines = [
        "| | " + " | ".join(_NAMES.get(name, name) for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for scenario, about in results.scenarios.items():
        if later and len(about["raw_bytes"]) < 2:
            continue
        found = [(name, results.figures(scenario, name)) for name in names]
        cells = ["" if figures is None else cell(figures) for _, figures in found]
        bold = [f"**{text}**" if name in OURS and text else text for (name, _), text in zip(found, cells, strict=True)]
        lines.append(f"| {scenario} | " + " | ".join(bold) + " |")
    return lines


_SCALE_NAMES = {
    "process_cpu_s": ("processor time, Python's start included", "s"),
    "cpu_s": ("processor time of the adding alone", "s"),
    "peak_bytes": ("peak memory of its own", "MB"),
    "mapped_bytes": ("mapped of the store's files, which the system takes back", "MB"),
}


def _scale(scale: dict[str, Any]) -> list[str]:
    if not scale:
        return []
    few, many = scale["models"]
    lines = [
        "## Large stores",
        "",
        f"Adding a model of {scale['size_mb']} MB to a store of {few} models and to one of {many:,} "
        f"(`benchmarks/scale.py`; those "
        "models were never there, but their manifests, records, families and anchors are). Wanted: a "
        "difference under 20 %.",
        "",
        f"| | {few} models | {many:,} models | ratio | reached |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in scale["compared"]:
        name, unit = _SCALE_NAMES[row["key"]]
        values = [f"{row[side]:.3f}" if unit == "s" else f"{row[side] / 1e6:.0f}" for side in ("few", "many")]
        reached = {None: "", True: "yes", False: "**no**"}[row["is_reached"]]
        lines.append(f"| {row['what']}: {name}, {unit} | {values[0]} | {values[1]} | {row['ratio']:.3f} | {reached} |")
    return [*lines, ""]


def _scenarios(results: Results) -> list[str]:
    lines = ["## What is stored", ""]
    for name, about in results.scenarios.items():
        megabytes = sum(about["raw_bytes"]) / 1e6
        lines.append(f"- **{name}**: {about['about']}; {len(about['raw_bytes'])} versions, {megabytes:.0f} MB.")
    if not results.machine.get("trained"):
        lines += [
            "",
            "No torch was there: what would have been trained was made by recipe (`benchmarks/difference.py`).",
        ]
        return [*lines, ""]
    trained, recipe = (results.figures(name, OURS[0]) for name in ("lr 2e-5 bf16", "recipe bf16"))
    if trained and recipe and trained.later_ratio and recipe.later_ratio:
        xor = [results.figures(name, "XOR + zstd -3") for name in ("lr 2e-5 bf16", "recipe bf16")]
        beside = " and ".join(f"{figures.later_ratio:.4f}" for figures in xor if figures and figures.later_ratio)
        lines += [
            "",
            "Training is real (`benchmarks/peers/training.py`): AdamW, a contrastive loss on English sentences, "
            "batches of "
            "4 pairs. Where there is no torch, versions are made by recipe: normal noise of 1e-4 on matrices, "
            "half of the "
            f"rows of embeddings left alone. That stores {recipe.later_ratio:.4f} where 200 steps at 2e-5 store "
            f"{trained.later_ratio:.4f} (XOR + zstd: {beside}, recipe second): trained weights move by steps that "
            f"depend "
            "on their gradients' history, and rows of words that were not seen move by weight decay alone.",
        ]
    return [*lines, ""]


def _contenders(results: Results) -> list[str]:
    lines = ["## Contenders", ""]
    for name, about in results.contenders.items():
        verdict = " What it checked out was **not what was added**." if name in results.inexact else ""
        lines.append(f"- **{_NAMES.get(name, name)}**: {about}.{verdict}")
    lines += [f"- **{name}**: absent: {why}" for name, why in results.absent.items() if name not in results.contenders]
    lines += [
        "",
        "Re-implementations were checked against what is published. BitX: its program (ds2-lab/ZipLLM) does "
        "the same steps with "
        "the same level of zstd; the paper stores 0.459 of 43 TB of models from 3,048 repositories, whole "
        "models and fine-tunes "
        f"together, ours {_ratio_text(results, 'fine-tunes bf16', 'BitX')} of eleven models of which ten "
        f"stand on the first. "
        "ZipNN is the real one, and takes 0.67 of bf16 and 0.83 of fp32 in its own paper, "
        f"{_ratio_text(results, 'single bf16', 'ZipNN')} and {_ratio_text(results, 'single fp32', 'ZipNN')} "
        f"here. Xet's program "
        "guesses how to store each chunk, here the best way is taken; so it stores no less than this.",
        "",
    ]  # fmt: skip
    return lines


def _ratio_text(results: Results, scenario: str, contender: str) -> str:
    ratio = results.ratio(scenario, contender)
    return "(not measured)" if ratio is None else f"{ratio:.3f}"


BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#999999"
"""Of Okabe and Ito, apart for all kinds of colour vision and in grey."""


def plot_bytes(results: Results, docs: Path) -> None:
    wanted = ("single bf16", "chain bf16", "fine-tunes bf16", "LoRA bf16", "vocabulary bf16", "resharded bf16")
    left_out = ("cp", "git theta", "Git-Theta 2023")
    panels = [
        (
            f"{name}\n{textwrap.fill(results.scenarios[name]['about'].split(';')[0], 48)}",
            _bars_of(results, name, "ratio", left_out),
        )
        for name in wanted
        if name in results.scenarios
    ]
    _draw(
        panels,
        "Stored bytes / raw bytes, all versions together: less is better",
        "{:.2f}",
        docs / "benchmarks-bytes",
        3,
    )


def plot_speed(results: Results, docs: Path) -> None:
    panels = [
        (f"{what}, {name}", _bars_of(results, name, f"{what}_mb_s", ("cp", "BitX on parent")))
        for name in ("single fp32", "fine-tunes bf16")
        for what in ("add", "checkout")
        if name in results.scenarios
    ]
    _draw(panels, "Raw MB a second by the clock: more is better", "{:.0f}", docs / "benchmarks-speed", 2)


Bars = list[tuple[str, float]]
"""Values by the names of contenders."""


def _bars_of(results: Results, scenario: str, figure: str, left_out: Sequence[str]) -> Bars:
    found = ((name, results.figures(scenario, name)) for name in results.contenders if name not in left_out)
    return [(name, getattr(figures, figure)) for name, figures in found if figures is not None]


def _draw(panels: Sequence[tuple[str, Bars]], title: str, form: str, path: Path, columns: int) -> None:
    """Draw a bar for each contender with its name and its value beside it; all panels have one scale."""
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "thetastore"  # the same bytes for the same figures
    from matplotlib import patches, pyplot

    rows = -(-len(panels) // columns)
    size = (4.7 * columns, 0.9 + rows * (0.7 + 0.24 * max(len(bars) for _, bars in panels)))
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    most = max(value for _, bars in panels for _, value in bars)
    for axis, (heading, bars) in zip(axes.flat, panels, strict=False):
        _draw_panel(axis, heading, bars, form, most)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    kinds = {"ours": BLUE, "told which version is the base": ORANGE, "no differences": GREY}
    handles = [patches.Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    handles.append(patches.Patch(alpha=0, label="¹ re-implemented   ² told the base"))
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=90)
    pyplot.close(figure)


def _draw_panel(axis: Any, heading: str, bars: Bars, form: str, most: float) -> None:
    names = [_SHORT.get(name, _NAMES.get(name, name)) for name, _ in bars]
    colours = [BLUE if name in OURS else ORANGE if name in TOLD else GREY for name, _ in bars]
    axis.barh(names, [value for _, value in bars], color=colours, height=0.75)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * most)
    axis.set_xticks([])
    axis.set_title(heading, fontsize=9, loc="left")
    axis.tick_params(axis="y", length=0, labelsize=9)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    for place, (_, value) in enumerate(bars):
        axis.text(value + 0.015 * most, place, form.format(value), va="center", fontsize=9)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", nargs="?", type=Path, default=_RESULTS)
    parser.add_argument("--scale", type=Path, default=_RESULTS.with_name("scale.json"), help="of benchmarks.scale")
    parser.add_argument("--docs", type=Path, default=_DOCS)
    arguments = parser.parse_args()
    whole = json.loads(arguments.results.read_text())
    if arguments.scale.exists():
        whole["scale"] = {key: value for key, value in json.loads(arguments.scale.read_text()).items() if key != "rows"}
    results = Results(whole)
    arguments.docs.mkdir(exist_ok=True)
    (arguments.docs / "benchmarks.md").write_text(page(results))
    (arguments.docs / "benchmarks.json").write_text(json.dumps(whole, indent=1) + "\n")
    try:
        plot_bytes(results, arguments.docs)
        plot_speed(results, arguments.docs)
    except ImportError as error:
        print(f"no plots: {error}; pip install matplotlib", file=sys.stderr)
    for target in targets(results):
        print(target.row().replace("**", ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
