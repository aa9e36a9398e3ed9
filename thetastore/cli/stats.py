"""`thetastore stats`."""

from __future__ import annotations

from thetastore.cli.opening import store_parser
from thetastore.cli.usage import FIGURES, show_usage
from thetastore.output import add_listing_options
from thetastore.upkeep.usage_report import USAGE_ROWS


def run(arguments: list[str]) -> int:
    """Say what the store takes, by codec."""
    parser = store_parser("stats", "Say what the whole store takes, by codec.", FIGURES)
    add_listing_options(parser, *USAGE_ROWS)
    options = parser.parse_args(arguments)
    return show_usage(options, has_files=False, has_tensors=False)
