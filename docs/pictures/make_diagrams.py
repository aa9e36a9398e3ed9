"""Draw the diagrams of docs/how-it-works.md as SVG: `make docs`. A test compares.

Boxes and arrows at places given by hand. Text stays text, so that it can be searched, and read aloud.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
_STYLE = """\
text { font: 15px system-ui, sans-serif; fill: #1f2430; }
.small { font-size: 12.5px; fill: #566; }
.mono { font: 12.5px ui-monospace, monospace; }
.bold { font-weight: 600; }
.box { fill: #fff; stroke: #8a94a6; stroke-width: 1.3; }
.git { fill: #fdeee6; stroke: #e07b4f; stroke-width: 1.3; }
.store { fill: #e4f1f0; stroke: #2a8c82; stroke-width: 1.3; }
.shared { fill: #bfe0dc; stroke: #2a8c82; stroke-width: 1.3; }
.changed { fill: #ffe39a; stroke: #b98a00; stroke-width: 1.3; }
.arrow { fill: none; stroke: #4a5468; stroke-width: 1.6; marker-end: url(#head); }
"""


class Drawing:
    """An SVG in the making."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box") -> None:
        """Draw a rectangle of a kind, which says its colours."""
        self._parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="5"/>')

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        """Write a line of text at its base line."""
        self._parts.append(f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>')

    def labelled(self, x: float, y: float, width: float, height: float, kind: str, *lines: str) -> None:
        """Draw a box with lines of text in it, the first one bold."""
        self.box(x, y, width, height, kind)
        start = y + height / 2 - (len(lines) - 1) * 9 + 5
        for position, line in enumerate(lines):
            self.text(x + width / 2, start + 18 * position, line, "bold" if position == 0 else "small")

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw an arrow through points."""
        self._parts.append(f'<polyline class="arrow" points="{" ".join(f"{x},{y}" for x, y in points)}"/>')

    def svg(self) -> str:
        """Return the drawing."""
        width, height = self._size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
            f"<title>{escape(self._title)}</title>\n<style>\n{_STYLE}</style>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0L8 4L0 8z" fill="#4a5468"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" fill="#fff"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )


def ways() -> Drawing:
    """Draw where the two halves of a file go."""
    picture = Drawing(760, 300, "Where a file goes: its weights to a store, its pointer to Git")
    picture.labelled(20, 105, 170, 90, "box", "work tree", "model.safetensors", "91 MB, as it was saved")
    picture.text(256, 57, "git add", "mono")
    picture.arrow((190, 135), (215, 135), (215, 65), (300, 65))
    picture.arrow((215, 135), (215, 225), (300, 225))
    picture.text(190, 278, "git checkout", "mono")
    picture.arrow((300, 258), (90, 258), (90, 195))
    picture.labelled(300, 25, 180, 80, "store", "local store", ".git/theta", "chunks, by content")
    picture.labelled(300, 195, 180, 80, "git", "Git", "a pointer: 13 kB of text", "a line for each tensor")
    for y in (65, 235):
        picture.text(523, y - 8, "git push", "mono")
        picture.arrow((480, y), (570, y))
    picture.labelled(570, 25, 170, 80, "store", "remote store", "directory or bucket", "only what is new is sent")
    picture.labelled(570, 195, 170, 80, "git", "Git host", "any; it sees pointers")
    return picture


def chunks() -> Drawing:
    """Draw two versions that share chunks, and a difference."""
    picture = Drawing(760, 330, "Two versions of a file as lists of chunks, of which most are the same")
    names = ("header", "embeddings", "layer 0", "layer 1", "layer 2", "head")
    widths = (70, 170, 100, 100, 100, 90)
    for row, label in ((30, "version 1"), (230, "version 2")):
        picture.text(20, row + 29, label, "bold", "start")
        x = 110.0
        for position, (name, width) in enumerate(zip(names, widths, strict=True)):
            is_changed = row > 100 and position in (0, 4)
            picture.box(x, row, width - 4, 46, "changed" if is_changed else "box")
            picture.text(x + (width - 4) / 2, row + 29, name, "small")
            x += width
    x = 110.0
    for position, width in enumerate(widths):
        middle = x + (width - 4) / 2
        picture.box(x + 8, 130, width - 20, 36, "shared" if position not in (0, 4) else "store")
        digest = ("5b02…", "9ffb…", "710d…", "c3e1…", "e80a…", "21f7…")[position]
        picture.text(middle, 153, digest, "mono")
        picture.arrow((middle, 76), (middle, 128))
        if position not in (0, 4):
            picture.arrow((middle, 230), (middle, 168))
        x += width
    picture.labelled(554, 290, 88, 30, "changed", "Δ")
    picture.arrow((598, 276), (598, 290))
    picture.arrow((642, 305), (648, 305), (648, 196), (598, 196), (598, 168))
    picture.text(545, 309, "what changed, as the difference", "small", "end")
    picture.text(110, 309, "the same is not stored again", "small", "start")
    return picture


def reading() -> Drawing:
    """Draw what is fetched for one tensor."""
    picture = Drawing(760, 210, "Reading one tensor from a bucket takes two round trips")
    picture.labelled(20, 65, 180, 80, "box", "program", 'model["lm_head"][:128]')
    picture.box(560, 30, 180, 160, "store")
    picture.text(650, 22, "bucket", "bold")
    picture.box(580, 48, 140, 34)
    picture.text(650, 70, "manifest, places", "small")
    picture.text(650, 130, "packs", "small")
    for position in range(7):
        picture.box(580 + 20 * position, 138, 20, 34, "changed" if position == 5 else "box")
    picture.text(378, 52, "1  what is the tensor made of, and where is that?", "small")
    picture.arrow((200, 88), (365, 65), (578, 65))
    picture.text(378, 177, "2  all ranges that these rows need, at once", "small")
    picture.arrow((200, 122), (365, 155), (578, 155))
    return picture


def files() -> dict[Path, str]:
    """Return each diagram by its place."""
    return {HERE / f"{draw.__name__}.svg": draw().svg() for draw in (ways, chunks, reading)}


if __name__ == "__main__":
    for path, text in files().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.name}")
    sys.exit(0)
