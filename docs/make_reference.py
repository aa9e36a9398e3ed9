"""Write docs/commands.md and the manual pages from the parsers: `make docs`. A test compares them."""

from __future__ import annotations

import sys
from pathlib import Path

from gitbridge.cli.main import COMMANDS, groups
from gitbridge.cli.parsers import all_parsers
from thetastore.cli import make_parser
from thetastore.reference import describe, manual_page, markdown

ROOT = Path(__file__).parents[1]

_HEAD = """\
# Commands

Written by `make docs` from the parsers of the programs; a test fails where it is not current.

Results go to standard output, all else to standard error. Exit status: 0 done, 1 problems were found, 2 failed, 129 the
arguments were not understood, 130 interrupted, 141 nobody reads the output. `--json` output says `"schema": 1`.

"""
_STORE_HEAD = """
# A store without Git: thetastore

"""
_GIT_OVERVIEW = """\
git theta keeps model weights in a store and their pointers in git, under plain git commands.
To start: git theta install, then git theta track '*.safetensors', then git add, commit and push as ever.

Results go to standard output, all else to standard error.
Exit status: 0 done, 1 problems were found, 2 failed, 129 the arguments were not understood, 130 interrupted.
"""
_STORE_OVERVIEW = """\
thetastore keeps files of model weights in a content-addressed store: a directory, without Git.
"""


def files() -> dict[Path, str]:
    """Return the content of each file that is generated, by its place."""
    bridge = [one for summary, parser in all_parsers().values() for one in describe(parser, summary)]
    store = list(describe(make_parser()))[1:]
    overview = "".join(
        f"\n| {heading} | |\n| --- | --- |\n"
        + "".join(f"| [`{name}`](#git-theta-{name}) | {COMMANDS[name].summary} |\n" for name in names)
        for heading, names in groups()
        if names
    )
    return {
        ROOT / "docs" / "commands.md": f"{_HEAD}{overview.lstrip()}\n{markdown(bridge)}{_STORE_HEAD}{markdown(store)}",
        ROOT / "docs" / "man" / "git-theta.1": manual_page(
            "git-theta", "model weights under plain git", _GIT_OVERVIEW, bridge, "git(1), thetastore(1)"
        ),
        ROOT / "docs" / "man" / "thetastore.1": manual_page(
            "thetastore", "a content-addressed store for model weights", _STORE_OVERVIEW, store, "git-theta(1)"
        ),
    }


def main() -> int:
    """Write what is not current, and name it."""
    for path, text in files().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
