"""`git theta mergetool`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from gitbridge.cli.opening import open_work_tree
from gitbridge.errors import UsageError
from gitbridge.render import count_text, printable, shape_text, table
from thetastore.command_line import Parser
from thetastore.output import (
    Paint,
    Rows,
    add_listing_options,
    add_quiet_option,
    painter,
    print_values,
    quietly,
    wants_values,
)

if TYPE_CHECKING:
    from gitbridge.merge_states import ConflictState
    from gitbridge.merging.finishing import Unmerged
    from gitbridge.merging.rules import Rules
    from gitbridge.repository import Repository
    from thetastore.merging.merge import Conflict, Merge
    from thetastore.merging.mixing import Rule
    from thetastore.merging.three_way import Decision
    from thetastore.store import Store

_EPILOG = """\
Without --ours, --theirs, --base, --method or --recipe it asks on the terminal, tensor by tensor; an answer may be for
many. Of several options for a tensor the last counts. In a GLOB, * matches dots too; '*' is all tensors. A METHOD may
have parameters: --method 'ties density=0.5' 'layers.*'. Nothing is changed before every conflict of a file is decided;
then the result is in the work tree and in the index, as after git add.
"""
_HELP = """\
  ours | theirs | base             take that side's tensor
  METHOD [NAME=VALUE ...]          mix: average, linear, slerp, ties, ... (docs/merge.md has them all)
  ... GLOB                         the same for all undecided tensors that match: theirs *    average layers.0.*
  list                             show what is undecided
  quit                             stop; this file stays as it is
"""

_ROWS = (Rows("files", ("path", "trouble")), Rows("files.conflicts", ("files.path", "name", "kind", "reason")))


class _Choice(NamedTuple):
    """What an option or an answer says."""

    glob: str
    rule: Rule


def mergetool(arguments: list[str]) -> int:
    """Decide what a merge has left in conflict; 1 if something is undecided still. To list it is 0."""
    options = _parse(arguments)
    with (
        open_work_tree() as repository,
        (
            quietly(options) if options.choices or options.recipe else nullcontext()  # what is asked has to be seen
        ),
    ):
        from gitbridge.merging.finishing import unmerged_files

        files = unmerged_files(repository, options.paths)
        if options.list or wants_values(options):
            _list(repository, files, options)
            return 0
        if not files:
            print("no file of weights is in conflict" + (" there" if options.paths else ""))
            return 0
        choices = _choices(options.choices or [])
        undecided = 0
        with repository.open_store() as store:
            for file in files:
                if file.deleted_by is not None:
                    _say_deleted(file)
                    undecided += 1
                else:
                    undecided += not _decide(repository, store, file, choices, options)
    return 1 if undecided else 0


class _Append(argparse.Action):
    """Keeps the options that choose in the order in which they were given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = [*(namespace.choices or []), (str(option_string).lstrip("-"), values)]
        namespace.choices = found


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="git theta mergetool",
        usage="git theta mergetool [--ours GLOB] [--theirs GLOB] [--base GLOB] [--method METHOD GLOB]... "
        "[--recipe FILE] [--force] [--] [PATH...]\n"
        "       git theta mergetool --list [--json | --porcelain] [--] [PATH...]",
        description="Decide about tensors that both sides of a merge changed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for side in ("ours", "theirs", "base"):
        parser.add_argument(f"--{side}", metavar="GLOB", action=_Append, dest="choices", help=f"take {side}")
    parser.add_argument(
        "--method", metavar=("METHOD", "GLOB"), nargs=2, action=_Append, dest="choices", help="mix by a method"
    )
    parser.add_argument("--recipe", metavar="FILE", help="rules as in .thetamerge; options go before them")
    parser.add_argument("--force", action="store_true", help="even where the work-tree file is no side of the merge")
    parser.add_argument("--list", action="store_true", help="list what is in conflict, and decide nothing")
    add_listing_options(parser, *_ROWS)
    add_quiet_option(parser)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files; all that are in conflict if none is named")
    return parser.parse_args(arguments)


def _choices(given: Sequence[tuple[str, Any]]) -> list[_Choice]:
    from thetastore.merging.recipes import parse_rule

    found = []
    for option, value in given:
        text, glob = value if option == "method" else (option, value)
        rule = parse_rule(text, f"--{option}")
        if rule is None:
            raise UsageError("'conflict' decides nothing")
        found.append(_Choice(glob, rule))
    return found


def _decide(
    repository: Repository, store: Store, file: Unmerged, choices: list[_Choice], options: argparse.Namespace
) -> bool:
    """Decide and finish one file; tell whether that was done."""
    from gitbridge.merging.finishing import finish, merge_unmerged

    rules = _rules(repository, store, file, options.recipe)
    choices = [_with_importances(repository, store, one) for one in choices]

    def rule_for(decision: Decision) -> Rule | None:
        chosen = [choice.rule for choice in choices if fnmatchcase(decision.name, choice.glob)]
        return chosen[-1] if chosen else rules.for_tensor(decision.name) if rules else None

    merge = merge_unmerged(repository, store, file, lambda decision: None)
    if merge.conflicts:
        _check_globs(merge, choices, file.path)
    if rules is not None:
        rules.check({name for side in merge.sides for name in side.tensors}, file.path)
    merge = merge_unmerged(repository, store, file, rule_for)
    if merge.conflicts and not choices and rules is None:
        answered = _ask(repository, store, file, merge)
        if answered is None:
            return False
        merge = answered
    if merge.conflicts:
        _say_undecided(file.path, merge.conflicts)
        return False
    finish(repository, store, file, merge, options.force, print)
    for one, names in _by_rule(merge).items():
        print(f"  {one}: {count_text(len(names), 'tensor')}")
    print(f"{printable(file.path)} is decided")
    return True


def _rules(repository: Repository, store: Store, file: Unmerged, recipe: str | None) -> Rules | None:
    if recipe is None:
        return None
    from gitbridge.merging.opening import importance_opener
    from gitbridge.merging.rules import Rules, recipe_in_file

    found = recipe_in_file(recipe)
    rules = Rules(None, tuple(found.for_file(file.path)), None, found)
    return rules.with_importances(importance_opener(repository, store))


def _with_importances(repository: Repository, store: Store, choice: _Choice) -> _Choice:
    if not choice.rule.method.needs_importances:
        return choice
    from gitbridge.merging.opening import importance_opener
    from gitbridge.merging.rules import with_importances

    return choice._replace(rule=with_importances(choice.rule, importance_opener(repository, store)) or choice.rule)


def _check_globs(merge: Merge, choices: list[_Choice], path: str) -> None:
    from thetastore.merging.recipes import no_match

    names = [one.decision.name for one in merge.conflicts]
    for choice in choices:
        if not any(fnmatchcase(name, choice.glob) for name in names):
            raise no_match(f"'{choice.glob}' matches no tensor in conflict of '{path}'", choice.glob, names)


def _by_rule(merge: Merge) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for decision, rule in merge.mixed:
        found.setdefault(rule.text(), []).append(decision.name)
    return found


def _say_undecided(path: str, conflicts: list[Conflict]) -> None:
    from gitbridge.merge_states import lines_of_kinds
    from gitbridge.merging.driver import conflicts_of

    head = f"git theta: '{path}': {count_text(len(conflicts), 'tensor')} undecided, nothing was changed"
    for line in (head, *lines_of_kinds(conflicts_of(conflicts))):
        print(printable(line), file=sys.stderr)


def _say_deleted(file: Unmerged) -> None:
    from shlex import quote

    path = quote(f":/{file.path}")
    print(
        f"git theta: '{printable(file.path)}' was deleted by {file.deleted_by}, which is not a question of tensors\n"
        f"hint: git add {path} keeps it, git rm {path} deletes it",
        file=sys.stderr,
    )


# Asking


def _ask(repository: Repository, store: Store, file: Unmerged, merge: Merge) -> Merge | None:
    """Ask until everything is decided; None if the user stops."""
    from gitbridge.merging.finishing import merge_unmerged

    print(f"{printable(file.path)}: {count_text(len(merge.conflicts), 'tensor')} in conflict (? explains answers)")
    decided: dict[str, Rule] = {}
    while merge.conflicts:
        first = merge.conflicts[0]
        if first.reason:
            print(f"  that cannot be done: {first.reason}" + (f"; {first.hint}" if first.hint else ""))
        answer = _answer(first.decision)
        if answer is None:
            print(f"{printable(file.path)} is as it was")
            return None
        undecided = [one.decision for one in merge.conflicts]
        if answer in ("?", "help", ""):
            print(_HELP, end="")
        elif answer == "list":
            sys.stdout.write(_listing(undecided))
        else:
            decided.update(_answered(repository, store, answer, undecided))
            merge = merge_unmerged(repository, store, file, lambda decision: decided.get(decision.name))
            if merge.conflicts:
                print(f"  {count_text(len(merge.conflicts), 'tensor')} undecided")
    return merge


def _answer(decision: Decision) -> str | None:
    sys.stdout.write(f"{_described(decision)}\n  ours, theirs, base, a method, list, quit or ?: ")
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        print()
    answer = line.strip()
    return None if not line or answer in ("quit", "q") else answer


_SHORT = {"o": "ours", "t": "theirs", "b": "base"}


def _answered(repository: Repository, store: Store, answer: str, undecided: list[Decision]) -> dict[str, Rule]:
    """Return the rules that an answer gives; what is wrong with it is said."""
    from thetastore.merging import MergeError
    from thetastore.merging.recipes import parse_rule

    words = answer.split()
    glob = words.pop() if len(words) > 1 and "=" not in words[-1] else None
    words[0] = _SHORT.get(words[0], words[0])
    try:
        rule = parse_rule(" ".join(words), "git theta mergetool")
        rule = rule and _with_importances(repository, store, _Choice("", rule)).rule
    except MergeError as error:
        print(f"  {error.message}" + (f"; {error.hint}" if error.hint else ""))
        return {}
    names = [one.name for one in undecided]
    wanted = names[:1] if glob is None else [name for name in names if fnmatchcase(name, glob)]
    if not wanted:
        print(f"  '{glob}' matches nothing that is undecided")
    return {} if rule is None else dict.fromkeys(wanted, rule)


def _described(decision: Decision) -> str:
    found = decision.ours or decision.theirs or decision.base
    assert found is not None, "a tensor is on some side"
    what = f"{found.content.dtype} {shape_text(found.content.shape)}"
    return f"{printable(decision.name)}  {what}  {decision.conflict}"


def _listing(undecided: list[Decision]) -> str:
    return table([("", printable(one.name), one.conflict) for one in undecided])


# Listing


def _list(repository: Repository, files: list[Unmerged], options: argparse.Namespace) -> None:
    from gitbridge.merge_states import read_states

    known = {state.path: state for state in read_states(repository, [file.path for file in files])}
    states = [(file, known.get(file.path)) for file in files]
    if wants_values(options):
        values = [
            {
                "path": file.path,
                "trouble": (state and state.trouble) or None,
                "conflicts": [one._asdict() for one in state.conflicts] if state else None,
            }
            for file, state in states
        ]
        print_values(options, {"files": values})
    else:
        for file, state in states:
            sys.stdout.write(_listed(file, state, painter(options)))


def _listed(file: Unmerged, state: ConflictState | None, paint: Paint) -> str:
    """Return all that is known of a conflict: every tensor has a line."""
    from gitbridge.merge_states import lines_of

    if state is None:
        what = f"deleted by {file.deleted_by}" if file.deleted_by else "in conflict"
        return f"{printable(file.path)}: {what}\n"
    head = "".join(f"{printable(line)}\n" for line in lines_of(state._replace(conflicts=()))) or (
        f"{printable(file.path)}: {count_text(len(state.conflicts), 'tensor')} in conflict\n"
    )
    rows = [
        ("", paint(printable(one.name), "bold"), one.kind + (f" ({one.reason})" if one.reason else ""))
        for one in state.conflicts
    ]
    return head + table(rows)
