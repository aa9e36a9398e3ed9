"""Every setting there is, in one table: what the documentation shows, and what `git theta doctor` compares with.

A setting of git configuration is read as git reads it: system, user, repository, work tree, then `git -c`; what is read
last counts. A variable of the environment goes before configuration, an option of the command line before both.
`.thetaconfig` is written by others, so only what can do no harm is read from it, and only where configuration says
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple


class Setting(NamedTuple):
    """One setting."""

    name: str
    """As it is set: `theta.url`, `remote.<name>.thetaUrl`, `GIT_THETA_SKIP_SMUDGE`."""
    default: str
    """What holds where it is not set, in words."""
    meaning: str
    is_committed: bool = False
    """Whether `.thetaconfig` may say it, too."""


CONFIGURATION = (
    Setting(
        "theta.url",
        "the store of the git remote, where that is a repository on this machine",
        "The remote store: where `git push` sends weights, and where they are fetched from. A relative path counts "
        "from the top of the work tree.",
        is_committed=True,
    ),
    Setting("remote.<name>.thetaUrl", "`theta.url`", "The remote store of one git remote; goes before `theta.url`."),
    Setting(
        "theta.storage",
        "`theta` in the git directory",
        "Directory of the local store. Several repositories may share one; so may several users, where its group may "
        "write to it (`thetastore init --shared`).",
    ),
    Setting(
        "theta.storageLimit",
        "none",
        "How large the local store may be (`200g`): `git theta prune` lets go of no more than is too much for that; "
        "what was used longest ago goes first.",
    ),
    Setting(
        "theta.pruneDays",
        "10",
        "`git theta prune` keeps the files of commits that are younger than so many days.",
    ),
    Setting(
        "theta.trustedUrl",
        "none",
        "Directories and URLs that only `.thetaconfig` names and that somebody here agreed to send weights to. "
        "Repeatable.",
    ),
    Setting(
        "theta.<url>.<option>",
        "what the environment says",
        "What gets one into stores at a URL and below: `theta.s3://models.profile`, `.endpoint-url`, `.anon`, "
        "`.stall-seconds` and all else that fsspec takes there (docs/remotes.md). The longest URL counts.",
    ),
    Setting(
        "theta.fetchInclude",
        "all files",
        "Globs of the files whose weights this clone fetches, separated by commas, as git-lfs has them. The others "
        "stay pointers, unless the local store has them anyway (one that is shared: `theta.storage`). An empty value "
        "forgets those before it.",
    ),
    Setting(
        "theta.fetchExclude",
        "none",
        "Globs of files whose weights this clone does not fetch; goes before `theta.fetchInclude`.",
    ),
    Setting(
        "theta.fetchTensors",
        "all tensors",
        "Globs of the tensors that this clone keeps, separated by commas; `*` matches dots, too. Files of which it "
        "does not have all stay pointers. For once, all: `git -c theta.fetchTensors= theta pull`.",
    ),
    Setting(
        "theta.fetchRecentRefsDays",
        "7",
        "`git theta fetch --recent` brings the files of branches whose last commit is younger than so many days; 0: of "
        "none. This and the next three are as git-lfs has them.",
    ),
    Setting(
        "theta.fetchRecentCommitsDays",
        "0",
        "... and what commits changed that are at most so many days older than the last one of their branch.",
    ),
    Setting("theta.fetchRecentRemoteRefs", "true", "Whether the branches of the remote count for that, too."),
    Setting("theta.fetchRecentAlways", "false", "Whether each `git theta fetch` is one with `--recent`."),
    Setting(
        "theta.allowPart",
        "false",
        "Whether a file that `git theta checkout --tensors` wrote may be added in the place of the whole.",
    ),
    Setting(
        "theta.base",
        "the nearest model of the same family",
        "What differences of a new file are taken from: `REV:PATH` or `REV`. Also an attribute of a path in "
        "`.gitattributes`, which goes first.",
    ),
    Setting(
        "theta.allowIncompletePush",
        "false",
        "Lets a push go on whose history holds weights that are nowhere any more.",
    ),
    Setting(
        "theta.skipSmudge",
        "false",
        "Leaves pointers in the work tree on checkout and clone; `git theta pull` fills them.",
    ),
    Setting(
        "theta.merge.method",
        "none: a conflict stays one",
        "How tensors that both sides changed are mixed: `average`, `ties density=0.5`. Also an attribute of a path "
        "(with `;` for spaces), which counts first; a recipe counts before both.",
    ),
    Setting("theta.merge.recipe", "`.thetamerge`", "The committed file that says which method decides which tensors."),
    Setting(
        "theta.installHooks", "true", "Whether the filter puts our hooks in where they are missing, as git-lfs does."
    ),
    Setting(
        "theta.warnSize",
        "10m",
        "From which size on `git theta status` and `doctor` name a checkpoint that git itself would take whole; "
        "0 names none.",
    ),
    Setting(
        "theta.checkAllow",
        "nothing",
        "What `git theta check` lets break a rule: `RULE` or `RULE:GLOB`. Repeatable.",
        is_committed=True,
    ),
    Setting("theta.checkMaxSize", "any", "Of how many bytes a file may be for `git theta check`.", is_committed=True),
    Setting(
        "theta.checkMaxNew",
        "any",
        "How many bytes of weights may be new since the base for `git theta check`.",
        is_committed=True,
    ),
)
"""What people set in git configuration."""

INTERNAL = {
    "theta.program": "which program hooks run; `git theta install` sets it",
    "theta.addBase": "what `git theta add --base` sets for the `git add` that it runs",
}
"""What we set ourselves, with its meaning."""

ENVIRONMENT = (
    Setting(
        "THETASTORE_OPTIONS",
        "nothing",
        "What gets the command `thetastore` into stores at URLs, as a JSON object by URL: "
        '`{"s3://models": {"profile": "work"}}` (docs/remotes.md).',
    ),
    Setting("THETASTORE_AUTHOR", "the user's name", "Who puts a version with the command `thetastore`."),
    Setting("THETASTORE_PROGRESS", "`auto`", "What GIT_THETA_PROGRESS is, for the command `thetastore`."),
    Setting(
        "GIT_THETA_SKIP_SMUDGE",
        "`theta.skipSmudge`",
        "1 leaves pointers in the work tree for this command, as GIT_LFS_SKIP_SMUDGE does; 0 does not.",
    ),
    Setting("GIT_THETA_UPDATE_TYPE", "not set", "What `git theta add` takes for --update-type (docs/updates.md)."),
    Setting("GIT_THETA_UPDATE_DATA_PATH", "not set", "What `git theta add` takes for --update-path, with that."),
    Setting("GIT_THETA_MERGE_METHOD", "`theta.merge.method`", "The method for all tensors of this one merge."),
    Setting(
        "GIT_THETA_PROGRESS",
        "`auto`",
        "How progress is shown: `auto` (a line on a terminal, else a line every ten seconds), `json`, `none`.",
    ),
    Setting(
        "XDG_CACHE_HOME",
        "`~/.cache`",
        "Below it, in `thetastore`, is what can be made again: clones that Python opened by URL, snapshots, what `gc` "
        "has read.",
    ),
    Setting("NO_COLOR", "not set", "Any value switches colours off, where a command has them."),
)

PREFIXES = ("GIT_THETA_", "THETASTORE_")
"""Variables that begin so are meant for us."""


def truth(word: str) -> bool | None:
    """Return what a word means as a truth value, as git takes it; None for any other word."""
    return {
        **dict.fromkeys(("true", "yes", "on", "1"), True),
        **dict.fromkeys(("false", "no", "off", "0", ""), False),
    }.get(word.lower())


def skips_smudge(configured: bool) -> bool:
    """Tell whether pointers stay pointers: the environment says so, else the configuration."""
    word = os.environ.get("GIT_THETA_SKIP_SMUDGE")
    asked = None if word is None else truth(word)
    return configured if asked is None else asked


class Unknown(NamedTuple):
    """A setting that means nothing."""

    name: str
    near: str
    """What was probably meant, or empty."""


def unknown_settings(names: Iterable[str]) -> list[Unknown]:
    """Return those names, as git lists them, that are in our section and mean nothing."""
    names_of_ours = [setting.name for setting in CONFIGURATION if setting.name.startswith("theta.")]
    known = [name for name in names_of_ours if "<" not in name] + list(INTERNAL)
    meant = {name.lower() for name in known}
    ours = [name for name in names if name.startswith("theta.") and name.lower() not in meant and "://" not in name]
    return [Unknown(name, _nearest(name, known)) for name in dict.fromkeys(ours)]


def unknown_variables(names: Iterable[str]) -> list[Unknown]:
    """Return those variables of the environment that are meant for us and mean nothing."""
    from gitbridge.git_theta_names import REPLACED

    known = [setting.name for setting in ENVIRONMENT]
    ours = [name for name in names if name.startswith(PREFIXES) and name not in known and name not in REPLACED]
    return [Unknown(name, _nearest(name, known)) for name in sorted(ours)]


def without_effect(names: Iterable[str]) -> list[str]:
    """Return those names of a `.thetaconfig` that are not read from there."""
    read = {setting.name.lower() for setting in CONFIGURATION if setting.is_committed}
    return [name for name in dict.fromkeys(names) if name.lower() not in read]


def parse_size(text: str) -> int | None:
    """Return a number of bytes, spelled as in git configuration (`10m`); None where it is none."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}.get(text[-1:].lower(), 1)
    digits = text[:-1] if factor > 1 else text
    return int(digits) * factor if digits.isascii() and digits.isdigit() else None


def _nearest(name: str, known: list[str]) -> str:
    from thetastore.errors import near_names

    by_rest = {_rest(word): word for word in known}
    return next((by_rest[word] for word in near_names(_rest(name), list(by_rest), 1)), "")


def _rest(name: str) -> str:
    """Return what tells a name from others: its beginning would make all of them alike."""
    for prefix in ("theta.", *PREFIXES):
        name = name.removeprefix(prefix)
    return name.lower()
