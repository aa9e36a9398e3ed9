"""`thetastore sync`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from thetastore.cli.opening import EXIT_DONE, EXIT_FOUND, add_json_option, add_progress_options, storage_options
from thetastore.command_line import Parser, print_json
from thetastore.errors import StoreMissingError
from thetastore.progress import Progress
from thetastore.tables import count_text, size_text

if TYPE_CHECKING:
    from thetastore.store import Store

_EPILOG = """\
All models with all versions, and all tags, number for number; only what the other store lacks is sent. A sync that was
broken off goes on where it was. A model for which the other store has versions of its own is left alone, and the exit
status is 1: `thetastore cp` adds a version to those.

  thetastore sync s3://bucket/zoo /backup/zoo
  thetastore sync s3://bucket/zoo /srv/zoo org/bert      one model, with its tags
"""


def run(arguments: list[str]) -> int:
    """Make a store have all that another one has."""
    parser = Parser(
        prog="thetastore sync",
        usage="thetastore sync [-n] [--json] [-q] PLACE PLACE [NAME...]",
        description="Send all versions that a store has to another one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be sent")
    add_json_option(parser)
    add_progress_options(parser)
    parser.add_argument("source", metavar="PLACE", help="the store that has them")
    parser.add_argument("target", metavar="PLACE", help="the store that is to have them, which must be there")
    parser.add_argument("models", nargs="*", metavar="NAME", help="only these models, with their tags")
    options = parser.parse_args(arguments)
    from thetastore.store import Store
    from thetastore.versions.copying import SyncedRef, sync

    progress = Progress("sending")

    def say(ref: SyncedRef) -> None:
        progress.done()
        text = _text(ref)
        if text and not options.json and not (options.quiet and ref.differs_at is None):
            print(text, flush=True)

    with (
        Store.open(options.source, options=storage_options(options.source)) as source,
        _target(options.target) as target,
    ):
        done = sync(source, target, options.models, options.dry_run, progress, say)
    left = [ref for ref in done.refs if ref.differs_at is not None]
    if options.json:
        refs = [
            {"ref": ref.name, "new_numbers": list(ref.new_numbers), "differs_at": ref.differs_at} for ref in done.refs
        ]
        print_json({"source": source.url, "target": target.url, "refs": refs, **done.copied._asdict()})
    elif not options.dry_run and not options.quiet:
        sent = f"{count_text(done.copied.object_count, 'object')} sent, {size_text(done.copied.stored_bytes)}"
        print(f"thetastore: {count_text(len(done.refs), 'ref')}, {sent}", file=sys.stderr)
    return EXIT_FOUND if left else EXIT_DONE


def _target(place: str) -> Store:
    from thetastore.store import Store

    try:
        return Store.open(place, options=storage_options(place))
    except StoreMissingError as error:
        raise StoreMissingError(f"{error}; to make one: thetastore init {place}") from None


def _text(ref) -> str:  # type: ignore[no-untyped-def]
    kind, _, name = ref.name.partition("/")
    shown = f"{name}" if kind == "models" else f"tag {name}"
    if ref.differs_at is not None:
        return f"{shown}: left alone: the other store has its own v{ref.differs_at}"
    if not ref.new_numbers:
        return ""
    numbers = f"v{ref.new_numbers[0]}" + (f" to v{ref.new_numbers[-1]}" if len(ref.new_numbers) > 1 else "")
    return f"{shown}: {numbers}" if kind == "models" else shown
