"""`thetastore verify`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, EXIT_FOUND, open_store, store_parser


def run(arguments: list[str]) -> int:
    """Check a store."""
    parser = store_parser("verify", "Check what is stored.")
    parser.add_argument("--level", choices=["tables", "stored", "raw"], default="raw", help="how deep (default: raw)")
    options = parser.parse_args(arguments)
    from thetastore.upkeep.verify import Level, verify

    found = 0
    with open_store(options) as store:
        for finding in verify(store.objects, Level[options.level.upper()]):
            print(finding)
            found += 1
    if not found:
        print(f"{store.url}: no problems found", file=sys.stderr)
    return EXIT_FOUND if found else EXIT_DONE
