"""The commands that git and our hooks run. No argparse: their arguments are given, and time counts."""

from __future__ import annotations

import os
import sys

from gitbridge.errors import UsageError


def filter_process(arguments: list[str]) -> int:
    """Serve git's filter protocol until the end of input."""
    from gitbridge.filter_process import run

    if arguments:
        raise UsageError(f"'{arguments[0]}': filter-process takes no arguments", "git theta install -s leaves pointers")
    if "GIT_THETA_UPDATE_TYPE" in os.environ:
        from gitbridge.git_theta_names import remark_on_lost_update

        remark_on_lost_update(os.environ)
    return run()


def clean(arguments: list[str]) -> int:
    """Turn one file on standard input into a pointer."""
    from gitbridge.filter_process import clean_once

    return clean_once(_path(arguments))


def smudge(arguments: list[str]) -> int:
    """Turn one pointer on standard input into the file."""
    from gitbridge.filter_process import smudge_once

    return smudge_once(_path(arguments))


def textconv(arguments: list[str]) -> int:
    """Print the text that stands for a file in diffs."""
    from gitbridge.textconv import text_of

    sys.stdout.buffer.write(text_of(_path(arguments)))
    return 0


def merge_driver(arguments: list[str]) -> int:
    """Merge two pointers, or say that they conflict: `%O %A %B %L %P`."""
    from gitbridge.merge_driver import merge

    if len(arguments) != 5:
        words = "merge-driver takes 5 arguments: base, ours, theirs, marker size, path"
        raise UsageError(words, "git runs it; to merge files by hand: git theta merge-file")
    base, ours, theirs, marker_size, path = arguments
    return merge(base, ours, theirs, marker_size, path)


def hook(arguments: list[str]) -> int:
    """Do our part of a git hook."""
    from gitbridge.cli import hook as hooks

    if not arguments:
        raise UsageError("hook takes the name of a hook")
    return hooks.run(arguments[0], arguments[1:])


def _path(arguments: list[str]) -> str:
    paths = arguments[1:] if arguments[:1] == ["--"] else arguments
    if len(paths) != 1:
        raise UsageError("this command is for git to run, with one path; see: git theta help")
    return paths[0]
