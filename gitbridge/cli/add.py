"""`git theta add`."""

from __future__ import annotations

import argparse
import os
import subprocess
from typing import NamedTuple

from gitbridge.attributes import paths_with_filter
from gitbridge.bases import ADD_SETTING, manifest_at
from gitbridge.cli.opening import make_ready, open_work_tree
from gitbridge.errors import GitError, RevisionError, UsageError
from gitbridge.repository import Repository
from gitbridge.trees import tracked_in_tree
from thetastore.command_line import Parser
from thetastore.digest import Digest

_EPILOG = """\
REV:PATH is a file of a revision, PATH from the top of the work tree (or ./PATH). REV alone is, for each file, the file
of the same path in that revision. Tensors are compared with those of the same name and type, and shape but for the
number of rows; where names differ, with those of the same shape whose numbers are like theirs. A difference is stored
only where that takes less, and what the store has already stays as it is.

The same can be set for good, for files that Git does not hold yet at their path (if it does, that version is the base):
  in .gitattributes   fine-tunes/* theta.base=v1:model.safetensors
  in configuration    git config theta.base v1:model.safetensors
Attributes go first. Without any of these, the nearest model of the same family in the store is looked for.
"""


class _Base(NamedTuple):
    path: str
    manifest_digest: Digest


def add(arguments: list[str]) -> int:
    """Run `git add` with a base to take differences from."""
    parser = Parser(
        prog="git theta add",
        usage="git theta add --base REV[:PATH] [--] FILE...",
        description="Add files, as git add does, and store them as differences from a file that you name.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", required=True, metavar="REV[:PATH]", help="what to take differences from")
    parser.add_argument("files", nargs="+", metavar="FILE", help="files or directories")
    options = parser.parse_args(arguments)
    with open_work_tree() as repository:
        make_ready(repository)
        paths = _paths(repository, options.files)
        oid = _resolve(repository, options.base)
        bases = _bases(repository, options.base, oid, paths)
        _fetch(repository, bases)
        command = ["git", "-c", f"{ADD_SETTING}={oid}", "add", "--", *options.files]
        done = subprocess.run(command, env=repository.environment, check=False)
    return 2 if done.returncode else 0


def _paths(repository: Repository, arguments: list[str]) -> list[str]:
    """Return the files to add that are ours, from the top of the work tree."""
    listed = repository.git(
        "ls-files", "-z", "--full-name", "--cached", "--others", "--", *arguments, cwd=os.getcwd()
    ).split(b"\0")[:-1]
    paths = list(dict.fromkeys(map(os.fsdecode, listed)))
    ours = paths_with_filter(repository, paths)
    if not paths:
        raise UsageError(f"'{arguments[0]}' names no file")
    if not ours:
        raise UsageError(
            f"'{paths[0]}' is not tracked by git theta: git would take it whole", f"git theta track '{paths[0]}'"
        )
    return ours


def _resolve(repository: Repository, name: str) -> str:
    try:
        oid = repository.git("rev-parse", "--verify", "--end-of-options", name, cwd=os.getcwd()).decode().strip()
    except GitError:
        revision, colon, path = name.partition(":")
        what = f"there is no '{path}' in '{revision}'" if colon else f"'{name}' is no revision"
        hint = f"git theta ls-files {revision} lists what it tracks" if colon else "git log --all"
        raise RevisionError(f"no base '{name}': {what}", hint) from None
    return oid


def _bases(repository: Repository, name: str, oid: str, paths: list[str]) -> list[_Base]:
    """Return the files that will be bases.

    Raises:
        RevisionError: there are none.
    """
    if repository.git("cat-file", "-t", oid).strip() == b"blob":
        return [_Base(name, _manifest(repository, name, oid))]
    wanted = set(paths)
    found = [_Base(file.path, file.manifest_digest) for file in tracked_in_tree(repository, oid) if file.path in wanted]
    if not found:
        raise RevisionError(
            f"no base: '{name}' tracks no '{paths[0]}'",
            f"name a file of it: --base {name}:PATH (git theta ls-files {name} lists them)",
        )
    return found


def _manifest(repository: Repository, name: str, oid: str) -> Digest:
    try:
        digest = manifest_at(repository, oid, "")
    except RevisionError as error:
        raise RevisionError(f"no base: '{name}' is not a file that git theta tracks", error.hint) from None
    assert digest is not None, "a pointer by its oid is found or refused"
    return digest


def _fetch(repository: Repository, bases: list[_Base]) -> None:
    from gitbridge.render import Progress
    from gitbridge.sync import fetch_manifests

    progress = Progress("fetching the base")
    try:
        with repository.open_store() as local:
            fetch_manifests(repository, local, bases, None, report=progress)
    finally:
        progress.done()
