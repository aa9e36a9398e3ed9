"""`thetastore repack`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, add_json_option, add_progress_options, open_store, store_parser
from thetastore.command_line import print_json


def run(arguments: list[str]) -> int:
    """Store everything anew."""
    parser = store_parser("repack", "Store everything anew where that takes fewer bytes.")
    parser.add_argument("--aggressive", action="store_true", help="search longer; up to 8 bases deep, dearer to read")
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be saved")
    add_json_option(parser)
    add_progress_options(parser)
    options = parser.parse_args(arguments)
    import time

    from thetastore.progress import Progress
    from thetastore.upkeep.repack import AGGRESSIVE, HOT, repack
    from thetastore.upkeep.repack_report import repack_text, repack_values

    started = time.monotonic()
    with open_store(options) as store:
        progress = Progress("repacking")
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
    return EXIT_DONE
