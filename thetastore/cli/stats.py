"""`thetastore stats`."""

from __future__ import annotations

from thetastore.cli.opening import add_json_option, store_parser
from thetastore.cli.usage import FIGURES, show_usage


def run(arguments: list[str]) -> int:
    """Say what the store takes, by codec."""
    parser = store_parser("stats", "Say what the whole store takes, by codec.", FIGURES)
    add_json_option(parser)
    options = parser.parse_args(arguments)
    return show_usage(options, has_files=False, has_tensors=False)
