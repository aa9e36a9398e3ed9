"""Write the references of commands and settings, and the manual pages, from the code: `make docs`. A test compares."""

from __future__ import annotations

import sys
from pathlib import Path

from gitbridge.cli import git_lfs
from gitbridge.cli.main import COMMANDS, groups
from gitbridge.cli.parsers import all_parsers
from gitbridge.settings import CONFIGURATION, ENVIRONMENT, INTERNAL, Setting
from thetastore.cli.main import all_parsers as all_store_parsers
from thetastore.reference import describe, manual_page, markdown

ROOT = Path(__file__).parents[1]

_HEAD = """\
# Commands

Written by `make docs` from the parsers of the programs; a test fails where it is not current.

Results go to standard output, all else to standard error. Exit status: 0 done, 1 problems were found, 2 failed, 129 the
arguments were not understood, 130 interrupted, 141 nobody reads the output. `--json` output says `"schema": 1`;
where a command fails (2), it has an `error` with `code`, `message` and `hint`; `--progress=json` ends with the same.

What lists something has `--porcelain` for scripts, and its help names the fields of a line. Tabs are between them; an
empty field is not known or does not apply; lists are written as JSON; a backslash, a tab, a line feed and a carriage
return in a name as `\\\\`, `\\t`, `\\n`, `\\r`. Where lines are of several kinds, the first field says which. Later
versions may add fields at the end of a line, and kinds; nothing else changes. With `-z` a NUL byte ends each line.
Colours of `--color` are for people only. The lines of `git theta status` are shorter; they are described there.

"""
_SETTINGS_HEAD = """\
# Configuration

Written by `make docs` from `gitbridge/settings.py`; a test fails where it is not current. `git theta doctor` names
settings that mean nothing, and what was probably meant; `git theta env` shows what is in use.

## What wins

1. an option of the command line, and `git -c theta.name=value`
2. a variable of the environment
3. git configuration: of the work tree, the repository, the user, the system, in this order; for the remote store,
   `remote.<name>.thetaUrl` before `theta.url`
4. `.thetaconfig`: as the index has it, else the tree that is being checked out, else HEAD, else the newest that a
   branch of this repository, or the default branch of the remote, has
5. the repository that the git remote is, if it is on this machine: its local store, and what it is configured with
6. the default

`.thetaconfig` travels with the repository and has git's own syntax. Others write it: only what is marked *committed* is
read from it, without includes; and before weights go to a place that only it names and that is not one's own, somebody
has to agree (`theta.trustedUrl`).

"""
_GIT_LFS_HEAD = """\
# Commands and options of git-lfs

Written by `make docs` from `gitbridge/cli/git_lfs.py`; tests compare it with the parsers of `git theta` and with the
git-lfs that is installed. How to bring a repository over: [coming from Git LFS](how-to/from-git-lfs.md).

*same*: the same letters do the same, whatever the rest of the row adds. *differs*: it is there, and differs as is said.
*not here*: it is refused with these words, and with what to do instead.

| `git lfs` | `git theta` | |
| --- | --- | --- |
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
thetastore keeps models with versions in a content-addressed store, a directory or a bucket, without Git.
To start: thetastore init PLACE, then thetastore put PLACE/NAME FILE..., then get, log and tag PLACE/NAME[@VERSION].

Results go to standard output, all else to standard error.
Exit status: 0 done, 1 problems were found, 2 failed, 129 the arguments were not understood, 130 interrupted.
"""


def _configuration() -> str:
    text = _SETTINGS_HEAD + "## In git configuration\n\n| name | default | meaning |\n| --- | --- | --- |\n"
    text += "".join(_setting_row(setting) for setting in CONFIGURATION)
    text += "\n## In the environment\n\n| name | default | meaning |\n| --- | --- | --- |\n"
    text += "".join(_setting_row(setting) for setting in ENVIRONMENT)
    text += "\n## What git theta sets itself\n\n| name | meaning |\n| --- | --- |\n"
    return text + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in INTERNAL.items())


def _setting_row(setting: Setting) -> str:
    committed = " *committed*" if setting.is_committed else ""
    return f"| `{setting.name}`{committed} | {setting.default} | {setting.meaning} |\n"


def _git_lfs() -> str:
    text = _GIT_LFS_HEAD + "".join(_git_lfs_row(one.name, one) for one in git_lfs.COMMANDS)
    for command in git_lfs.COMMANDS:
        if command.options:
            text += f"\n## git lfs {command.name}\n\n| | | |\n| --- | --- | --- |\n"
            text += "".join(_git_lfs_row(option.spellings, option) for option in command.options)
    return text


def _git_lfs_row(name: str, row: git_lfs.Command | git_lfs.Option) -> str:
    words = f"{row.words}; instead: {row.instead}" if row.instead else row.words
    return f"| `{name}` | {row.kind} | {_escaped(words)} |\n"


def _escaped(words: str) -> str:
    """Leave code as it is, and have no `<` outside of it taken for a tag."""
    parts = words.split("`")
    return "`".join(part if position % 2 else part.replace("<", "\\<") for position, part in enumerate(parts))


def files() -> dict[Path, str]:
    """Return the content of each file that is generated, by its place."""
    bridge = [one for summary, parser in all_parsers().values() for one in describe(parser, summary)]
    store = [one for summary, parser in all_store_parsers().values() for one in describe(parser, summary)]
    overview = "".join(
        f"\n| {heading} | |\n| --- | --- |\n"
        + "".join(f"| [`{name}`](#git-theta-{name}) | {COMMANDS[name].summary} |\n" for name in names)
        for heading, names in groups()
        if names
    )
    return {
        ROOT / "docs" / "commands.md": f"{_HEAD}{overview.lstrip()}\n{markdown(bridge)}{_STORE_HEAD}{markdown(store)}",
        ROOT / "docs" / "configuration.md": _configuration(),
        ROOT / "docs" / "git-lfs.md": _git_lfs(),
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
