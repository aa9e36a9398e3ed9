"""`thetastore put`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, open_store, store_parser


def run(arguments: list[str]) -> int:
    """Store a file."""
    parser = store_parser("put", "Store a file; print the digest of its manifest.")
    parser.add_argument("file", help="the file, or - for standard input")
    parser.add_argument("--base", metavar="MANIFEST", help="digest of an earlier version, to store differences from")
    options = parser.parse_args(arguments)
    from thetastore.digest import Digest

    base = Digest.parse(options.base) if options.base else None
    with open_store(options) as store:
        source: int | str = sys.stdin.fileno() if options.file == "-" else options.file
        with open(source, "rb", buffering=0) as file:
            ingested = store.put_file(file, base)
    print(ingested.manifest_digest)
    return EXIT_DONE
