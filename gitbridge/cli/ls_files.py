"""`git theta ls-files`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gitbridge.absent import remark_on_absent
from gitbridge.cli.opening import open_repository
from gitbridge.cli.options import refuse_git_lfs_options
from gitbridge.errors import RevisionError, UsageError
from gitbridge.profile import Profile, split_globs
from gitbridge.render import count_text, printable, shape_text, size_text, table
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.states import FULL, MISSING, POINTER, revision_states, select, work_tree_states
from gitbridge.trees import TrackedFile, all_refs, tracked_in_history, tracked_in_index, tracked_in_tree
from thetastore.command_line import Parser
from thetastore.dtypes import raw_bytes_of
from thetastore.output import Paint, Rows, add_listing_options, painter, print_values, wants_values

if TYPE_CHECKING:
    from gitbridge.joining import ModelFiles

_ROWS = (
    Rows("files", ("path", "state", "size_bytes", "format", "digest")),
    Rows("files.tensors", ("files.path", "name", "dtype", "shape", "raw_bytes", "digest")),
)
_EPILOG = """\
states:
  full     the weights are here: in the work-tree file; with REV or --all, in the local store
  pointer  only the pointer is here; the weights can be had from the local or the remote store
  missing  the weights are in no store that this repository knows and can reach

GLOBS are separated by commas, as in theta.fetchInclude: '*.gguf,models'. Versions in the history (--all) are listed
with the digits that their digests begin with.
"""


def ls_files(arguments: list[str]) -> int:
    """List the tracked files of the index, or of a revision."""
    options, names = _parse(arguments)
    with open_repository() as repository:
        revisions, paths = _split(repository, names, arguments)
        has_history = options.all or options.deleted
        if has_history and len(revisions) > 1:
            raise UsageError(f"--{'all' if options.all else 'deleted'} goes with one revision, not with two")
        files = select(repository, _files(repository, revisions, options), paths)
        profile = Profile((), split_globs(options.include), split_globs(options.exclude))
        files = [file for file in files if profile.wants_path(file.path)]
        if not files and not paths and not revisions and profile.is_whole:
            _explain_nothing(repository)
        if options.nul and not options.porcelain:
            sys.stdout.buffer.write(b"".join(os.fsencode(file.path) + b"\0" for file in files))
            return 0
        if options.name_only:
            sizes = [f" ({size_text(file.file_bytes)})" if options.size else "" for file in files]
            sys.stdout.write("".join(f"{_name(file)}{size}\n" for file, size in zip(files, sizes, strict=True)))
            return 0
        states = (revision_states if revisions or has_history else work_tree_states)(repository, files)
        rows = list(zip(files, states, strict=True))
        is_one_tree = options.tensors and not has_history and len(revisions) < 2
        models = _models(repository, revisions, files) if is_one_tree else []
        if wants_values(options):
            print_values(options, _values(repository, rows, options.tensors, models))
        elif options.tensors:
            _print_tensors(repository, rows, options.long)
            _print_models(repository, models)
        else:
            # Without the whole digest, ten digits tell the versions of a file apart.
            _print_text(rows, _WHOLE if options.long else _SHORT if has_history else 0, painter(options))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="git theta ls-files",
        usage="git theta ls-files [REV [REV] | --all] [-I GLOBS] [-X GLOBS] [-l] [--tensors] "
        "[--json | --porcelain | -n [-s] | -z] [--] [PATH...]",
        description="List tracked files and where their weights are: of the index, of a revision, or those of a second "
        "revision that differ from the first.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="REV, PATH", help=argparse.SUPPRESS)
    parser.add_argument("-a", "--all", action="store_true", help="all versions in the history, of REV or of all refs")
    parser.add_argument("--deleted", action="store_true", help="all versions in the history of REV, or of HEAD")
    parser.add_argument("-I", "--include", action="append", default=[], metavar="GLOBS", help="only these files")
    parser.add_argument("-X", "--exclude", action="append", default=[], metavar="GLOBS", help="not these files")
    parser.add_argument("-l", "--long", action="store_true", help="the whole digest of each file, and of each tensor")
    parser.add_argument("-s", "--size", action="store_true", help="the size of each file: always shown, but for -n")
    parser.add_argument("--tensors", action="store_true", help="list the tensors of each file")
    output = parser.add_mutually_exclusive_group()
    add_listing_options(
        parser,
        *_ROWS,
        group=output,
        json=("-j", "--json"),
        nul="paths only, each ended by a NUL byte; or the lines of --porcelain",
    )
    output.add_argument("-n", "--name-only", action="store_true", help="paths only")
    refuse_git_lfs_options(parser, "ls-files")
    options = parser.parse_intermixed_args(arguments)
    return options, options.names


def _files(repository: Repository, revisions: list[str], options: argparse.Namespace) -> list[TrackedFile]:
    """Return the tracked files of the index, of a revision, what differs in a second, or all of a history."""
    if options.all and not revisions:
        return list(tracked_in_history(repository, all_refs(repository)))
    if options.all or options.deleted:
        return list(tracked_in_history(repository, [resolve(repository, *(revisions or ["HEAD"]))]))
    if not revisions:
        return tracked_in_index(repository)
    files = tracked_in_tree(repository, revisions[-1])
    if len(revisions) == 1:
        return files
    before = {file.path: file.oid for file in tracked_in_tree(repository, revisions[0])}
    return [file for file in files if before.get(file.path) != file.oid]


def _split(repository: Repository, names: list[str], arguments: list[str]) -> tuple[list[str], list[str]]:
    """Tell one or two leading revisions from paths, as git does; `--` decides."""
    if "--" in arguments:
        before = len(names) - len(arguments[arguments.index("--") + 1 :])
        if before > 2:
            raise UsageError("only two revisions may stand before --")
        return names[:before], names[before:]
    if not names:
        # A bare repository has no index, and its work tree is nowhere.
        return ([] if repository.work_tree or repository.head_oid() is None else ["HEAD"]), []
    if not _is_revision(repository, names[0]):
        if repository.work_tree is None:
            raise RevisionError(f"'{names[0]}' is not a revision", "git log --all")
        return [], names
    count = 2 if len(names) > 1 and _is_revision(repository, names[1]) else 1
    return names[:count], names[count:]


def _is_revision(repository: Repository, name: str) -> bool:
    """Tell whether git would take a name for a revision; raises where it may as well be a file."""
    if name.startswith("-"):
        return False
    if not repository.git("rev-parse", "--verify", "--quiet", f"{name}^{{tree}}", check=False):
        return False
    if os.path.lexists(name):
        raise UsageError(f"'{name}' is both a revision and a file", f"git theta ls-files -- {name}, or REV --")
    return True


def _explain_nothing(repository: Repository) -> None:
    """Say on stderr why nothing is listed, where a clone or a checkout that failed is why."""
    remark = remark_on_absent(repository, ())
    if remark:
        print(f"git theta: {remark}", file=sys.stderr)


def _models(repository: Repository, revisions: Sequence[str], files: Sequence[TrackedFile]) -> list[ModelFiles]:
    """Return the models of which one of some files names tensors in others, or holds them."""
    from gitbridge.joined_versions import JoinedModels

    paths = {file.path for file in files}
    with JoinedModels(repository) as models:
        found = models.at(resolve(repository, revisions[0], "tree") if revisions else "")
    return [model for model in found.values() if any(file.path in paths for file in model.files)]


def _print_models(repository: Repository, models: Sequence[ModelFiles]) -> None:
    """List tensors that files name in others; those have no digests before they are read."""
    for model in models:
        files = ", ".join(printable(file.path) for file in model.files)
        sys.stdout.write(f"\n{printable(model.path)} names, in {files}:\n")
        rows = [
            (t.dtype, shape_text(t.shape), size_text(raw_bytes_of(t.dtype, math.prod(t.shape))), printable(t.name))
            for t in model.tensors(repository)
        ]
        sys.stdout.write(table(rows, right=(2,), indent="  "))


def _model_values(repository: Repository, model: ModelFiles) -> dict[str, Any]:
    tensors = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "digest": str(tensor.digest) or None,
            "raw_bytes": raw_bytes_of(tensor.dtype, math.prod(tensor.shape)),
        }
        for tensor in model.tensors(repository)
    ]
    return {"path": model.path, "files": [file.path for file in model.files], "tensors": tensors}


def _values(
    repository: Repository, rows: Sequence[tuple[TrackedFile, str]], with_tensors: bool, models: Sequence[ModelFiles]
) -> dict[str, Any]:
    files = []
    for file, state in rows:
        values: dict[str, Any] = {
            "path": file.path,
            "format": file.format,
            "size_bytes": file.file_bytes,
            "digest": str(file.file_digest),
            "state": state,
        }
        if with_tensors:
            values["tensors"] = [
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": list(tensor.shape),
                    "digest": str(tensor.digest),
                    "raw_bytes": raw_bytes_of(tensor.dtype, math.prod(tensor.shape)),
                }
                for tensor in file.pointer(repository).tensors
            ]
        files.append(values)
    joined = {"models": [_model_values(repository, model) for model in models]} if models else {}
    return {"files": files, **joined}


def _print_text(rows: Sequence[tuple[TrackedFile, str]], digit_count: int, paint: Paint) -> None:
    lines = [
        (
            *([str(file.file_digest)[:digit_count]] if digit_count else []),
            paint(state, _COLOURS[state]),
            size_text(file.file_bytes),
            count_text(file.tensor_count, "tensor"),
            file.format,
            _name(file),
        )
        for file, state in rows
    ]
    sys.stdout.write(table(lines, right=(2, 3) if digit_count else (1, 2)))


_COLOURS = {FULL: "green", POINTER: "yellow", MISSING: "red"}
_SHORT, _WHOLE = 10, 64
"""How many digits of a file's digest are shown."""


def _print_tensors(repository: Repository, rows: Sequence[tuple[TrackedFile, str]], is_long: bool) -> None:
    for position, (file, state) in enumerate(rows):
        sys.stdout.write("\n" if position else "")
        digest = f", {file.file_digest}" if is_long else ""
        sys.stdout.write(f"{_name(file)}: {file.format}, {size_text(file.file_bytes)}, {state}{digest}\n")
        tensors = [
            (
                t.dtype,
                shape_text(t.shape),
                size_text(raw_bytes_of(t.dtype, math.prod(t.shape))),
                str(t.digest)[: _WHOLE if is_long else 16],
                printable(t.name),
            )
            for t in file.pointer(repository).tensors
        ]
        sys.stdout.write(table(tensors, right=(2,), indent="  "))


def _name(file: TrackedFile) -> str:
    return printable(file.path)
