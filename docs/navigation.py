"""What of the site's navigation nobody has to keep: formats, decisions, and what `mkdocs.yml` does not name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent


def on_config(config: Any) -> Any:
    """Complete the navigation; mkdocs calls this when it has read its configuration."""
    named = set(_pages(config["nav"]))
    rest = [str(path.relative_to(DOCS)) for path in sorted(DOCS.glob("*.md"))]
    reference = next(section["Reference"] for section in config["nav"] if "Reference" in section)
    reference += [{_title(page): page} for page in rest if page not in named]
    reference += [{"Formats": _below("format")}, {"Decisions": _below("decisions")}]
    return config


def _below(directory: str) -> list[dict[str, str]]:
    pages = (str(path.relative_to(DOCS)) for path in sorted((DOCS / directory).glob("*.md")))
    return [{_title(page): page} for page in pages]


def _pages(entries: list[Any]) -> list[str]:
    found = []
    for entry in entries:
        for target in entry.values():
            found += [target] if isinstance(target, str) else _pages(target)
    return found


def _title(page: str) -> str:
    """Return the heading of a page; of those that explain themselves in it, what is before the colon."""
    with open(DOCS / page, encoding="utf-8") as stream:
        words = stream.readline().removeprefix("#").strip().replace("`", "")
    return words if page.startswith("decisions") else words.partition(":")[0]
