"""`thetastore mend`."""

from __future__ import annotations

import argparse
import sys

from thetastore.cli.opening import EXIT_DONE, EXIT_FOUND, open_store, store_parser


def run(arguments: list[str]) -> int:
    """Set damage aside, or make tables anew."""
    parser = store_parser("mend", "Set damaged packs aside, so that what is lost can be stored again.")
    parser.add_argument("--hints", action="store_true", help="make the tables of families and anchors anew instead")
    options = parser.parse_args(arguments)
    return _rebuild_hints(options) if options.hints else _set_aside(options)


def _set_aside(options: argparse.Namespace) -> int:
    from thetastore.upkeep.mending import set_aside_damage

    with open_store(options) as store:
        found = set_aside_damage(store.objects)
    for pack in found:
        print(f"{pack.file_name}: set aside; {pack.kept_count} sound objects were kept")
        for digest in pack.lost:
            print(f"object {digest} is lost: fetch it, or store its file again")
    if not found:
        print(f"{store.url}: nothing is damaged", file=sys.stderr)
    return EXIT_FOUND if found else EXIT_DONE


def _rebuild_hints(options: argparse.Namespace) -> int:
    from thetastore.upkeep.hints import rebuild_hints

    with open_store(options) as store:
        rebuilt = rebuild_hints(store.objects, store.pool)
    print(f"{rebuilt.model_count} models filed, {rebuilt.anchor_count} anchors remembered")
    return EXIT_DONE
