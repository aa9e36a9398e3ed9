"""`thetastore du`."""

from __future__ import annotations

from thetastore.cli.opening import add_json_option, store_parser
from thetastore.cli.usage import FIGURES, show_usage


def run(arguments: list[str]) -> int:
    """Say what takes how many bytes."""
    parser = store_parser("du", "Say what takes how many bytes, file by file.", FIGURES)
    parser.add_argument("--tensors", action="store_true", help="list the tensors of each file, too")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    return show_usage(options, has_files=True, has_tensors=options.tensors)
