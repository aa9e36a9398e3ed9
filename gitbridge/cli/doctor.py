"""`git theta doctor`."""

from __future__ import annotations

import sys

from gitbridge.cli.opening import open_repository
from gitbridge.doctor import GOOD, NOTE, PROBLEM, Finding, examine
from gitbridge.errors import RepositoryMissingError
from gitbridge.render import count_text, has_colours, painted, printable
from gitbridge.repository import Repository
from thetastore.command_line import Parser
from thetastore.output import Rows, add_listing_options, print_values, wants_values


def doctor(arguments: list[str]) -> int:
    """Print what was found, and how it is mended; 1 if there are problems."""
    parser = Parser(
        prog="git theta doctor",
        description="Look for what keeps weights from being stored, found and sent, here; say how it is mended.",
        epilog="Nothing is changed. Exit status 1 if there are problems; notes may be as they are meant.",
    )
    add_listing_options(parser, Rows("findings", ("level", "check", "message", "mend")))
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of what is good")
    options = parser.parse_args(arguments)
    is_coloured = has_colours(options.color, sys.stdout)
    repository = _repository()
    found = []
    for finding in examine(repository):
        found.append(finding)
        if not wants_values(options) and not (options.quiet and finding.level == GOOD):
            _print(finding, is_coloured)
    if repository is not None:
        repository.close()
    problem_count = sum(finding.level == PROBLEM for finding in found)
    if wants_values(options):
        print_values(options, {"findings": [finding._asdict() for finding in found]})
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
