"""`git theta checkout`."""

from __future__ import annotations

from gitbridge.cli.opening import make_ready, open_work_tree
from gitbridge.repository import Repository
from thetastore.command_line import Parser


def checkout(arguments: list[str]) -> int:
    """Fill files of the work tree that are pointers."""
    parser = Parser(
        prog="git theta checkout",
        description="Fill the files of the work tree that hold only their pointers (all, or those named) with weights.",
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files, directories or globs")
    options = parser.parse_args(arguments)
    with open_work_tree() as repository:
        return fill(repository, options.paths or None)


def fill(repository: Repository, arguments: list[str] | None) -> int:
    """Fill pointers, say how many, and name those that could not be; return the exit status."""
    from gitbridge.materialize import complain_all, materialize
    from gitbridge.render import Progress, count_text, size_text
    from gitbridge.setup import is_configured
    from gitbridge.states import select
    from gitbridge.trees import tracked_in_index

    if not is_configured(repository):
        make_ready(repository)
    if arguments:
        select(repository, tracked_in_index(repository), arguments)  # a name that means nothing is an error
    progress = Progress("filling files")
    try:
        report = materialize(repository, arguments, progress.of_bytes)
    finally:
        progress.done()
    complain_all(report.failures)
    if report.filled:
        print(f"git theta: filled {count_text(len(report.filled), 'file')}, {size_text(report.raw_bytes)}")
    elif not report.failures:
        from gitbridge.absent import remark_on_absent

        print(f"git theta: {remark_on_absent(repository) or 'nothing to fill: no file here is a pointer'}")
    return 2 if report.failures else 0
