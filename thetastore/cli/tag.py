"""`thetastore tag`."""

from __future__ import annotations

import argparse
import sys

from thetastore.cli.naming import add_message_options, draft_of, find_model, model_text
from thetastore.cli.opening import EXIT_DONE
from thetastore.command_line import Parser
from thetastore.output import add_listing_options, add_quiet_option, painter, pairs, print_values, wants_values
from thetastore.tables import table

_EPILOG = """\
A tag keeps its version, also when the model is removed.

  thetastore tag s3://bucket/zoo/bert            list tags
  thetastore tag s3://bucket/zoo/bert@v3 prod    name a version; --force moves a tag
  thetastore tag -d s3://bucket/zoo/bert prod    take a tag away
"""


def run(arguments: list[str]) -> int:
    """List, give or take away tags."""
    parser = Parser(
        prog="thetastore tag",
        usage="thetastore tag [-m MESSAGE] [--force] [--json | --porcelain] PLACE/NAME[@VERSION] [TAG]\n"
        "       thetastore tag -d PLACE/NAME TAG",
        description="Give a version of a model a name; list tags, or take one away.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_message_options(parser)
    parser.add_argument("--force", action="store_true", help="move a tag that names another version")
    parser.add_argument("-d", "--delete", action="store_true", help="take the tag away; the version stays")
    add_listing_options(parser, pairs("tags"))
    add_quiet_option(parser)
    parser.add_argument("model", metavar="PLACE/NAME[@VERSION]", help="no version: the newest")
    parser.add_argument("tag", nargs="?", metavar="TAG", help="if none: list them")
    options = parser.parse_args(arguments)
    if options.delete and not options.tag:
        parser.error("the following arguments are required: TAG")
    from thetastore.versions.history import Versions
    from thetastore.versions.names import resolve, version_text

    store, wanted = find_model(options.model)
    with store:
        versions = Versions(store)
        if not options.tag:
            resolve(store, wanted)
            tags = versions.tags(wanted.name)
            if wants_values(options):
                print_values(options, {"store": store.url, "name": wanted.name, "tags": tags})
            else:
                paint = painter(options)
                sys.stdout.write(table([(paint(tag, "yellow"), version_text(number)) for tag, number in tags.items()]))
        elif options.delete:
            versions.delete_tag(wanted.name, options.tag)
        else:
            entry = versions.tag(wanted, options.tag, draft_of(options), options.force)
            if wants_values(options):
                values = {"store": store.url, "name": wanted.name, "tags": {options.tag: entry.number}}
                print_values(options, values)
            elif not options.quiet:
                print(f"{wanted.name}@{options.tag}  {model_text(entry)}")
    return EXIT_DONE
