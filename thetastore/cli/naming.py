"""How commands name a model, and what those that write a version have in common."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from thetastore.cli.opening import storage_options
from thetastore.errors import MalformedError, StoreMissingError

if TYPE_CHECKING:
    from thetastore.ref_entries import Draft, Entry
    from thetastore.store import Store
    from thetastore.versions.names import ModelName

AUTHOR_VARIABLE = "THETASTORE_AUTHOR"


def find_target(text: str) -> tuple[Store, str]:
    """Open the store that a command is to write to; return it, and the rest of the text, which may be empty.

    Raises:
        StoreMissingError: none is there; says how one is made.
    """
    from thetastore.versions.names import find

    try:
        return find(text, storage_options)
    except StoreMissingError as error:
        raise StoreMissingError(f"{error}; to make one: thetastore init PLACE") from None


def find_model(text: str, is_target: bool = False) -> tuple[Store, ModelName]:
    """Open the store of `PLACE/NAME[@VERSION]`, and read the rest.

    Raises:
        StoreMissingError: no store is there.
        MalformedError: it names a store and no model in it.
    """
    from thetastore.versions.names import find, parse_name

    store, rest = find_target(text) if is_target else find(text, storage_options)
    if not rest:
        store.close()
        place = text.rstrip("/")
        raise MalformedError(f"'{place}' is a store: name a model in it: {place}/NAME (thetastore ls {place})")
    try:
        return store, parse_name(rest)
    except MalformedError:
        store.close()
        raise


def add_message_options(parser: argparse.ArgumentParser) -> None:
    """Give a command `-m` and `--author`; see `draft_of`."""
    parser.add_argument("-m", "--message", default="", metavar="MESSAGE", help="why; for `thetastore log`")
    parser.add_argument("--author", metavar="NAME", help=f"who; if not given, ${AUTHOR_VARIABLE} or the user's name")


def draft_of(options: argparse.Namespace) -> Draft:
    """Return an entry with what the options say, and no files."""
    from thetastore.ref_entries import Draft

    author = options.author if options.author is not None else os.environ.get(AUTHOR_VARIABLE)
    return Draft((), options.message, _user() if author is None else author)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ""


def model_text(entry: Entry) -> str:
    """Return how a version is named: `org/bert@v3`."""
    from thetastore.versions.names import MODELS, version_text

    return f"{entry.name.removeprefix(MODELS + '/')}@{version_text(entry.number)}"


def date_text(entry: Entry) -> str:
    """Return when an entry was made, as the user's clock shows it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.time_ms / 1000))


def entry_values(entry: Entry) -> dict[str, Any]:
    """Return an entry for `--json`."""
    return {
        "name": model_text(entry).partition("@")[0],
        "version": entry.number,
        "time_ms": entry.time_ms,
        "author": entry.author,
        "message": entry.message,
        "metadata": dict(entry.metadata),
        "file_bytes": entry.file_bytes,
        "files": [
            {"path": file.path, "bytes": file.file_bytes, "manifest": str(file.manifest_digest)} for file in entry.files
        ],
    }
