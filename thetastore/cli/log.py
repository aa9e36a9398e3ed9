"""`thetastore log`."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict

from thetastore.cli.naming import date_text, entry_values, find_model
from thetastore.cli.opening import EXIT_DONE
from thetastore.command_line import Parser
from thetastore.output import Rows, add_listing_options, painter, print_values, wants_values
from thetastore.tables import printable, size_text, table


def run(arguments: list[str]) -> int:
    """List the versions of a model."""
    parser = Parser(prog="thetastore log", description="List the versions of a model, the newest first.")
    parser.add_argument("-n", "--max-count", type=int, metavar="N", help="at most so many")
    add_listing_options(parser, Rows("versions", ("version", "time_ms", "author", "file_bytes", "tags", "message")))
    parser.add_argument("model", metavar="PLACE/NAME[@VERSION]", help="from this version on backwards")
    options = parser.parse_args(arguments)
    from thetastore.versions.history import Versions
    from thetastore.versions.names import version_text

    store, wanted = find_model(options.model)
    with store:
        versions = Versions(store)
        entries = list(itertools.islice(versions.log(wanted), options.max_count))
        tagged: dict[int, list[str]] = defaultdict(list)
        for tag, number in versions.tags(wanted.name).items():
            tagged[number].append(tag)
    if wants_values(options):
        listed = [{**entry_values(entry), "tags": tagged.get(entry.number, [])} for entry in entries]
        print_values(options, {"store": store.url, "name": wanted.name, "versions": listed})
        return EXIT_DONE
    paint = painter(options)
    rows = [
        (
            paint(version_text(entry.number), "yellow"),
            date_text(entry),
            printable(entry.author),
            size_text(entry.file_bytes),
            (f"({', '.join(tagged[entry.number])}) " if entry.number in tagged else "")
            + printable(entry.message.partition("\n")[0]),
        )
        for entry in entries
    ]
    sys.stdout.write(table(rows, right=(0, 3)))
    return EXIT_DONE
