"""`thetastore init`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, open_store, store_parser
from thetastore.output import add_quiet_option

_REPLACES = "creating a file there replaces one that is there"


def run(arguments: list[str]) -> int:
    """Make a store."""
    parser = store_parser("init", "Make a store in a directory or bucket.")
    parser.add_argument(
        "--shared", action="store_true", help="of a directory: its group may write, too; who is in it, chgrp says"
    )
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    with open_store(options, create=True, is_shared=options.shared) as store:
        if not options.quiet:
            print(store.url)
        if not store.is_for_many_writers:
            print(f"thetastore: '{store.url}' is for one writer at a time: {_REPLACES}", file=sys.stderr)
    return EXIT_DONE
