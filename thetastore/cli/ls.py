"""`thetastore ls`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from thetastore.cli.naming import date_text, entry_values, model_text
from thetastore.cli.opening import EXIT_DONE, storage_options
from thetastore.command_line import Parser
from thetastore.output import Rows, add_listing_options, painter, print_values, wants_values
from thetastore.tables import count_text, printable, size_text, table

if TYPE_CHECKING:
    from thetastore.store import Store
    from thetastore.versions.history import Listed

_ROWS = (
    Rows("models", ("name", "version", "version_count", "file_bytes", "time_ms", "message")),
    Rows("files", ("path", "bytes", "manifest")),
)
_EPILOG = """\
  thetastore ls s3://bucket/zoo          all models of a store
  thetastore ls s3://bucket/zoo/org      those whose names begin so
  thetastore ls s3://bucket/zoo/org/bert@v2    the files of a version
"""


def run(arguments: list[str]) -> int:
    """List models, or the files of a version."""
    parser = Parser(
        prog="thetastore ls",
        description="List the models of a store, or the files of a version of one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_listing_options(parser, *_ROWS)
    parser.add_argument("place", metavar="PLACE[/NAME[@VERSION]]", help="a store, and perhaps a model in it")
    options = parser.parse_args(arguments)
    from thetastore.versions.history import Versions
    from thetastore.versions.names import find, parse_name

    store, rest = find(options.place, storage_options)
    with store:
        below = parse_name(rest) if rest else None
        found = Versions(store).models(below.name if below else "") if not below or not below.version else []
        if below and not any(listed.name != below.name for listed in found):
            return _list_files(store, rest, options)
        return _list_models(store, found, options)


def _list_models(store: Store, found: list[Listed], options: argparse.Namespace) -> int:
    if wants_values(options):
        models = [{**entry_values(listed.latest), "version_count": listed.version_count} for listed in found]
        print_values(options, {"store": store.url, "models": models})
        return EXIT_DONE
    paint = painter(options)
    rows = [
        (
            paint(model_text(listed.latest), "yellow"),
            size_text(listed.latest.file_bytes),
            date_text(listed.latest),
            printable(listed.latest.message.partition("\n")[0]),
        )
        for listed in found
    ]
    sys.stdout.write(table(rows, right=(1,)))
    if not found:
        print(f"thetastore: '{store.url}' has no models yet: thetastore put {store.url}/NAME FILE...", file=sys.stderr)
    return EXIT_DONE


def _list_files(store: Store, rest: str, options: argparse.Namespace) -> int:
    from thetastore.versions.names import parse_name, resolve

    entry = resolve(store, parse_name(rest))
    if wants_values(options):
        print_values(options, {"store": store.url, **entry_values(entry)})
        return EXIT_DONE
    paint = painter(options)
    rows = [(size_text(file.file_bytes), paint(printable(file.path), "bold")) for file in entry.files]
    sys.stdout.write(table(rows, right=(0,)))
    if len(rows) > 1:
        print(f"{count_text(len(rows), 'file')}, {size_text(entry.file_bytes)}")
    return EXIT_DONE
