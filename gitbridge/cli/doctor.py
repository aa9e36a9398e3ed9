"""`git theta doctor`."""

from __future__ import annotations

import sys

from gitbridge.cli.opening import open_repository
from gitbridge.cli.options import add_color_option
from gitbridge.doctor import GOOD, NOTE, PROBLEM, Finding, examine
from gitbridge.errors import RepositoryMissingError
from gitbridge.render import count_text, has_colours, painted, printable
from gitbridge.repository import Repository
from thetastore.command_line import Parser, print_json


def doctor(arguments: list[str]) -> int:
    """Print what was found, and how it is mended; 1 if there are problems."""
    parser = Parser(
        prog="git theta doctor",
        description="Look for what keeps weights from being stored, found and sent, here; say how it is mended.",
        epilog="Nothing is changed. Exit status 1 if there are problems; notes may be as they are meant.",
    )
    parser.add_argument("--json", action="store_true", help="for programs; schema 1")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of what is good")
    add_color_option(parser)
    options = parser.parse_args(arguments)
    is_coloured = has_colours(options.color, sys.stdout)
    repository = _repository()
    found = []
    for finding in examine(repository):
        found.append(finding)
        if not options.json and not (options.quiet and finding.level == GOOD):
            _print(finding, is_coloured)
    if repository is not None:
        repository.close()
    problem_count = sum(finding.level == PROBLEM for finding in found)
    if options.json:
        print_json({"findings": [finding._asdict() for finding in found]})
    elif not options.quiet:
        print(f"\n{count_text(problem_count, 'problem') if problem_count else 'no problems'}")
    return 1 if problem_count else 0


def _repository() -> Repository | None:
    try:
        return open_repository()
    except RepositoryMissingError:
        return None


def _print(finding: Finding, is_coloured: bool) -> None:
    level = painted(f"{finding.level:8}", _COLOURS[finding.level], is_coloured)
    print(f"{level} {finding.check}: {printable(finding.message)}")
    if finding.mend:
        print(f"{'':8} mend: {printable(finding.mend)}")
    sys.stdout.flush()


_COLOURS = {GOOD: "green", NOTE: "yellow", PROBLEM: "red"}
