"""Put the notes in changes/ into CHANGELOG.md under a version, and remove them: `make changelog VERSION=1.0.0`.

A note is `NNN.kind.md`, a list of what users will see; kinds are those of _HEADINGS, in this order.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

_HEADINGS = {
    "security": "Security",
    "removed": "Removed",
    "changed": "Changed",
    "added": "Added",
    "fixed": "Fixed",
}
_MARK = "<!-- versions -->\n"


def notes(directory: Path) -> list[Path]:
    """Return the notes in the order of their numbers.

    Raises:
        ValueError: the kind of one is none that there is.
    """
    found = sorted(directory.glob("*.md"))
    for path in found:
        match = re.fullmatch(r"\d{3}\.([a-z]+)\.md", path.name)
        if not match or match[1] not in _HEADINGS:
            raise ValueError(f"'{path.name}' is not NNN.kind.md with a kind of {', '.join(_HEADINGS)}")
    return found


def section(version: str, date: str, paths: list[Path]) -> str:
    """Return what the changelog says of a version."""
    text = f"## {version} ({date})\n"
    for kind, heading in _HEADINGS.items():
        items = "".join(path.read_text().rstrip("\n") + "\n" for path in paths if path.name.split(".")[1] == kind)
        text += f"\n### {heading}\n\n{items}" if items else ""
    return text


def main(root: Path, version: str) -> int:
    """Write the changelog; return the exit status."""
    changelog = root / "CHANGELOG.md"
    paths = notes(root / "changes")
    if not paths:
        print("nothing has changed: there are no notes in changes/", file=sys.stderr)
        return 1
    before, mark, after = changelog.read_text().partition(_MARK)
    today = datetime.date.today().isoformat()
    changelog.write_text(f"{before}{mark}\n{section(version, today, paths)}{after}")
    for path in paths:
        path.unlink()
    print(f"CHANGELOG.md: {version}, from {len(paths)} notes")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(__file__).parents[1], sys.argv[1]))
