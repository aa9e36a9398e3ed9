"""`thetastore rm`."""

from __future__ import annotations

import argparse
import sys

from thetastore.cli.naming import add_message_options, draft_of, find_model
from thetastore.cli.opening import EXIT_DONE, add_json_option
from thetastore.command_line import Parser, print_json
from thetastore.errors import MalformedError
from thetastore.output import add_quiet_option

_EPILOG = """\
Nothing is deleted at once: versions can be had by their numbers until `thetastore gc` has collected them. Versions that
a tag names are kept. A model that is put again gets the next number.
"""


def run(arguments: list[str]) -> int:
    """Let go of a model."""
    parser = Parser(
        prog="thetastore rm",
        description="Remove a model, with all versions that no tag names.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_message_options(parser)
    add_json_option(parser)
    add_quiet_option(parser)
    parser.add_argument("model", metavar="PLACE/NAME", help="a model, not a version of one")
    options = parser.parse_args(arguments)
    from thetastore.versions.history import Versions

    store, wanted = find_model(options.model)
    with store:
        if wanted.version:
            raise MalformedError(f"'{wanted}' names a version, and only whole models are removed")
        versions = Versions(store)
        gone = versions.delete(wanted.name, draft_of(options))
        kept = versions.tags(wanted.name)
    if options.json:
        print_json({"store": store.url, "name": wanted.name, "number": gone.number, "kept_tags": list(kept)})
        return EXIT_DONE
    if options.quiet:
        return EXIT_DONE
    numbers = "v1" if gone.number == 2 else f"v1 to v{gone.number - 1}"
    print(f"thetastore: removed '{wanted.name}', {numbers}", file=sys.stderr)
    if kept:
        print(f"thetastore: kept by tags: {', '.join(kept)}", file=sys.stderr)
    return EXIT_DONE
