"""`thetastore put`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from thetastore.cli.naming import add_message_options, draft_of, find_model, find_target, model_text
from thetastore.cli.opening import EXIT_DONE, add_json_option, add_progress_options
from thetastore.command_line import Parser, print_json
from thetastore.errors import MalformedError
from thetastore.progress import Progress
from thetastore.tables import count_text, printable, size_text

if TYPE_CHECKING:
    from thetastore.ref_entries import Entry
    from thetastore.store import Store
    from thetastore.versions.history import Put, Versions
    from thetastore.versions.sources import Snapshot, Sources

_EPILOG = """\
A version is all files that are named: one checkpoint, its shards, or a directory with the configuration and tokenizer
beside them. A directory alone is the model, without what is hidden in it; one among several keeps its name. A model's
directory in the cache of Hugging Face (models--org--name) is its main revision; the whole cache, put into a store, is
all models that are in it, by their names.

What the store has already is not stored again, and what is nearly the same as the version before, or as another model
of the family, is stored as the difference. Files that are just those of the newest version make no new one.

  thetastore put s3://bucket/zoo/bert model.safetensors config.json -m "first try"
  thetastore put /srv/zoo/org/bert ~/models/bert --base org/bert-base@v2
  thetastore put /srv/zoo ~/.cache/huggingface/hub
"""


def run(arguments: list[str]) -> int:
    """Store files as the next version of a model."""
    parser = Parser(
        prog="thetastore put",
        usage="thetastore put [-m MESSAGE] [--base NAME[@VERSION]] [--json] [-q] PLACE/NAME FILE...",
        description="Store files, or directories, as the next version of a model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_message_options(parser)
    parser.add_argument("--base", metavar="NAME[@VERSION]", help="store differences from this version of this store")
    parser.add_argument("--as", dest="name", metavar="PATH", help="what the only file is called in the version")
    add_json_option(parser)
    add_progress_options(parser)
    parser.add_argument("model", metavar="PLACE/NAME", help="a store, and the name of a model in it")
    parser.add_argument("files", nargs="+", metavar="FILE", help="files or directories; - is standard input")
    options = parser.parse_args(arguments)
    from thetastore.versions.sources import cached_models

    snapshots = cached_models(options.files[0]) if len(options.files) == 1 else []
    if snapshots:
        store, prefix = find_target(options.model)
        with store:
            return _put_all(store, prefix, snapshots, options)
    store, wanted = find_model(options.model, is_target=True)
    if wanted.version:
        raise MalformedError(f"'{wanted}' names a version: a new one gets the next number")
    with store:
        return _put_one(store, wanted.name, options)


def _put_one(store: Store, name: str, options: argparse.Namespace) -> int:
    from thetastore.versions.history import Versions
    from thetastore.versions.names import parse_name, resolve
    from thetastore.versions.sources import sources_of

    if options.name and (len(options.files) > 1 or os.path.isdir(options.files[0])):
        raise MalformedError("--as is for a single file")
    sources = sources_of(options.files, options.name)
    base = resolve(store, parse_name(options.base)) if options.base else None
    put, stored_bytes = _put(Versions(store), name, sources, options, base)
    if sources.left_out:
        shown = ", ".join(printable(path) for path in sources.left_out[:5])
        more = f" and {len(sources.left_out) - 5} more" if len(sources.left_out) > 5 else ""
        print(f"thetastore: left out, as hidden or no files: {shown}{more}", file=sys.stderr)
    if options.json:
        print_json(_values(store, put, stored_bytes))
    else:
        _say(put, stored_bytes, options.quiet)
    return EXIT_DONE


def _put_all(store: Store, prefix: str, snapshots: list[Snapshot], options: argparse.Namespace) -> int:
    """Put every model of a cache."""
    from thetastore.versions.history import Versions
    from thetastore.versions.sources import sources_of

    if options.base or options.name:
        raise MalformedError("--base and --as are for one model, and this is a cache of several")
    versions = Versions(store)
    values = []
    for snapshot in snapshots:
        name = f"{prefix}/{snapshot.model}" if prefix else snapshot.model
        sources = sources_of([snapshot.directory])._replace(origin=snapshot.origin)
        put, stored_bytes = _put(versions, name, sources, options, None)
        values.append(_values(store, put, stored_bytes))
        if not options.json:
            _say(put, stored_bytes, options.quiet)
    if options.json:
        print_json({"models": values})
    return EXIT_DONE


def _put(
    versions: Versions, name: str, sources: Sources, options: argparse.Namespace, base: Entry | None
) -> tuple[Put, int]:
    """Put a version; return it, and how many bytes that took in the store."""
    draft = draft_of(options)
    if sources.origin:
        words = draft.message or f"Hugging Face {sources.origin}"
        draft = draft._replace(message=words, metadata={"huggingface": sources.origin})
    before = versions.store.objects.added_bytes
    progress = Progress("storing")
    try:
        put = versions.put_files(name, sources.files, draft, base, progress.of_bytes)
    finally:
        progress.done()
    return put, versions.store.objects.added_bytes - before


def _values(store: Store, put: Put, stored_bytes: int) -> dict[str, object]:
    return {
        "name": model_text(put.entry).partition("@")[0],
        "version": put.entry.number,
        "is_new": put.is_new,
        "file_bytes": put.entry.file_bytes,
        "stored_bytes": stored_bytes,
        "files": [
            {"path": file.path, "bytes": file.file_bytes, "manifest": str(file.manifest_digest)}
            for file in put.entry.files
        ],
        "store": store.url,
    }


def _say(put: Put, stored_bytes: int, is_quiet: bool) -> None:
    print(model_text(put.entry))
    if is_quiet:
        return
    files = f"{count_text(len(put.entry.files), 'file')}, {size_text(put.entry.file_bytes)}"
    if put.is_new:
        print(f"thetastore: {files}, stored in {size_text(stored_bytes)} more", file=sys.stderr)
    else:
        print(f"thetastore: nothing has changed: that is the newest version already ({files})", file=sys.stderr)
