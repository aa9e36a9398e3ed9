"""`git theta checkout`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from gitbridge.cli.opening import make_ready, open_repository, open_work_tree
from gitbridge.cli.options import add_progress_options
from gitbridge.errors import PathMissingError, UsageError
from gitbridge.repository import Repository
from thetastore.command_line import Parser

if TYPE_CHECKING:
    from gitbridge.joining import ModelFiles
    from gitbridge.trees import TrackedFile

_EPILOG = """\
Without --to, pointers in the work tree become the files that they stand for. With --to, one file of any revision
(REV:PATH, PATH counting from the top; PATH alone is that of the index) is written to FILE and nothing else is touched:
the whole file, byte for byte, or with --tensors a safetensors checkpoint of the tensors that match, whatever the format
of the file. Only the chunks that hold them are fetched. In a glob, * matches dots too: 'model.layers.[0-3].*'.
"""


def checkout(arguments: list[str]) -> int:
    """Fill files of the work tree that are pointers; or write a file of a revision, or a part of it, elsewhere."""
    parser = Parser(
        prog="git theta checkout",
        usage="git theta checkout [[--tensors GLOB]... --to FILE [--force]] [--] [[REV:]PATH...]",
        description="Fill the files of the work tree that hold only their pointers (all, or those named) with weights; "
        "or write one file, or some of its tensors, to another place.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tensors", action="append", metavar="GLOB", help="only tensors whose names match; repeatable")
    parser.add_argument("--to", metavar="FILE", help="write to this file")
    parser.add_argument("--force", action="store_true", help="even if FILE exists")
    add_progress_options(parser)
    parser.add_argument("paths", nargs="*", metavar="[REV:]PATH", help="files; without --to, directories or globs too")
    options = parser.parse_args(arguments)
    if options.to is None and not options.tensors:
        with open_work_tree() as repository:
            _refuse_revisions(options.paths)
            return fill(repository, options.paths or None, options.quiet)
    if options.to is None:
        raise UsageError(
            "--tensors needs --to: a part of a file cannot stand in its place", "add --to part.safetensors"
        )
    if len(options.paths) != 1:
        raise UsageError(f"--to takes one file, {len(options.paths)} were named")
    with open_repository() as repository:
        return _write(repository, options.paths[0], options.tensors, options.to, options.force)


def _refuse_revisions(paths: list[str]) -> None:
    for path in paths:
        revision, colon, rest = path.partition(":")
        if colon and not os.path.lexists(path):
            raise UsageError(
                f"'{path}' names a file of a revision, and its place is the work tree's",
                f"git checkout {revision} -- {rest}, or --to FILE to have it elsewhere",
            )


def _write(repository: Repository, name: str, globs: list[str] | None, target: str, force: bool) -> int:
    """Write a file, or some of its tensors, to a path."""
    from gitbridge.joining import named_model
    from gitbridge.revisions import parse_name, tracked_file

    _check_target(target, force)
    asked = parse_name(name)._replace(tensor=None)
    if globs is None:
        _write_whole(repository, tracked_file(repository, asked, os.getcwd()), target)
    else:
        _write_part(repository, named_model(repository, asked, os.getcwd()), globs, target)
    return 0


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


def _write_whole(repository: Repository, file: TrackedFile, target: str) -> None:
    from gitbridge.fetching import fetch_manifests
    from gitbridge.profile import EVERYTHING
    from gitbridge.render import Progress, size_text
    from thetastore.open_file import Replacing

    progress = Progress("fetching weights")
    with repository.open_store() as store:
        try:
            fetch_manifests(repository, store, [file], None, report=progress, profile=EVERYTHING)
        finally:
            progress.done()
        manifest = store.get_manifest(file.manifest_digest)
        with Replacing(target) as descriptor:
            store.write_file(manifest, file.manifest_digest, descriptor)
    print(f"git theta: wrote '{target}', {size_text(manifest.file_bytes)}")


def _write_part(repository: Repository, model: ModelFiles, globs: list[str], target: str) -> None:
    from gitbridge.joining import open_tensors
    from gitbridge.parts import part_source
    from gitbridge.reading import select_names
    from gitbridge.render import Progress, count_text, size_text
    from thetastore.open_file import Replacing

    every = [tensor.name for tensor in model.tensors(repository)]
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
    of = f"{len(names)} of {count_text(len(every), 'tensor')}"
    print(f"git theta: wrote '{target}', {of}, {size_text(source.file_bytes)}")


def fill(repository: Repository, arguments: list[str] | None, is_quiet: bool = False) -> int:
    """Fill pointers; say how many, unless it is to be quiet, and name those that could not be; return the status."""
    from gitbridge.materialize import complain_all, materialize
    from gitbridge.profile import fetch_all_the_same
    from gitbridge.render import Progress, count_text, size_text
    from gitbridge.setup import is_configured
    from gitbridge.states import select
    from gitbridge.trees import tracked_in_index

    if not is_configured(repository):
        make_ready(repository)
    if arguments:
        select(repository, tracked_in_index(repository), arguments)  # a name that means nothing is an error
    progress = Progress("filling files")
    try:
        report = materialize(repository, arguments, progress.of_bytes)
    finally:
        progress.done()
    complain_all(report.failures)
    if report.filled and not is_quiet:
        print(f"git theta: filled {count_text(len(report.filled), 'file')}, {size_text(report.raw_bytes)}")
    if report.kept:
        stay = f"{count_text(len(report.kept), 'file')} here {'stays' if len(report.kept) == 1 else 'stay'} as pointer"
        print(f"git theta: {stay}: this clone keeps only a part of the weights")
        print(f"hint: {fetch_all_the_same('pull')} fills them all the same")
    elif not report.filled and not report.failures and not is_quiet:
        from gitbridge.absent import remark_on_absent

        print(f"git theta: {remark_on_absent(repository) or 'nothing to fill: no file here is a pointer'}")
    return 2 if report.failures else 0
