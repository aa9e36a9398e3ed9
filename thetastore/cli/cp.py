"""`thetastore cp`."""

from __future__ import annotations

import argparse
import sys

from thetastore.cli.naming import add_message_options, draft_of, find_model, find_target, model_text
from thetastore.cli.opening import EXIT_DONE, add_json_option, add_progress_options
from thetastore.command_line import Parser, print_json
from thetastore.progress import Progress
from thetastore.tables import count_text, size_text

_EPILOG = """\
Only what the other store lacks is sent, as it is stored: nothing is decoded and coded again but what has no base there.

  thetastore cp s3://bucket/zoo/bert@v3 /srv/zoo          as the next version of 'bert' there
  thetastore cp s3://bucket/zoo/bert s3://bucket/zoo/bert-try    within a store: nothing is sent
"""


def run(arguments: list[str]) -> int:
    """Copy a version."""
    parser = Parser(
        prog="thetastore cp",
        usage="thetastore cp [-m MESSAGE] [--json] [-q] PLACE/NAME[@VERSION] PLACE[/NAME]",
        description="Copy a version of a model to another store, or to another name.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_message_options(parser)
    add_json_option(parser)
    add_progress_options(parser)
    parser.add_argument("model", metavar="PLACE/NAME[@VERSION]", help="no version: the newest")
    parser.add_argument("target", metavar="PLACE[/NAME]", help="a store; without a name, the same one")
    options = parser.parse_args(arguments)
    from thetastore.versions.copying import copy_version

    source, wanted = find_model(options.model)
    with source:
        target, name = find_target(options.target)
        with target:
            draft = draft_of(options) if options.message or options.author else None
            progress = Progress("sending")
            try:
                put, copied = copy_version(source, wanted, target, name or wanted.name, draft, progress)
            finally:
                progress.done()
    sent = f"{count_text(copied.object_count, 'object')} sent, {size_text(copied.stored_bytes)}"
    if options.json:
        values = {"name": name or wanted.name, "version": put.entry.number, "is_new": put.is_new, **copied._asdict()}
        print_json({"store": target.url, **values})
        return EXIT_DONE
    print(model_text(put.entry))
    if not options.quiet:
        print(f"thetastore: {sent if put.is_new else 'it is the newest version there already'}", file=sys.stderr)
    return EXIT_DONE
