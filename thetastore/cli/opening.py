"""How a command finds its store, and what all that do have in common."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from thetastore import command_line
from thetastore.command_line import Parser

if TYPE_CHECKING:
    from thetastore.errors import StoreMissingError
    from thetastore.store import Store

EXIT_DONE, EXIT_FOUND, EXIT_FAILED = 0, 1, 2
OPTIONS_VARIABLE = "THETASTORE_OPTIONS"


def store_parser(name: str, description: str, epilog: str = "") -> Parser:
    """Return the parser of a command that works on a whole store; `open_store` opens that.

    Args:
        name: of the command.
        description: what it does, a sentence or some.
        epilog: what follows the options, as it is.
    """
    parser = Parser(
        prog=f"thetastore {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("store", metavar="PLACE", help="directory or URL of the store")
    return parser


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Give a command `--json`."""
    parser.add_argument("--json", action="store_true", help="for programs; schema 1")


def add_progress_options(parser: argparse.ArgumentParser) -> None:
    """Give a command `-q` and `--progress`."""
    from thetastore.progress import VARIABLE

    command_line.add_progress_options(parser, VARIABLE)


def open_store(options: argparse.Namespace, create: bool = False, is_shared: bool = False) -> Store:
    """Open the store that a command's arguments name. Raises as `Store.open`."""
    from thetastore.errors import StoreMissingError
    from thetastore.store import Store

    place = options.store
    try:
        return Store.open(place, create=create, options=storage_options(place), is_shared=is_shared)
    except StoreMissingError as error:
        raise _of_a_model(place) or error from None


def _of_a_model(place: str) -> StoreMissingError | None:
    """Return the error for what means a model in a store where the store itself is wanted; None for all else."""
    from thetastore.errors import StoreMissingError
    from thetastore.versions.names import find

    try:
        store, _ = find(place, storage_options)
    except StoreMissingError:
        return None
    with store:
        return StoreMissingError(f"'{place}' is below a store, which this command looks at as a whole: {store.url}")


def storage_options(place: str) -> dict[str, object]:
    """Return what gets one in: of THETASTORE_OPTIONS, a JSON object by URL, what holds for this URL."""
    from thetastore.backends.urls import is_url, parse_url
    from thetastore.errors import MalformedError

    text = os.environ.get(OPTIONS_VARIABLE)
    if not text or not is_url(place):
        return {}
    import json

    url = parse_url(place)
    try:
        by_prefix = json.loads(text)
        below = [prefix for prefix in sorted(by_prefix, key=len) if url.is_below(prefix)]
        return {name: value for prefix in below for name, value in by_prefix[prefix].items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        words = f'{OPTIONS_VARIABLE} is not like {{"s3://bucket": {{"profile": "work"}}}}'
        raise MalformedError(words) from None
