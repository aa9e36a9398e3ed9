"""The blocks of a page of documentation, run one after the other as a reader would.

A page runs in a directory of its own, with a `model.safetensors` in it, in one shell. Blocks of `sh` are commands, of
`python` programs, a block of `text` what the block before it prints: each of its lines has to be there, digits and
digests apart; lines with `…` are left out. `<!-- not run: why -->` leaves out the block below it, `<!-- before: … -->`
is run without being shown, for what the reader has already.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from checkpoints import safetensors_bytes

DOCS = Path(__file__).parents[2] / "docs"
PROGRAMS = Path(sys.executable).parent
_BLOCK = re.compile(
    r"^<!-- before:\n(?P<before>.*?)^-->$"
    r"|^(?P<note><!-- not run: .*? -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """Something to run, and the lines that it should print."""

    script: str
    expected: list[str]


def blocks(page: Path) -> list[Block]:
    """Return what of a page is run."""
    found: list[Block] = []
    may_be_expected = False
    for match in _BLOCK.finditer(page.read_text()):
        language, text = match["language"], match["text"]
        if match["before"] is not None:
            found.append(Block(match["before"], []))
        elif language == "text":
            if may_be_expected:
                found[-1].expected.extend(text.splitlines())
        elif match["note"]:
            may_be_expected = False
            continue
        elif language == "python":
            found.append(Block(f"python3 - <<'END_OF_PYTHON'\n{text}END_OF_PYTHON\n", []))
        elif language == "sh":
            found.append(Block(text, []))
        may_be_expected = language in ("sh", "python", "text") and not match["note"]
    return found


def run(page: Path, directory: Path, more: dict[str, str] | None = None) -> list[str]:
    """Run a page in a directory; return what each block printed.

    Raises:
        AssertionError: a command failed.
    """
    home = directory.parent / "home"
    home.mkdir(exist_ok=True)
    (home / ".gitconfig").write_text(
        "[user]\n  name = Reader\n  email = reader@example.com\n[init]\n  defaultBranch = main\n"
        '[advice]\n  detachedHead = false\n[protocol "file"]\n  allow = always\n'
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "XDG_", "AWS_"))}
    env = kept | {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"}
    env |= {"LC_ALL": "C.UTF-8", "PAGER": "cat", "GIT_EDITOR": "true"} | (more or {})
    mark = "@@ next block @@"
    script = "set -e\n" + "".join(f"echo '{mark}'\n{block.script}" for block in blocks(page))
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=env,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    printed = done.stdout.split(mark + "\n")[1:]
    assert done.returncode == 0, f"{page.name}, after {blocks(page)[len(printed) - 1].script}:\n{printed[-1]}"
    return printed


def plain(line: str) -> str:
    """Return a line without what differs from machine to machine: numbers, units, digests, dates, widths."""
    line = re.sub(r"\b[0-9a-f]{7,64}\b", "#", line)
    line = re.sub(r"[0-9]+([.,][0-9]+)*(e[-+]?[0-9]+)?( ?[kMG]?B\b)?", "#", line)
    return re.sub(r"[+-]{2,}", "+", " ".join(line.split()))


def missing_lines(expected: list[str], printed: str) -> list[str]:
    """Return the expected lines that were not printed."""
    there = {plain(line) for line in printed.splitlines()}
    return [line for line in expected if line.strip() and "…" not in line and plain(line) not in there]


def small_model() -> bytes:
    """Return a model with the names of all-MiniLM-L6-v2 and few numbers, yet more than Git is given as they are."""
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.position_ids": (1, 64),
        "embeddings.LayerNorm.bias": (48,),
        "embeddings.LayerNorm.weight": (48,),
        "embeddings.position_embeddings.weight": (64, 48),
        "embeddings.token_type_embeddings.weight": (2, 48),
        "embeddings.word_embeddings.weight": (2000, 48),
    }
    for layer in range(6):
        for part, shape in _LAYER.items():
            shapes[f"encoder.layer.{layer}.{part}"] = shape
    shapes |= {"pooler.dense.bias": (48,), "pooler.dense.weight": (48, 48)}
    arrays = {name: (rng.standard_normal(shape) / 20).astype(np.float32) for name, shape in shapes.items()}
    arrays["embeddings.position_ids"] = np.arange(64).reshape(1, 64)
    return safetensors_bytes(arrays, {"format": "pt"})


_LAYER: dict[str, tuple[int, ...]] = {
    f"{place}.{kind}": shape if kind == "weight" else shape[:1]
    for place, shape in {
        "attention.output.LayerNorm": (48,),
        "attention.output.dense": (48, 48),
        "attention.self.key": (48, 48),
        "attention.self.query": (48, 48),
        "attention.self.value": (48, 48),
        "intermediate.dense": (192, 48),
        "output.LayerNorm": (48,),
        "output.dense": (48, 192),
    }.items()
    for kind in ("bias", "weight")
}


def real_model() -> Path:
    """Return where the weights of all-MiniLM-L6-v2 are, if `make demo` or a benchmark was run here."""
    return DOCS.parent / ".venv" / "minilm" / "model.safetensors"


def links(page: Path) -> list[str]:
    """Return the targets of all links and pictures of a page."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """Return the names of the headings of a page, as web pages have them."""
    if page.suffix == ".json":
        return set(json.loads(page.read_text()))
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
