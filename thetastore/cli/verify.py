"""`thetastore verify`."""

from __future__ import annotations

import sys

from thetastore.checking.report import CHECK_ROWS
from thetastore.cli.opening import EXIT_DONE, EXIT_FOUND, add_progress_options, open_store, store_parser
from thetastore.output import add_listing_options, painter, print_values, wants_values

_EPILOG = """\
levels, each with those before it:
  listing  which files are there and how long they are, against the index
  tables   the structure of every file, and that every base is there
  stored   the checksum of everything stored
  raw      the digest of everything, decoded

With --budget, a run stops when that is spent, and the next one goes on there, until all packs had their turn.
Exit status 1 if something is wrong: thetastore mend sets that aside and brings back what is lost.
"""


def run(arguments: list[str]) -> int:
    """Check a store."""
    parser = store_parser("verify", "Check what is stored. Nothing of it is changed.", _EPILOG)
    parser.add_argument(
        "--level", choices=["listing", "tables", "stored", "raw"], default="raw", help="how deep (default: raw)"
    )
    parser.add_argument("--budget", metavar="AMOUNT", help="how much now, as in 10GB/10min; the next run goes on there")
    parser.add_argument("-j", "--jobs", type=int, default=1, metavar="N", help="read with so many processes")
    add_listing_options(parser, *CHECK_ROWS)
    add_progress_options(parser)
    options = parser.parse_args(arguments)
    from contextlib import nullcontext

    from thetastore.checking.budget import parse_budget
    from thetastore.checking.check import Check
    from thetastore.checking.report import check_values, finding_lines, lost_text, names_in, summary
    from thetastore.pool import processes
    from thetastore.progress import Progress
    from thetastore.upkeep.verify import Level

    paint, progress = painter(options), Progress("checking")
    budget = parse_budget(options.budget) if options.budget else None
    with open_store(options) as store, processes(options.jobs) if options.jobs > 1 else nullcontext() as executor:
        check = Check(store, Level[options.level.upper()], budget, executor, progress.of_bytes)
        for line in finding_lines(check.findings()):
            if not wants_values(options):
                progress.done()
                print(paint(line, "red"))
        progress.done()
        lost = check.lost_files(file.manifest_digest for file in check.named)
    name_of = names_in(check.named)
    if wants_values(options):
        print_values(options, check_values(check, lost, None, store.url, name_of))
    else:
        sys.stdout.write(lost_text(lost, name_of))
        if check.found or lost or not options.quiet:
            print(summary(check, lost, store.url), file=sys.stderr)
    return EXIT_FOUND if check.found or lost else EXIT_DONE
