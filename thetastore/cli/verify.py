"""`thetastore verify`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, EXIT_FOUND, add_json_option, open_store, store_parser
from thetastore.command_line import print_json

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
    add_json_option(parser)
    options = parser.parse_args(arguments)
    from contextlib import nullcontext

    from thetastore.checking.budget import parse_budget
    from thetastore.checking.check import Check
    from thetastore.checking.report import check_values, finding_lines, lost_text, names_in, summary
    from thetastore.pool import processes
    from thetastore.upkeep.verify import Level

    budget = parse_budget(options.budget) if options.budget else None
    with open_store(options) as store, processes(options.jobs) if options.jobs > 1 else nullcontext() as executor:
        check = Check(store, Level[options.level.upper()], budget, executor)
        for line in finding_lines(check.findings()):
            if not options.json:
                print(line)
        lost = check.lost_files(file.manifest_digest for file in check.named)
    name_of = names_in(check.named)
    if options.json:
        print_json(check_values(check, lost, None, store.url, name_of))
    else:
        sys.stdout.write(lost_text(lost, name_of))
        print(summary(check, lost, store.url), file=sys.stderr)
    return EXIT_FOUND if check.found or lost else EXIT_DONE
