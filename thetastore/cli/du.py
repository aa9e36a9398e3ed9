"""`thetastore du`."""

from __future__ import annotations

from thetastore.cli.opening import store_parser
from thetastore.cli.usage import FIGURES, show_usage
from thetastore.output import add_listing_options
from thetastore.upkeep.usage_report import USAGE_ROWS


def run(arguments: list[str]) -> int:
    """Say what takes how many bytes."""
    parser = store_parser("du", "Say what takes how many bytes, file by file.", FIGURES)
    parser.add_argument("--tensors", action="store_true", help="list the tensors of each file, too")
    add_listing_options(parser, *USAGE_ROWS)
    options = parser.parse_args(arguments)
    return show_usage(options, has_files=True, has_tensors=options.tensors)
