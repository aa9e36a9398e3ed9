"""`thetastore get`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from thetastore.cli.naming import find_model, model_text
from thetastore.cli.opening import EXIT_DONE, add_json_option, add_progress_options
from thetastore.command_line import Parser, print_json
from thetastore.errors import MalformedError, ObjectMissingError
from thetastore.progress import Progress
from thetastore.tables import count_text, size_text

if TYPE_CHECKING:
    from thetastore.ref_entries import Entry
    from thetastore.store import Store

_EPILOG = """\
A model of one file becomes that file; one of several, a directory named after the model. Files that are there with the
right bytes stay as they are, so a get that was broken off goes on where it was.

With --tensors only the chunks of these tensors are read, and they become one safetensors file, whatever the format of
the model. In a GLOB, * matches dots and slashes, too.

  thetastore get s3://bucket/zoo/bert
  thetastore get /srv/zoo/org/bert@v2 --to /tmp/bert
  thetastore get s3://bucket/zoo/bert@prod --tensors 'encoder.layer.0.*' --to layer0.safetensors
"""


def run(arguments: list[str]) -> int:
    """Write the files of a version."""
    parser = Parser(
        prog="thetastore get",
        usage="thetastore get [-I GLOB]... [--tensors GLOB]... [--to PATH] [--force] [--json] [-q] "
        "PLACE/NAME[@VERSION]",
        description="Write the files of a version of a model, or some of its tensors.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", metavar="PATH", help="where to write; a directory for a model of several files")
    parser.add_argument("--tensors", action="append", metavar="GLOB", help="only tensors whose names match; repeatable")
    parser.add_argument(
        "-I", "--include", action="append", default=[], metavar="GLOB", help="only files whose paths match; repeatable"
    )
    parser.add_argument("--force", action="store_true", help="replace files that have other bytes")
    add_json_option(parser)
    add_progress_options(parser)
    parser.add_argument("model", metavar="PLACE/NAME[@VERSION]", help="v3, a tag, or no version: the newest")
    options = parser.parse_args(arguments)
    from thetastore.versions.names import resolve
    from thetastore.versions.published import refuse_difference
    from thetastore.versions.writing import chosen_files

    store, wanted = find_model(options.model)
    with store:
        entry = resolve(store, wanted)
        refuse_difference(entry)
        files = chosen_files(entry, options.include)
        progress = Progress("getting")
        try:
            if options.tensors:
                _get_part(store, entry, files, options, progress)
            else:
                _get_files(store, entry, files, options, progress)
        except ObjectMissingError:
            _explain_missing(store, entry)
            raise
        finally:
            progress.done()
    return EXIT_DONE


def _last(entry: Entry) -> str:
    return entry.name.rpartition("/")[2]


def _get_files(  # type: ignore[no-untyped-def]
    store: Store, entry: Entry, files, options: argparse.Namespace, progress: Progress
) -> None:
    from thetastore.versions.writing import Written, places_below, write_files

    if len(entry.files) == 1:
        path = os.path.basename(files[0].path)
        into = options.to is not None and (os.path.isdir(options.to) or options.to.endswith("/"))
        places = [os.path.join(options.to, path) if into else options.to or path]
    else:
        places = places_below(options.to or _last(entry), files)

    def say(written: Written) -> None:
        progress.done()
        if not options.json and not options.quiet:
            kept = "" if written.is_new else ", was there"
            print(f"{written.place}  {size_text(written.file_bytes)}{kept}")

    found = write_files(store, files, places, options.force, say, progress.of_bytes)
    if options.json:
        print_json({"model": model_text(entry), "files": [one._asdict() for one in found]})


def _get_part(  # type: ignore[no-untyped-def]
    store: Store, entry: Entry, files, options: argparse.Namespace, progress: Progress
) -> None:
    from thetastore.versions.writing import write_part

    place = options.to or f"{_last(entry)}.safetensors"
    if os.path.isdir(place):
        place = os.path.join(place, f"{_last(entry)}.safetensors")
    if os.path.lexists(place) and not options.force:
        raise MalformedError(f"'{place}' exists: --force replaces it, --to FILE names another")
    part = write_part(store, files, options.tensors, place, progress.of_bytes)
    progress.done()
    if options.json:
        print_json({"model": model_text(entry), **part._asdict()})
    elif not options.quiet:
        of = f"{part.tensor_count} of {count_text(part.of_count, 'tensor')}"
        print(f"{part.place}  {size_text(part.file_bytes)}, {of}")


def _explain_missing(store: Store, entry: Entry) -> None:
    """Say so where weights are gone because nobody wants them any more."""
    from thetastore.refs import Refs

    latest = Refs(store.backend).latest(entry.name)
    if latest is not None and entry.number < latest.oldest:
        print(f"thetastore: {model_text(entry)} was let go of, and its weights were collected", file=sys.stderr)
