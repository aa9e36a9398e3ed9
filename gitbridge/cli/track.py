"""`git theta track` and `untrack`."""

from __future__ import annotations

import os
from shlex import quote
from typing import TYPE_CHECKING

from gitbridge import attributes
from gitbridge.cli.opening import make_ready, open_work_tree
from gitbridge.cli.options import refuse_git_lfs_options
from gitbridge.errors import UsageError
from gitbridge.render import printable
from gitbridge.repository import Repository
from thetastore.command_line import Parser
from thetastore.errors import did_you_mean, near_names
from thetastore.output import Rows, add_listing_options, add_quiet_option, painter, print_values, quietly, wants_values

if TYPE_CHECKING:
    from argparse import Namespace


def track(arguments: list[str]) -> int:
    """Add patterns to `.gitattributes` of the current directory, or list what is tracked."""
    parser = Parser(
        prog="git theta track",
        usage="git theta track [-v] [-n] [--filename] PATTERN...\n       git theta track [--json | --porcelain]",
        description="Keep the weights of matching files in the store, and pointers in git. Without a pattern: list.",
    )
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="as in .gitattributes, quoted: '*.safetensors'")
    parser.add_argument("-v", "--verbose", action="store_true", help="name the files that match")
    parser.add_argument("-n", "-d", "--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--filename", action="store_true", help="PATTERN is a name: '*' and '[' mean themselves")
    add_listing_options(parser, Rows("patterns", ("pattern", "source")), json=("-j", "--json"))
    add_quiet_option(parser)
    parser.add_argument("--no-excluded", action="store_true", help="list only what is tracked: always so")
    parser.add_argument("--not-lockable", action="store_true", help="no file is locked: always so")
    refuse_git_lfs_options(parser, "track")
    options = parser.parse_args(arguments)
    if wants_values(options) and options.patterns:
        parser.error(f"--{'json' if options.json else 'porcelain'} lists what is tracked, and takes no PATTERN")
    with open_work_tree() as repository, quietly(options):
        if not options.patterns:
            return _list(repository, options)
        directory = os.getcwd()
        wanted = [_stored(pattern, directory, _top(repository), options.filename) for pattern in options.patterns]
        return _track(repository, directory, list(dict.fromkeys(wanted)), options.verbose, options.dry_run)


def _stored(pattern: str, directory: str, top: str, is_name: bool) -> str:
    """Return a pattern as it has to stand in `.gitattributes`."""
    if not is_name:
        return attributes.normalise(pattern, directory, top)
    if os.path.isdir(os.path.join(directory, pattern)):
        raise UsageError(f"'{pattern}' is a directory, and no file", f"git theta track {quote(pattern)}")
    return attributes.escaped(attributes.normalise(pattern, directory, top))


def _track(repository: Repository, directory: str, patterns: list[str], is_verbose: bool, is_dry: bool) -> int:
    path = os.path.join(directory, attributes.FILE_NAME)
    added = attributes.absent_patterns(path, patterns) if is_dry else _add(repository, path, patterns)
    for pattern in patterns:
        verb = "would track" if is_dry else "tracking"
        print(f"{verb} '{pattern}'" if pattern in added else f"'{pattern}' is tracked already")
        if is_verbose or is_dry:
            for name in attributes.files_that_match(repository, directory, pattern):
                print(f"  {printable(name)}")
    if not is_dry:
        make_ready(repository)
        _name_plain_files(repository, directory)
    return 0


def untrack(arguments: list[str]) -> int:
    """Remove patterns from `.gitattributes` of the current directory."""
    parser = Parser(
        prog="git theta untrack",
        description="Stop keeping the weights of matching files in the store. Old versions stay there.",
    )
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="as it was given to track")
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    with open_work_tree() as repository, quietly(options):
        return _untrack(repository, options.patterns)


def _untrack(repository: Repository, arguments: list[str]) -> int:
    directory = os.getcwd()
    path = os.path.join(directory, attributes.FILE_NAME)
    patterns = [attributes.normalise(pattern, directory, _top(repository)) for pattern in arguments]
    is_in_index = bool(repository.git("--literal-pathspecs", "ls-files", "--", os.path.realpath(path)))
    removed = attributes.remove_patterns(path, patterns, keep_file=is_in_index)
    for pattern in dict.fromkeys(patterns):
        if pattern in removed:
            print(f"no longer tracking '{pattern}'")
    absent = [pattern for pattern in patterns if pattern not in removed]
    if absent:
        known = [one.pattern for one in attributes.tracked_patterns(repository)]
        near = did_you_mean(near_names(absent[0], known))
        words = f"'{absent[0]}' is not tracked by {path}{near}"
        raise UsageError(words, "git theta track lists patterns and their files")
    _name_pointers(repository)
    return 0


def _top(repository: Repository) -> str:
    assert repository.work_tree is not None
    return os.path.realpath(repository.work_tree)


def _list(repository: Repository, options: Namespace) -> int:
    found = attributes.tracked_patterns(repository)
    if wants_values(options):
        print_values(options, {"patterns": [one._asdict() for one in found]})
        return 0
    if not found:
        print("nothing is tracked; to start: git theta track '*.safetensors'")
    paint = painter(options)
    for pattern, source in found:
        print(f"{paint(pattern, 'bold')}  ({source})")
    return 0


def _add(repository: Repository, path: str, patterns: list[str]) -> list[str]:
    before = attributes.read_lines(path)
    added = attributes.add_patterns(path, patterns)
    swallowed = attributes.swallowed_files(repository, os.path.dirname(path)) if added else []
    if swallowed:
        if before:
            attributes.write_lines(path, before)
        else:
            os.unlink(path)
        raise UsageError(
            f"this would turn '{swallowed[0]}', which git itself reads, into a pointer; nothing was changed",
            "name the files more closely: git theta track '*.safetensors' 'models/**'",
        )
    return added


def _name_plain_files(repository: Repository, directory: str) -> None:
    """Name files that are committed as plain blobs: git does not notice that their attributes changed."""
    from gitbridge.status import plain_files
    from gitbridge.trees import tracked_in_index

    prefix = os.path.relpath(os.path.realpath(directory), _top(repository))
    under = "" if prefix == "." else prefix + "/"
    tracked = {file.path for file in tracked_in_index(repository)}
    plain = [os.path.relpath(path, prefix) for path in plain_files(repository, tracked, under)]
    if plain:
        print(f"already in git as plain files: {', '.join(plain[:5])}{' …' if len(plain) > 5 else ''}")
        names = " ".join(quote(name) for name in plain) if len(plain) <= 5 else "."
        print(f"to move them to the store from the next commit on: git add --renormalize {names}")


def _name_pointers(repository: Repository) -> None:
    """Name files that no pattern tracks any more but that the index still holds as pointers."""
    from gitbridge.trees import tracked_in_index

    paths = [file.path for file in tracked_in_index(repository)]
    still = set(attributes.paths_with_filter(repository, paths))
    loose = [path for path in paths if path not in still]
    if loose:
        print(f"still pointers in the index: {', '.join(loose[:5])}{' …' if len(loose) > 5 else ''}")
        print("to commit their weights into git itself: git add --renormalize . (git keeps every version whole)")
