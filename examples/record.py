"""Run a command and draw what it prints as a terminal, in an SVG: how the picture of the demo in README is made.

    python examples/record.py docs/pictures/demo.svg python -m gitbridge.demo path/to/model.safetensors

Nothing moves in it and nothing is loaded: a picture that any page can show. Bold and dim text stay bold and dim.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

_ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")
_WIDTH, _LINE, _TOP = 8.05, 18, 52
_STYLES = {"1": "bold", "2": "dim"}


def record(command: list[str]) -> tuple[str, int]:
    """Run a command on a terminal of its own; return what it printed, and its exit status."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    printed = b""
    while piece := _read(ours):
        printed += piece
    return printed.decode("utf-8", "replace").replace("\r\n", "\n"), process.wait()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # nobody has the other end any more
        return b""


def draw(title: str, text: str) -> str:
    """Return a terminal with some text in it."""
    lines = text.strip("\n").split("\n")
    plain = [_ESCAPE.sub("", line) for line in lines]
    width = max(map(len, plain)) * _WIDTH + 40
    height = _TOP + _LINE * len(lines) + 14
    body = "\n".join(
        f'<text x="20" y="{_TOP + _LINE * (row + 0.6):.0f}" xml:space="preserve">{"".join(_spans(line))}</text>'
        for row, line in enumerate(lines)
        if plain[row]
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">
<title>{escape(title)}</title>
<style>
text {{ font: 13.4px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d7dce5; }}
.bold {{ font-weight: 700; fill: #fff; }}
.dim {{ fill: #8d97a8; }}
</style>
<rect width="{width:.0f}" height="{height}" rx="9" fill="#1d222c"/>
<circle cx="24" cy="22" r="6" fill="#e5605a"/><circle cx="44" cy="22" r="6" fill="#e0b341"/>
<circle cx="64" cy="22" r="6" fill="#57b35b"/>
{body}
</svg>
"""


def _spans(line: str) -> Iterator[str]:
    style = ""
    for position, part in enumerate(_ESCAPE.split(line)):
        if position % 2:
            style = _STYLES.get(part, "")
        elif part:
            yield f'<tspan class="{style}">{escape(part)}</tspan>' if style else escape(part)


def main(target: Path, command: list[str]) -> int:
    """Record a command, draw it, and return its exit status."""
    text, status = record(command)
    # Where the temporary directory was is of no interest to readers, and another one each time.
    text = re.sub(r",? in /\S+theta-demo-\S+ \(removed at the end\)", "", text)
    shown = " ".join([Path(command[0]).name, *command[1:-1]])
    target.write_text(draw(f"What '{shown}' prints", text))
    return status


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
