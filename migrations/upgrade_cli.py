"""`thetastore upgrade`."""

from __future__ import annotations

import sys

from thetastore.cli.opening import EXIT_DONE, add_json_option, storage_options, store_parser
from thetastore.command_line import print_json
from thetastore.output import add_quiet_option

_EPILOG = """\
Older releases of thetastore refuse the store from then on, and say which release is needed. Nobody may write to a store
on this machine meanwhile; whoever writes to one far away is refused, and does it again. An upgrade that was interrupted
has lost nothing: run it again.
"""


def run(arguments: list[str]) -> int:
    """Bring a store to the version that this thetastore writes."""
    parser = store_parser("upgrade", "Bring a store to the version that this thetastore writes.", _EPILOG)
    parser.add_argument("-n", "--dry-run", action="store_true", help="only say what would be done")
    add_json_option(parser)
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    from migrations.upgrading import known_steps, plan, upgrade
    from thetastore.store import backend_at
    from thetastore.tables import count_text, size_text

    backend = backend_at(options.store, storage_options(options.store))
    planned = plan(backend, known_steps())
    values = {"from": planned.start, "to": planned.stop, "steps": planned.summaries, "dry_run": options.dry_run}
    if planned.start == planned.stop:
        said = f"{backend.url}: has version {planned.stop}, the newest that this thetastore knows"
    elif options.dry_run:
        amount = f"{count_text(planned.file_count, 'file')}, {size_text(planned.stored_bytes)}"
        said = f"{backend.url}: from version {planned.start} to {planned.stop}; first {amount}"
        said = "\n".join([said, *(f"  {summary}" for summary in planned.summaries)])
    else:
        done = upgrade(backend, known_steps())
        values["files"] = done.file_count
        said = (
            f"{backend.url}: version {done.start} is now {done.stop}; {count_text(done.file_count, 'file')} converted"
        )
    if options.json:
        print_json(values)
    elif not options.quiet:
        sys.stdout.write(said + "\n")
    return EXIT_DONE
