"""`git theta merge-file`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING

from gitbridge.errors import UsageError
from gitbridge.render import count_text, printable, size_text
from thetastore.command_line import Parser
from thetastore.output import add_quiet_option

if TYPE_CHECKING:
    from gitbridge.merging.rules import OpenImportances
    from thetastore.merging.merge import Merge, RuleFor, Sides

_EPILOG = """\
Each of OURS, BASE, THEIRS is a checkpoint of any format that is known here, a pointer, or REV:PATH. As git merge-file
does, it replaces OURS (or writes --output); with conflicts that nothing decides it writes nothing, lists them, and ends
with status 1. --ours and --theirs decide all conflicts; a METHOD may have parameters: 'ties density=0.5'.
"""


def merge_file(arguments: list[str]) -> int:
    """Merge three checkpoints by tensor; 1 if something conflicts."""
    options = _parse(arguments)
    output = options.output or options.ours_file
    if options.output is None and not os.path.isfile(options.ours_file):
        raise UsageError(
            f"'{options.ours_file}' is no file that could be replaced", "--output FILE says where to write"
        )
    from gitbridge.cli.merge_models import open_all
    from thetastore.merging.assembling import write_result
    from thetastore.merging.merge import Sides, source_of, three_way_merge

    names = [options.base_file, options.ours_file, options.theirs_file]
    with ExitStack() as stack:
        opened = open_all(stack, list(dict.fromkeys(names)))
        sides = Sides(*(opened[name] for name in names))
        merge = three_way_merge(sides, _rule_for(options, sides, lambda name: open_all(stack, [name])[name]))
        if merge.conflicts:
            _say_conflicts(merge)
            return 1

        def scratch() -> IO[bytes]:
            return stack.enter_context(tempfile.TemporaryFile(dir=os.path.dirname(output) or "."))

        size = write_result(source_of(merge, scratch), output)
    mixed = f", {count_text(len(merge.mixed), 'conflict')} decided" if merge.mixed else ""
    taken = count_text(len(merge.taken("theirs")), "tensor")
    if not options.quiet:
        print(f"{printable(output)}: {taken} taken from theirs{mixed}, {size_text(size)}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="git theta merge-file",
        usage="git theta merge-file [--ours | --theirs | --method METHOD | --recipe FILE] [--output FILE]\n"
        "                            [--] OURS BASE THEIRS",
        description="Merge three checkpoints by tensor.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--ours", action="store_const", const="ours", dest="method", help="take ours where both changed")
    how.add_argument("--theirs", action="store_const", const="theirs", dest="method", help="take theirs there")
    how.add_argument("--method", metavar="METHOD", dest="method", help="mix by this method what both changed")
    how.add_argument("--recipe", metavar="FILE", help="rules by tensor, as in .thetamerge")
    parser.add_argument("--output", metavar="FILE", help="write here, and leave OURS as it is")
    add_quiet_option(parser)
    parser.add_argument("ours_file", metavar="OURS", help="the current version")
    parser.add_argument("base_file", metavar="BASE", help="the common ancestor")
    parser.add_argument("theirs_file", metavar="THEIRS", help="the other version")
    return parser.parse_args(arguments)


def _rule_for(options: argparse.Namespace, sides: Sides, opened: OpenImportances) -> RuleFor:
    from gitbridge.merging.rules import Rules, recipe_in_file
    from thetastore.merging.recipes import parse_rule

    if options.recipe is not None:
        recipe = recipe_in_file(options.recipe)
        rules = Rules(None, tuple(recipe.for_file(options.ours_file)), None, recipe)
        rules.check({name for side in sides for name in side.tensors}, options.ours_file)
    else:
        rules = Rules(parse_rule(options.method, "--method") if options.method else None, (), None)
    rules = rules.with_importances(opened)
    return lambda decision: rules.for_tensor(decision.name)


def _say_conflicts(merge: Merge) -> None:
    for one in merge.conflicts:
        reason = "; ".join(filter(None, (one.reason, one.hint)))
        print(f"{printable(one.decision.name)}: {one.decision.conflict}" + (f" ({reason})" if reason else ""))
    count = count_text(len(merge.conflicts), "tensor")
    print(f"git theta: {count} in conflict, nothing was written\nhint: --ours, --theirs or --method decides",
          file=sys.stderr)  # fmt: skip
