"""The commands and options of git-lfs, and what each is here: the same, something else, or not there and why.

One table for three: by it parsers refuse what they do not have, `git theta` explains the commands that it lacks, and
the page for people who come from git-lfs is written. A test compares it with the parsers, and with the git-lfs that is
installed.

Source: the manual pages and flags of git-lfs 3.7.1 (docs/man and commands/ of its repository).
"""

from __future__ import annotations

from typing import NamedTuple

SAME, DIFFERS, ABSENT = "same", "differs", "not here"


class Option(NamedTuple):
    """One option, or what a command takes besides."""

    spellings: str
    """As git-lfs has them, with commas: `-d, --dry-run`. What begins with no dash is an argument."""
    kind: str
    """`SAME`, `DIFFERS` or `ABSENT`."""
    words: str = ""
    """How it differs, or why it is not there."""
    instead: str = ""
    """A command that does what was wanted; only of what is not there."""

    @property
    def names(self) -> tuple[str, ...]:
        """The spellings that a parser knows, one by one; none of an argument."""
        return tuple(word for word in self.spellings.replace(",", " ").split() if word.startswith("-"))


class Command(NamedTuple):
    """One command; its options count only where there is such a command here."""

    name: str
    kind: str
    words: str = ""
    instead: str = ""
    options: tuple[Option, ...] = ()


_GLOBS = "-I, --include", "-X, --exclude"
_INCLUDE, _EXCLUDE = (Option(spelling, SAME) for spelling in _GLOBS)
_JSON = Option("-j, --json", DIFFERS, 'has fields of its own, with `"schema": 1`')
_NO_LOCKS = "there are no locks: what two people change in one model is merged, tensor by tensor"
_MERGING = "git theta mergetool decides what both have changed"
_BY_GIT = "git runs it by itself, and nobody else needs to"
_SCOPES = (
    Option("-l, --local", SAME),
    Option("-w, --worktree", SAME),
    Option("--system", SAME),
    Option("--file", SAME),
)
_MIGRATING = (
    _INCLUDE,
    _EXCLUDE,
    Option("--everything", DIFFERS, "all branches and tags of this repository, and none of remotes"),
    Option("--include-ref", ABSENT, "branches and tags are named as they are", "git theta migrate {} ... REF"),
    Option(
        "--exclude-ref",
        ABSENT,
        "whole histories are rewritten: old and new versions of one file side by side help nobody",
        "git theta migrate import --no-rewrite, which rewrites nothing",
    ),
    Option("--skip-fetch", SAME, "always so: nothing is fetched from git remotes"),
    Option("-y, --yes", DIFFERS, "asks before history is rewritten; changes that are not committed are never lost"),
)
_REWRITING = (
    Option("--verbose", SAME, "also `-v`"),
    Option(
        "--object-map",
        ABSENT,
        "old and new names of commits are always written down, in .git/theta-migrate/<number>/commits",
        "git theta migrate {} --verbose, which prints them",
    ),
)


def _with_command(options: tuple[Option, ...], action: str) -> tuple[Option, ...]:
    return tuple(one._replace(instead=one.instead.format(action)) for one in options)


COMMANDS = (
    Command(
        "checkout",
        DIFFERS,
        "fetches what is not here, where git-lfs leaves the pointer",
        options=(
            Option("--base", SAME),
            Option("--ours", SAME),
            Option("--theirs", SAME),
            Option("--to", DIFFERS, "an existing FILE is kept, but with `--force`; and takes `REV:PATH` as well"),
        ),
    ),
    Command("clean", SAME, _BY_GIT),
    Command(
        "clone",
        ABSENT,
        "git clone fills all files of a checkout at once, so no second command is faster",
        "git clone URL; for some files only: GIT_THETA_SKIP_SMUDGE=1 git clone URL, then git theta pull -I GLOBS",
    ),
    Command("completion", SAME),
    Command(
        "dedup",
        ABSENT,
        "the store holds chunks and differences, and no copies of files that a file system could share",
        "git theta prune frees the local store of what the remote store has",
    ),
    Command("env", SAME, "also `--json`"),
    Command(
        "ext",
        ABSENT,
        "filters cannot be chained; formats, codecs and updates are extended by Python packages",
        "docs/python.md says how",
    ),
    Command(
        "fetch",
        DIFFERS,
        "also brings what the index needs and HEAD does not",
        options=(
            _INCLUDE,
            _EXCLUDE,
            Option("-r, --recent", SAME, "settings: `theta.fetchRecentRefsDays` and so on"),
            Option("-a, --all", DIFFERS, "may be joined with `-I` and `-X`, which then choose files of the history"),
            Option("--stdin", SAME),
            Option("-p, --prune", SAME),
            Option(
                "--refetch",
                ABSENT,
                "what is in the local store was proven when it came, and is not fetched again",
                "git theta fsck --repair looks through it and brings back what is damaged",
            ),
            Option("-d, --dry-run", SAME, "also `-n`; says how large files are, for what is sent is known only then"),
            _JSON,
            Option("[REMOTE [REF...]]", SAME),
        ),
    ),
    Command(
        "filter-process",
        SAME,
        _BY_GIT,
        options=(Option("-s, --skip", ABSENT, "a setting says so, for all of our programs", "git theta install -s"),),
    ),
    Command(
        "fsck",
        DIFFERS,
        "checks all of the local store (`--remote`: of a remote one), and moves nothing unless told to `--repair`",
        options=(
            Option("--objects", SAME, "always so"),
            Option(
                "--pointers",
                ABSENT,
                "pointers are checked with all else that should not be merged",
                "git theta check HEAD",
            ),
            Option("-d, --dry-run", SAME, "always so, unless `--repair` is given"),
            Option(
                "REVISION",
                ABSENT,
                "a store is checked whole: versions share most of what is in it",
                "git theta ls-files REVISION says what of it is missing",
            ),
        ),
    ),
    Command(
        "install",
        SAME,
        "also puts in hooks beside those that are there",
        options=(
            Option("-f, --force", SAME),
            *_SCOPES,
            Option("-s, --skip-smudge", SAME),
            Option(
                "--skip-repo", DIFFERS, "the filter puts hooks in when it runs, but with `theta.installHooks` false"
            ),
            Option("-m, --manual", SAME),
        ),
    ),
    Command("lock", ABSENT, _NO_LOCKS, _MERGING),
    Command("locks", ABSENT, _NO_LOCKS, _MERGING),
    Command("unlock", ABSENT, _NO_LOCKS, _MERGING),
    Command(
        "logs",
        SAME,
        options=(
            Option("FILE", SAME),
            Option("last", SAME),
            Option("show", SAME),
            Option("clear", SAME),
            Option("boomtown", ABSENT, "nothing here fails on purpose", "git theta logs lists what did fail"),
        ),
    ),
    Command(
        "ls-files",
        DIFFERS,
        "lists what the index has, with sizes and in words where the weights are; of all versions "
        "(`--all`, `--deleted`) the first ten digits",
        options=(
            Option("-l, --long", SAME, "digits of the file's BLAKE3 digest"),
            Option("-s, --size", SAME, "always so, but for `-n`"),
            Option("-d, --debug", ABSENT, "all that is known is for programs", "git theta ls-files --json --tensors"),
            Option("-a, --all", SAME),
            Option("--deleted", SAME),
            _INCLUDE,
            _EXCLUDE,
            Option("-n, --name-only", SAME),
            _JSON,
            Option("[REF [REF]]", SAME),
        ),
    ),
    Command(
        "merge-driver",
        DIFFERS,
        "merges tensors, not lines, and git runs it; by hand: git theta merge-file",
        options=(
            Option(
                "--ancestor, --current, --other, --output, --marker-size, --program",
                ABSENT,
                "git passes what it needs",
                "git theta merge-file --help",
            ),
        ),
    ),
    Command(
        "migrate export",
        DIFFERS,
        "takes all files that are tracked, but with `-I`, and their lines out of .gitattributes",
        options=(
            *_with_command(_MIGRATING, "export"),
            *_with_command(_REWRITING, "export"),
            Option(
                "--remote",
                ABSENT,
                "weights come from the stores of all remotes",
                "git config theta.url PLACE names one more",
            ),
        ),
    ),
    Command(
        "migrate import",
        DIFFERS,
        "`--from` says what has the files: `git`, `lfs`, `git-theta`, `huggingface`; pushed commits are rewritten, too",
        options=(
            *_with_command(_MIGRATING, "import"),
            *_with_command(_REWRITING, "import"),
            Option("--no-rewrite", SAME, "with patterns (`-I`) where git-lfs takes files"),
            Option("-m, --message", SAME),
            Option(
                "--above",
                ABSENT,
                "attributes go by names, and a file would change sides with its length",
                "git theta migrate info --above SIZE prints patterns for -I",
            ),
            Option(
                "--fixup",
                ABSENT,
                "files are taken as .gitattributes says unless -I is given",
                "git theta migrate import --from git",
            ),
        ),
    ),
    Command(
        "migrate info",
        DIFFERS,
        "looks at all branches and tags unless some are named; `--measure` tries what the store would take",
        options=(
            Option("--above", DIFFERS, "1m where it is not given; sizes are spelled as git's: `500k`, `2g`"),
            Option("--top", DIFFERS, "10 where it is not given"),
            Option("--unit", ABSENT, "sizes have the unit that fits", "git theta migrate info --json, in bytes"),
            Option(
                "--pointers",
                ABSENT,
                "pointers of Git LFS count as the files that they stand for",
                "git theta migrate info",
            ),
            Option(
                "--fixup",
                ABSENT,
                "plain files under tracked names are found in the newest commits, where that can be mended",
                "git theta status",
            ),
            Option(
                "-I, --include, -X, --exclude",
                ABSENT,
                "all patterns are listed, largest first",
                "git theta migrate info --top 50",
            ),
            Option("--everything", SAME, "always so unless a REF is named"),
            Option("--include-ref", ABSENT, "branches and tags are named as they are", "git theta migrate info REF"),
            Option("--exclude-ref", ABSENT, "whole histories are counted", "git theta migrate info REF"),
            Option("--skip-fetch", SAME, "always so: nothing is fetched from git remotes"),
            Option("-y, --yes", ABSENT, "nothing is asked: nothing is changed", "git theta migrate info"),
        ),
    ),
    Command(
        "pointer",
        ABSENT,
        "a pointer is made by git add alone: it stands for what the store then has",
        "git theta show FILE says what it stands for, git theta check whether it is sound",
    ),
    *(
        Command(name, ABSENT, _BY_GIT, "git theta install puts hooks in")
        for name in ("post-checkout", "post-commit", "post-merge")
    ),
    Command(
        "pre-push",
        ABSENT,
        "git runs it by itself, from the hook",
        "git theta push REMOTE sends weights, with --dry-run it says which",
    ),
    Command(
        "prune",
        DIFFERS,
        "lets go of nothing that was not seen in a remote store; files of commits younger than theta.pruneDays stay",
        options=(
            Option("-d, --dry-run", SAME, "also `-n`"),
            Option("-f, --force", SAME),
            Option("--recent", SAME),
            Option("-c, --verify-remote", SAME, "always so"),
            Option(
                "--no-verify-remote",
                ABSENT,
                "what is nowhere else would be lost",
                "git theta prune, which looks at once",
            ),
            Option("--verify-unreachable", SAME, "always so"),
            Option("--no-verify-unreachable", SAME),
            Option(
                "--when-unverified",
                ABSENT,
                "what is not in a remote store stays, and the rest goes: that is 'continue'",
                "git theta prune --dry-run -v says what is only here",
            ),
            Option("-v, --verbose", SAME, "sums, not objects: there are thousands"),
        ),
    ),
    Command("pull", SAME, options=(_INCLUDE, _EXCLUDE, Option("[REMOTE]", SAME))),
    Command(
        "push",
        DIFFERS,
        "sends what the store of the remote lacks, whatever git's remote-tracking branches say; without REF: of HEAD",
        options=(
            Option("-d, --dry-run", SAME, "also `-n`"),
            Option("-a, --all", SAME),
            Option("--stdin", SAME),
            Option(
                "-o, --object-id",
                ABSENT,
                "weights go with a commit that needs them: what no commit keeps would be collected",
                "git theta push REMOTE COMMIT",
            ),
            Option("REMOTE [REF...]", SAME, "without REMOTE: where git push would send commits"),
        ),
    ),
    Command(
        "smudge",
        SAME,
        _BY_GIT,
        options=(Option("-s, --skip", ABSENT, "a setting says so, for all of our programs", "git theta install -s"),),
    ),
    Command(
        "standalone-file",
        ABSENT,
        "a directory is a remote store like any other",
        "git config theta.url /path/to/directory",
    ),
    Command(
        "status",
        DIFFERS,
        "says of each file what there is to say; exit status 1 if weights are nowhere",
        options=(
            Option("-p, --porcelain", DIFFERS, "four letters and a path, for ever the same: git theta help status"),
            _JSON,
        ),
    ),
    Command(
        "track",
        SAME,
        options=(
            Option("-v, --verbose", SAME, "names the files that match"),
            Option("-d, --dry-run", SAME, "also `-n`"),
            Option("--filename", SAME),
            Option("-l, --lockable", ABSENT, _NO_LOCKS, _MERGING),
            Option("--not-lockable", SAME, "always so"),
            Option("--no-excluded", SAME, "always so"),
            Option(
                "--no-modify-attrs",
                ABSENT,
                "git itself stores files anew whose attributes have changed",
                "git add --renormalize FILE...",
            ),
            _JSON,
            Option("[PATTERN...]", SAME),
        ),
    ),
    Command(
        "uninstall",
        DIFFERS,
        "without a scope: from the user's and this repository's configuration",
        options=(*_SCOPES, Option("--skip-repo", SAME)),
    ),
    Command("untrack", SAME),
    Command(
        "update",
        ABSENT,
        "hooks are brought up to date wherever the filter runs",
        "git theta install --local does it at once, and its --manual prints them",
    ),
    Command(
        "version",
        SAME,
        "also `git theta --version`, `-v`",
        options=(Option("-c, --comics", ABSENT, "there are none", "git theta version"),),
    ),
)
"""In the order of the alphabet."""


def command_of(name: str) -> Command | None:
    """Return what git-lfs has under a name."""
    return next((one for one in COMMANDS if one.name == name), None)
