"""`git theta status`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gitbridge.absent import remark_on_absent
from gitbridge.attributes import tracked_patterns
from gitbridge.cli.opening import open_work_tree
from gitbridge.large_files import LargeFile
from gitbridge.profile import profile_of
from gitbridge.render import count_text, has_colours, painted, printable, size_text, table
from gitbridge.repository import Repository
from gitbridge.setup import is_configured
from gitbridge.states import FULL, MISSING
from gitbridge.status import FileStatus, Status
from gitbridge.status import status as look
from thetastore.command_line import Parser, print_json
from thetastore.output import add_color_option


def status(arguments: list[str]) -> int:
    """Print what is worth knowing; 1 if weights are in no store that can be reached."""
    from argparse import RawDescriptionHelpFormatter

    parser = Parser(
        prog="git theta status",
        description="Say which tracked files are changed, pointers only, missing from the store, or not pushed.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("-p", "--porcelain", action="store_true", help="for scripts: one line a file, see below")
    output.add_argument("-j", "--json", action="store_true", help="for programs; schema 1")
    parser.add_argument("-z", dest="nul", action="store_true", help="--porcelain, each line ended by a NUL byte")
    add_color_option(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing: the exit status says it")
    options = parser.parse_args(arguments)
    with open_work_tree() as repository:
        found = look(repository)
        if options.quiet:
            pass
        elif options.json:
            _print_json(found)
        elif options.porcelain or options.nul:
            _print_porcelain(found, b"\0" if options.nul else b"\n")
        else:
            _print_text(repository, found, has_colours(options.color, sys.stdout))
    return 1 if found.plain or any(_is_lost(row.state, row.is_stored, row.is_pushed) for row in found.files) else 0


_EPILOG = """\
Exit status 1 if weights are in no store that can be reached, or committed without the filter.

--porcelain prints a line for each file that there is something to say of, now and in later versions: four letters, a
blank, and the path from the top of the work tree, as it is. A dot stands for nothing to say.
  1  M staged
  2  M modified, D deleted, U in conflict
  3  P only a pointer here, X in no store that can be reached, G in git as a plain file, L large and not tracked
  4  U not in the remote store, ? not known whether it is
"""


def _is_lost(state: str, is_stored: bool, is_pushed: bool | None) -> bool:
    return state == MISSING or not (is_stored or is_pushed)


def _print_text(repository: Repository, found: Status, is_coloured: bool) -> None:
    rows = [(row, row.remarks()) for row in found.files]
    lines = [
        (
            printable(row.file.path),
            size_text(row.file.file_bytes),
            painted(
                ", ".join(said), "red" if _is_lost(row.state, row.is_stored, row.is_pushed) else "green", is_coloured
            ),
        )
        for row, said in rows
        if said
    ]
    plain = painted("tracked, but in git as a plain file", "red", is_coloured)
    lines += [(printable(path), "", plain) for path in found.plain]
    lines += [
        (printable(file.path), size_text(file.nbytes), painted(_why_large(file), "yellow", is_coloured))
        for file in found.large
    ]
    sys.stdout.write(table(lines, right=(1,)))
    if lines:
        sys.stdout.write("\n")
    for text in _summary(repository, found):
        print(text)
    _print_conflicts(repository, found)
    for text in _hints(repository, found):
        print(f"hint: {text}")


def _print_conflicts(repository: Repository, found: Status) -> None:
    """Say which tensors a merge has left undecided."""
    from gitbridge.merge_states import lines_of, read_states

    paths = [row.file.path for row in found.files if row.change == "conflict"]
    for state in read_states(repository, paths) if paths else ():
        print("\n".join(map(printable, lines_of(state))))


def _print_porcelain(found: Status, end: bytes) -> None:
    import os

    lines = [(_letters(row), row.file.path) for row in found.files]
    lines += [("..G.", path) for path in found.plain] + [("..L.", file.path) for file in found.large]
    for letters, path in lines:
        if letters not in ("....", "...?"):
            sys.stdout.buffer.write(f"{letters} ".encode() + os.fsencode(path) + end)


def _letters(row: FileStatus) -> str:
    change = {"modified": "M", "deleted": "D", "conflict": "U"}.get(row.change, ".")
    is_lost = _is_lost(row.state, row.is_stored, row.is_pushed)
    weights = "X" if is_lost else "P" if row.state != FULL and row.is_here else "."
    pushed = {True: ".", False: "U", None: "?"}[row.is_pushed]
    return ("M" if row.is_staged else ".") + change + weights + pushed


def _summary(repository: Repository, found: Status) -> list[str]:
    if not found.files:
        absent = remark_on_absent(repository, [row.file for row in found.files])
        if absent:
            return [absent]
        if found.plain:
            return ["no weights are in the store yet"]
        patterns = [one.pattern for one in tracked_patterns(repository)]
        if patterns:
            return [f"no file is tracked yet; git add takes those that match {', '.join(patterns[:5])}"]
        return ["no file is tracked yet; to start: git theta track '*.safetensors', then git add"]
    is_pushed = all(row.is_pushed for row in found.files)
    total = size_text(sum(row.file.file_bytes for row in found.files))
    quiet = sum(not row.remarks() for row in found.files)
    head = f"{count_text(len(found.files), 'tracked file')}, {total}"
    if quiet == len(found.files) and not found.plain:
        head += ": all weights are here"
        if is_pushed:
            head += " and in " + ", ".join(f"'{place.url}'" for place in found.known.holders)
    elif quiet:
        head += f"; {quiet} of them unchanged and here"
    lines = [head]
    if found.known.place is None and not found.known.trouble:
        lines.append("no remote store is known")
    if found.known.trouble:
        what = "a remote store cannot be asked" if is_pushed else "whether weights are pushed is not known"
        lines.append(f"{what}: {found.known.trouble}")
    return lines


def _hints(repository: Repository, found: Status) -> list[str]:
    from shlex import quote

    hints = []
    remarks = {said for row in found.files for said in row.remarks()}
    if found.files and not is_configured(repository):
        hints.append("git theta install (it is not installed here, so git add would put weights into git itself)")
    if "conflict" in remarks:
        hints.append("git theta mergetool decides conflicts, by tensor or for all")
    if "deleted" in remarks:
        hints.append(remark_on_absent(repository, [row.file for row in found.files]).partition("\n")[2])
    if "pointer only" in remarks and not profile_of(repository).is_whole:
        hints.append("this clone keeps only a part of the weights: git config --get-regexp theta.fetch says which")
    elif "pointer only" in remarks:
        hints.append("git theta pull fills pointers with their weights")
    hints += _hints_on_lost(repository, found)
    if "not pushed" in remarks:
        hints.append("git push sends weights with their commits")
    if found.plain:
        hints.append(f"git add --renormalize {_arguments(repository, found.plain)} moves plain files to the store")
    if found.large:
        patterns = " ".join(quote(one) for one in dict.fromkeys(file.pattern for file in found.large))
        hints.append(f"git theta track {patterns} keeps large files out of git itself")
    if found.files and found.known.place is None and not found.known.trouble:
        hints.append("git config theta.url /path/to/store says where git push sends weights, and where they come from")
    return hints


def _arguments(repository: Repository, paths: Sequence[str]) -> str:
    """Return paths from the top as git takes them in this directory; all files instead of more than three."""
    import os
    from shlex import quote

    top = os.path.realpath(repository.work_tree or os.curdir)
    here = [os.path.relpath(os.path.join(top, path), os.path.realpath(os.curdir)) for path in paths[:4]]
    return " ".join(map(quote, here)) if len(here) <= 3 else ":/"


def _hints_on_lost(repository: Repository, found: Status) -> list[str]:
    """Return what brings back weights that no store has which can be reached."""
    lost = [row for row in found.files if _is_lost(row.state, row.is_stored, row.is_pushed)]
    hints = []
    here = [row.file.path for row in lost if row.state == FULL and not row.change]
    if here:
        again = f"git add --renormalize {_arguments(repository, here)}"
        hints.append(f"{again} stores again what is missing, from the files here")
    if all(row.state == FULL for row in lost):
        return hints
    if found.known.trouble:
        hints.append("git theta doctor says why the remote store cannot be asked; then git theta pull")
    elif found.known.place is None:
        hints.append("whoever committed the pointers knows where their weights are: 'git theta env' says it there")
    else:
        hints.append(f"'{found.known.place.url}' lacks them: git theta push where they were committed, then pull here")
    return hints


def _why_large(file: LargeFile) -> str:
    return "in git as it is, every version whole" if file.is_in_git else "not tracked: git add would put it into git"


def _print_json(found: Status) -> None:
    files = [
        {
            "path": row.file.path,
            "size_bytes": row.file.file_bytes,
            "digest": str(row.file.file_digest),
            "state": row.state,
            "staged": row.is_staged,
            "change": row.change or None,
            "stored": row.is_stored,
            "pushed": row.is_pushed,
        }
        for row in found.files
    ]
    place = found.known.place
    values = {
        "remote_store": place and {"location": place.location, "url": place.url, "source": place.source},
        "trouble": found.known.trouble or None,
        "files": files,
        "plain": found.plain,
        "large": [{"path": one.path, "size_bytes": one.nbytes, "in_git": one.is_in_git} for one in found.large],
    }
    print_json(values)
