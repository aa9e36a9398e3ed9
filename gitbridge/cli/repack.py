"""`git theta repack`."""

from __future__ import annotations

import argparse
import sys
import time

from gitbridge.cli.opening import open_local_store, open_repository
from gitbridge.cli.options import add_progress_options
from gitbridge.render import Progress
from thetastore.command_line import Parser, print_json
from thetastore.upkeep.repack import AGGRESSIVE, HOT, repack
from thetastore.upkeep.repack_report import repack_text, repack_values

_EPILOG = """\
Others may read and write the store meanwhile. What is new lies beside what is old until the end, so a disk must have
room for it. A repack that was interrupted has lost nothing; the next one goes on.
"""


def run(arguments: list[str]) -> int:
    """Store everything in the local store in the way that takes the fewest bytes."""
    parser = Parser(
        prog="git theta repack",
        description="Store everything in the local store anew where that takes less: as differences from the nearest "
        "model of the family, as copies; without duplicates, in few packs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--aggressive", action="store_true", help="search longer; up to 8 bases deep, so that reading takes longer too"
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be saved")
    parser.add_argument("--json", action="store_true", help="for programs; schema 1")
    add_progress_options(parser)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    progress = Progress("repacking")
    with open_repository() as repository, open_local_store(repository) as store:
        try:
            effort = AGGRESSIVE if options.aggressive else HOT
            repacked = repack(store.objects, store.pool, effort, options.dry_run, progress.of_bytes)
        finally:
            progress.done()
    elapsed_s = time.monotonic() - started
    if options.json:
        print_json(repack_values(repacked, options.dry_run, elapsed_s))
    elif not options.quiet:
        sys.stdout.write(repack_text(repacked, options.dry_run, elapsed_s))
    return 0
