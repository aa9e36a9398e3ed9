"""`thetastore mend`."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from thetastore.cli.opening import (
    EXIT_DONE,
    EXIT_FOUND,
    add_json_option,
    open_store,
    storage_options,
    store_parser,
)
from thetastore.command_line import print_json
from thetastore.output import add_quiet_option

if TYPE_CHECKING:
    from thetastore.checking.descriptors import MendedDescriptor
    from thetastore.checking.repair import Source

_EPILOG = """\
Everything is read. Damaged packs and index runs move to 'damaged/' in the store, after their sound records went into
new packs; the index is made anew; what is lost is brought back from each --from in turn. A thetastore.json that is
damaged or gone is made anew from what the other files say. Nothing is deleted.
Exit status 1 if something was damaged, or is still lost.
"""


def run(arguments: list[str]) -> int:
    """Set damage aside and bring back what is lost, or make tables anew."""
    parser = store_parser("mend", "Set damage aside, and bring back what is lost.", _EPILOG)
    parser.add_argument(
        "--from",
        dest="places",
        action="append",
        default=[],
        metavar="PLACE",
        help="directory or URL of another store, or a file, with what is lost; may be given several times",
    )
    parser.add_argument("--hints", action="store_true", help="make the tables of families and anchors anew instead")
    add_json_option(parser)
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    return _rebuild_hints(options) if options.hints else _mend(options)


def _mend(options: argparse.Namespace) -> int:
    from thetastore.checking.check import named_files
    from thetastore.checking.repair import repair
    from thetastore.checking.report import lost_text, names_in, repaired_text, repaired_values

    sources = [_source(place) for place in options.places]
    written = _mend_descriptor(options.store)
    with open_store(options) as store:
        named = list(named_files(store))
        repaired = repair(store, None, sources, whole=[file.manifest_digest for file in named])
    name_of = names_in(named)
    if options.json:
        values = None if written is None else {"set_aside": written.set_aside, "version": written.version}
        print_json({"store": store.url, "descriptor": values, **repaired_values(repaired, name_of)})
    else:
        sys.stdout.write(("" if options.quiet else repaired_text(repaired)) + lost_text(repaired.lost, name_of))
        if not (options.quiet or written or repaired.set_aside or repaired.brought or repaired.lost_count):
            print(f"'{store.url}': nothing is damaged", file=sys.stderr)
    return EXIT_FOUND if written or repaired.set_aside or repaired.lost_count else EXIT_DONE


def _mend_descriptor(place: str) -> MendedDescriptor | None:
    """Make what opens the store readable first; say so where that had to be."""
    from thetastore.checking.descriptors import mend_descriptor
    from thetastore.store import backend_at

    written = mend_descriptor(backend_at(place, storage_options(place)))
    if written is not None:
        was = f"damaged; it lies in '{written.set_aside}'" if written.set_aside else "gone"
        print(f"'{place}': its thetastore.json was {was} and was written anew", file=sys.stderr)
    return written


def _source(place: str) -> Source:
    from thetastore.checking.repair import FileSource, StoreSource
    from thetastore.store import Store

    if os.path.isfile(place):
        return FileSource(place)
    return StoreSource(place, partial(Store.open, place, options=storage_options(place)))


def _rebuild_hints(options: argparse.Namespace) -> int:
    from thetastore.upkeep.hints import rebuild_hints

    with open_store(options) as store:
        rebuilt = rebuild_hints(store.objects, store.pool)
    counts = f"{rebuilt.model_count} models filed, {rebuilt.anchor_count} anchors remembered"
    if not options.quiet:
        print(f"{counts}, {rebuilt.locator_count} locators written")
    return EXIT_DONE
