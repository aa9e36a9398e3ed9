"""`git theta add`."""

from __future__ import annotations

import argparse
import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.attributes import paths_with_filter
from gitbridge.bases import ADD_SETTING, manifest_at
from gitbridge.cli.opening import make_ready, open_work_tree
from gitbridge.cli.options import add_progress_options
from gitbridge.errors import GitError, RevisionError, UsageError
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.trees import tracked_in_tree
from thetastore.command_line import Parser
from thetastore.digest import Digest

if TYPE_CHECKING:
    from gitbridge.updates import Updated

_EPILOG = """\
REV:PATH is a file of a revision, PATH from the top of the work tree (or ./PATH). REV alone is, for each file, the file
of the same path in that revision. Tensors are compared with those of the same name and type, and shape but for the
number of rows; where names differ, with those of the same shape whose numbers are like theirs. A difference is stored
only where that takes less, and what the store has already stays as it is.

The same can be set for good, for files that Git does not hold yet at their path (if it does, that version is the base):
  in .gitattributes   fine-tunes/* theta.base=v1:model.safetensors
  in configuration    git config theta.base v1:model.safetensors
Attributes go first. Without any of these, the nearest model of the same family in the store is looked for.

With an update, FILE becomes what the update makes of the base (without --base: of the file of the same path in HEAD),
in the work tree too, and only the update is stored. A FILE that is there and is not the base was merged by you: it
stays as it is, and what the update does not explain of it is stored too. Types of updates:
  low-rank  TENSOR/R and TENSOR/C, whose product is added; or a directory of PEFT (LoRA, DoRA)
  ia3       TENSOR/ia3, by which it is multiplied; or a directory of PEFT (IA3)
  sparse    TENSOR/data, indices, indptr and shape of what is added
  dense     TENSOR, whole
  auto      any of these; without --update-path, what is found in the difference of FILE from its base
docs/updates.md says what is computed, and what other packages may add.
"""


class _Base(NamedTuple):
    path: str
    manifest_digest: Digest


def add(arguments: list[str]) -> int:
    """Run `git add`, with a base to take differences from, or with an update."""
    options = _parser().parse_args(arguments)
    kind, side_path = _update_of(options)
    with open_work_tree() as repository:
        make_ready(repository)
        if kind is not None:
            return _update(repository, options, kind, side_path)
        command = ["git", "add", "--", *options.files]
        if options.base is not None:
            paths = _paths(repository, options.files)
            oid = _resolve(repository, options.base)
            _fetch(repository, _bases(repository, options.base, oid, paths))
            command[1:1] = ["-c", f"{ADD_SETTING}={oid}"]
        done = subprocess.run(command, env=repository.environment, check=False)
    return 2 if done.returncode else 0


def _parser() -> Parser:
    parser = Parser(
        prog="git theta add",
        usage="git theta add [--base REV[:PATH]] [--update-type TYPE [--update-path FILE]] [--] FILE...",
        description="Add files, as git add does, and say what they are made from: a file that you name, an update.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", metavar="REV[:PATH]", help="what to take differences from, or to update")
    parser.add_argument("--update-type", metavar="TYPE", help="low-rank, ia3, sparse, dense, auto, or of a plug-in")
    parser.add_argument(
        "--update-path", "--update-data", metavar="FILE", help="where the update is: a file, or a PEFT directory"
    )
    parser.add_argument("--json", action="store_true", help="what became of the files, for programs")
    add_progress_options(parser)
    parser.add_argument("--checkpoint-type", metavar="TYPE", help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="+", metavar="FILE", help="files or directories")
    return parser


def _update_of(options: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the type of the update and where it is, by the options, else by what Git-Theta's users have set."""
    from gitbridge.git_theta_names import UPDATE_TYPE, remark_on, update_from_environment

    if options.checkpoint_type is not None:
        remark_on("--checkpoint-type")
    if options.update_type is None and options.update_path is None:
        kind, side_path = update_from_environment(os.environ)
        os.environ.pop(UPDATE_TYPE, None)  # heard: the filter need not say that it is not
    else:
        kind, side_path = options.update_type or "auto", options.update_path
    if options.json and kind is None:
        raise UsageError("--json is for updates", "git theta add --update-type TYPE")
    return kind, side_path


def _update(repository: Repository, options: argparse.Namespace, kind: str, side_path: str | None) -> int:
    from gitbridge.updates import Asked, ToUpdate, update_files

    paths = _paths(repository, options.files, may_be_new=True)
    name = "HEAD" if options.base is None else options.base
    oid = _resolve(repository, name)
    bases = _bases(repository, name, oid, paths)
    if len(bases) == 1 and options.base is not None and ":" in name:
        bases = [_Base(path, bases[0].manifest_digest) for path in paths]
    lacking = sorted(set(paths) - {base.path for base in bases})
    if lacking:
        raise RevisionError(f"no base: '{name}' tracks no '{lacking[0]}'", f"name a file of it: --base {name}:PATH")
    _fetch(repository, bases)
    whole = name if ":" in name else f"{name}:"
    files = [ToUpdate(base.path, base.manifest_digest, whole + ("" if ":" in name else base.path)) for base in bases]
    updated = update_files(repository, files, Asked(kind, side_path))
    if options.json:
        import json

        print(json.dumps({"schema": 1, "files": [one._asdict() for one in updated]}))
        return 0
    if options.quiet:
        return 0
    from gitbridge.render import count_text

    for one in updated:
        what = f"{one.kind}, {one.changed_count} of {count_text(one.tensor_count, 'tensor')}"
        differing = f"; {count_text(one.differing_count, 'element')} of your file differ from that, and are kept"
        fixed = differing if one.differing_count else ""
        print(f"{one.path}: {what}, {_stored_text(one)}{fixed}")
    return 0


def _stored_text(updated: Updated) -> str:
    """Return how much is stored, and as what, where that is not updates alone."""
    from gitbridge.render import size_text

    forms = {"as updates": updated.update_bytes, "as differences": updated.difference_bytes}
    forms = {form: count for form, count in (forms | {"whole": updated.whole_bytes}).items() if count}
    text = f"{size_text(sum(forms.values()))} stored for {size_text(updated.file_bytes)}"
    if list(forms) in ([], ["as updates"]):
        return text
    if len(forms) == 1:
        return f"{text}, {next(iter(forms))}"
    return f"{text} ({', '.join(f'{size_text(count)} {form}' for form, count in forms.items())})"


def _paths(repository: Repository, arguments: list[str], may_be_new: bool = False) -> list[str]:
    """Return the files to add that are ours, from the top of the work tree."""
    assert repository.work_tree is not None, "there is an index"
    new = [] if not may_be_new else [argument for argument in arguments if not os.path.lexists(argument)]
    listed = repository.git(
        "ls-files", "-z", "--full-name", "--cached", "--others", "--", *arguments, cwd=os.getcwd()
    ).split(b"\0")[:-1]
    here = os.path.realpath(os.getcwd())
    top = os.path.realpath(repository.work_tree)
    new = [os.path.relpath(os.path.join(here, argument), top) for argument in new]
    paths = list(dict.fromkeys([*map(os.fsdecode, listed), *(path for path in new if not path.startswith(".."))]))
    ours = paths_with_filter(repository, paths)
    if not paths:
        raise UsageError(f"'{arguments[0]}' names no file", "git status lists files that are new or changed")
    if not ours:
        raise UsageError(
            f"'{paths[0]}' is not tracked by git theta: git would take it whole", f"git theta track '{paths[0]}'"
        )
    return ours


def _resolve(repository: Repository, name: str) -> str:
    try:
        oid = repository.git("rev-parse", "--verify", "--end-of-options", name, cwd=os.getcwd()).decode().strip()
    except GitError:
        revision, _, path = name.partition(":")
        if revision:
            resolve(repository, revision)  # or an error that says what is near
        hint = f"git theta ls-files {revision} lists what it tracks"
        raise RevisionError(f"no base '{name}': there is no '{path}' in '{revision}'", hint) from None
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
    from gitbridge.fetching import fetch_manifests
    from gitbridge.render import Progress

    progress = Progress("fetching the base")
    try:
        with repository.open_store() as local:
            fetch_manifests(repository, local, bases, None, report=progress)
    finally:
        progress.done()
