"""`git theta checkout`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from gitbridge.cli.opening import make_ready, open_repository, open_work_tree
from gitbridge.cli.options import add_progress_options
from gitbridge.errors import PathMissingError, UsageError
from gitbridge.render import count_text, size_text
from gitbridge.repository import Repository
from thetastore.command_line import Parser, print_json

if TYPE_CHECKING:
    from gitbridge.fetching import Fetched
    from gitbridge.joining import ModelFiles
    from gitbridge.materialize import Report
    from gitbridge.profile import Profile
    from gitbridge.trees import TrackedFile

SIDES = {1: "base", 2: "ours", 3: "theirs"}
"""What a file in conflict has, by the stage in the index."""

_EPILOG = """\
Without --to, pointers in the work tree become the files that they stand for. With --to, one file of any revision
(REV:PATH, PATH counting from the top; PATH alone is that of the index) is written to FILE and nothing else is touched:
the whole file, byte for byte, or with --tensors a safetensors checkpoint of the tensors that match, whatever the format
of the file. Only the chunks that hold them are fetched. In a glob, * matches dots too: 'model.layers.[0-3].*'.
Of a file in conflict --base, --ours and --theirs name what was merged: git theta checkout --ours --to ours.gguf FILE.
"""


def checkout(arguments: list[str]) -> int:
    """Fill files of the work tree that are pointers; or write a file of a revision, or a part of it, elsewhere."""
    parser = Parser(
        prog="git theta checkout",
        usage="git theta checkout [[--tensors GLOB]... [--base | --ours | --theirs] --to FILE [--force]] [--] "
        "[[REV:]PATH...]",
        description="Fill the files of the work tree that hold only their pointers (all, or those named) with weights; "
        "or write one file, or some of its tensors, to another place.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tensors", action="append", metavar="GLOB", help="only tensors whose names match; repeatable")
    parser.add_argument("--to", metavar="FILE", help="write to this file")
    parser.add_argument("--force", action="store_true", help="even if FILE exists")
    sides = parser.add_mutually_exclusive_group()
    for stage, name in SIDES.items():
        whose = {1: "the common ancestor", 2: "the side merged into", 3: "the side merged"}[stage]
        sides.add_argument(
            f"--{name}", dest="stage", action="store_const", const=stage, help=f"of a file in conflict: {whose}"
        )
    parser.add_argument("-j", "--json", action="store_true", help="for programs; schema 1")
    add_progress_options(parser)
    parser.add_argument("paths", nargs="*", metavar="[REV:]PATH", help="files; without --to, directories or globs too")
    options = parser.parse_args(arguments)
    if options.to is None:
        _refuse_parts(options)
        with open_work_tree() as repository:
            _refuse_revisions(options.paths)
            report = fill(repository, options.paths or None)
            if options.json:
                print_json({**_values_of_fetched(report.fetched), **values_of_filled(repository, report)})
            else:
                say_filled(repository, report, options.quiet)
        return 2 if report.failures else 0
    if len(options.paths) != 1:
        raise UsageError(f"--to takes one file, {len(options.paths)} were named")
    with open_repository() as repository:
        return _write(repository, options.paths[0], options)


def _refuse_parts(options: argparse.Namespace) -> None:
    if options.tensors:
        raise UsageError(
            "--tensors needs --to: a part of a file cannot stand in its place", "add --to part.safetensors"
        )
    if options.stage is not None:
        name, path = SIDES[options.stage], " ".join(options.paths[:1]) or "PATH"
        raise UsageError(
            f"--{name} needs --to: it writes one side of a conflict beside the file",
            f"git theta checkout --{name} --to {name}.safetensors {path}; git theta mergetool decides the conflict",
        )


def _refuse_revisions(paths: list[str]) -> None:
    for path in paths:
        revision, colon, rest = path.partition(":")
        if colon and not os.path.lexists(path):
            raise UsageError(
                f"'{path}' names a file of a revision, and its place is the work tree's",
                f"git checkout {revision} -- {rest}, or --to FILE to have it elsewhere",
            )


def _write(repository: Repository, name: str, options: argparse.Namespace) -> int:
    """Write a file, or some of its tensors, to a path."""
    from gitbridge.joining import named_model
    from gitbridge.revisions import parse_name, tracked_file

    _check_target(options.to, options.force)
    asked = parse_name(name)._replace(tensor=None)
    if options.tensors:
        if options.stage is not None:
            raise UsageError("a side of a conflict is written whole: leave --tensors out")
        written = _write_part(repository, named_model(repository, asked, os.getcwd()), options.tensors, options.to)
    elif options.stage is not None:
        written = _write_whole(repository, _side(repository, name, options.stage), options.to)
    else:
        written = _write_whole(repository, tracked_file(repository, asked, os.getcwd()), options.to)
    if options.json:
        print_json({**_values_of_fetched(written.fetched), **written.values()})
    elif not options.quiet:
        print(written.text())
    return 0


class _Written(NamedTuple):
    """A file that was written beside the work tree."""

    place: str
    file_bytes: int
    fetched: Fetched | None = None
    """None where tensors were read as they came."""
    tensor_count: int | None = None
    """None for a whole file."""
    of_count: int = 0

    def text(self) -> str:
        part = "" if self.tensor_count is None else f"{self.tensor_count} of {count_text(self.of_count, 'tensor')}, "
        return f"git theta: wrote '{self.place}', {part}{size_text(self.file_bytes)}"

    def values(self) -> dict[str, Any]:
        part = {} if self.tensor_count is None else {"tensors": self.tensor_count, "of_tensors": self.of_count}
        return {"written": {"path": self.place, "size_bytes": self.file_bytes, **part}}


def _side(repository: Repository, path: str, stage: int) -> TrackedFile:
    """Return what a file in conflict was on one side.

    Raises:
        PathMissingError: it is not in conflict, or is not there on that side.
    """
    from gitbridge.merging.finishing import unmerged_files
    from gitbridge.revisions import parse_name, path_from_top
    from gitbridge.trees import tracked_blob

    top = path_from_top(repository, parse_name(path), os.getcwd())
    found = next((file for file in unmerged_files(repository, []) if file.path == top), None)
    if found is None:
        raise PathMissingError(f"'{path}' is not in conflict", "git theta mergetool --list")
    file = tracked_blob(repository, top, found.oids[stage]) if stage in found.oids else None
    if file is None:
        raise PathMissingError(f"'{path}' has no {SIDES[stage]} that git theta tracks", "git theta mergetool --list")
    return file


def _check_target(target: str, force: bool) -> None:
    """Refuse to overwrite what is neither a pointer nor a part, both of which can be had again."""
    from shlex import quote

    from gitbridge.parts import begins_as_part
    from gitbridge.pointers import is_pointer

    above = os.path.dirname(os.path.abspath(target))
    if os.path.isdir(target):
        raise UsageError(f"'{target}' is a directory", f"name a file in it: --to {os.path.join(target, 'FILE')}")
    if not os.path.isdir(above):
        raise PathMissingError(f"there is no directory '{above}' to write to", f"mkdir -p {quote(above)}")
    if force or not os.path.lexists(target):
        return
    if os.path.isfile(target):
        with open(target, "rb") as stream:
            head = stream.read(256)
        if is_pointer(head) or begins_as_part(head):
            return
    raise UsageError(f"'{target}' exists", "--force writes over it")


def _write_whole(repository: Repository, file: TrackedFile, target: str) -> _Written:
    from gitbridge.fetching import fetch_what_there_is
    from gitbridge.profile import EVERYTHING
    from gitbridge.render import Progress
    from thetastore.open_file import Replacing

    progress = Progress("fetching weights")
    with repository.open_store() as store:
        try:
            fetched = fetch_what_there_is(repository, store, [file], None, report=progress, profile=EVERYTHING)
        finally:
            progress.done()
        if fetched.error is not None:
            raise fetched.error
        manifest = store.get_manifest(file.manifest_digest)
        with Replacing(target) as descriptor:
            store.write_file(manifest, file.manifest_digest, descriptor)
    return _Written(target, manifest.file_bytes, fetched)


def _write_part(repository: Repository, model: ModelFiles, globs: list[str], target: str) -> _Written:
    from gitbridge.joining import open_tensors
    from gitbridge.parts import part_source
    from gitbridge.reading import select_names
    from gitbridge.render import Progress
    from thetastore.open_file import Replacing

    every = [tensor.name for tensor in model.tensors(repository)]
    if not every:
        raise UsageError(
            f"'{model.path}' has no tensors that git theta sees, and so no part",
            "leave --tensors out to have all of it",
        )
    names = select_names(every, globs)
    progress = Progress("fetching weights")
    with repository.open_store() as store:
        try:
            readers = open_tensors(repository, store, model, names, progress)
        finally:
            progress.done()
        source = part_source(readers, model.files[0], model.path, len(every))
        with Replacing(target) as descriptor:
            source.write_to(descriptor)
    return _Written(target, source.file_bytes, None, len(names), len(every))


def fill(repository: Repository, arguments: list[str] | None, profile: Profile | None = None) -> Report:
    """Fill pointers, and name those that could not be.

    Args:
        repository: whose work tree.
        arguments: files, directories or globs; None for all.
        profile: see `materialize`.
    """
    from gitbridge.materialize import complain_all, materialize
    from gitbridge.render import Progress
    from gitbridge.setup import is_configured
    from gitbridge.states import select
    from gitbridge.trees import tracked_in_index

    if not is_configured(repository):
        make_ready(repository)
    if arguments:
        select(repository, tracked_in_index(repository), arguments)  # a name that means nothing is an error
    progress = Progress("filling files")
    try:
        report = materialize(repository, arguments, progress.of_bytes, profile)
    finally:
        progress.done()
    complain_all(report.failures)
    return report


def say_filled(repository: Repository, report: Report, is_quiet: bool) -> None:
    """Say how many files were filled, unless it is to be quiet, and which stay pointers."""
    from gitbridge.profile import fetch_all_the_same

    if report.filled and not is_quiet:
        print(f"git theta: filled {count_text(len(report.filled), 'file')}, {size_text(report.raw_bytes)}")
    if report.kept:
        stay = f"{count_text(len(report.kept), 'file')} here {'stays' if len(report.kept) == 1 else 'stay'} as pointer"
        print(f"git theta: {stay}: this clone keeps only a part of the weights")
        print(f"hint: {fetch_all_the_same('pull')} fills them all the same")
    elif not report.filled and not report.failures and not is_quiet:
        from gitbridge.absent import remark_on_absent

        print(f"git theta: {remark_on_absent(repository) or 'nothing to fill: no file here is a pointer'}")


def values_of_filled(repository: Repository, report: Report) -> dict[str, Any]:
    """Return what was filled, for programs."""
    from gitbridge.errors import words_for
    from gitbridge.trees import tracked_in_index

    sizes = {file.path: file.file_bytes for file in tracked_in_index(repository)}
    failed = [(one.path, *words_for(one.error)) for one in report.failures]
    return {
        "filled_bytes": report.raw_bytes,
        "filled": [{"path": path, "size_bytes": sizes.get(path)} for path in report.filled],
        "kept_pointers": list(report.kept),
        "failed": [{"path": path, "error": words, "hint": hint or None} for path, words, hint in failed],
    }


def _values_of_fetched(fetched: Fetched | None) -> dict[str, Any]:
    """Return what had to come from remote stores; nothing where that was not counted."""
    if fetched is None:
        return {}
    return {
        **fetched.copied._asdict(),
        "stores": [{"url": one.place.url, **one.copied._asdict()} for one in fetched.arrivals],
    }
