"""`git theta merge-models`."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gitbridge.errors import RepositoryMissingError, UsageError
from gitbridge.render import count_text, size_text
from thetastore.command_line import Parser
from thetastore.output import add_quiet_option

if TYPE_CHECKING:
    from gitbridge.repository import Repository
    from thetastore.merging.checkpoints import Checkpoint
    from thetastore.store import Store

_EPILOG = """\
RECIPE is YAML as mergekit reads it: merge_method, base_model, models or slices of layers, parameters (a value, a list
of values from the first layer to the last, or a list of filter and value), dtype. A model is a file of any format that
is known here, a directory of safetensors files, a pointer, or REV:PATH in this repository. Tokenizers and modules are
refused. Memory: the largest tensor, in float64, for each model.
"""


def merge_models(arguments: list[str]) -> int:
    """Write the merge of several models as one safetensors file."""
    parser = Parser(
        prog="git theta merge-models",
        usage="git theta merge-models RECIPE --output FILE [--seed N] [--force] [-q]",
        description="Merge several models into a new safetensors file, by a recipe of mergekit's.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file")
    parser.add_argument("--output", required=True, metavar="FILE", help="where to write")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what chance depends on (default: 0)")
    parser.add_argument("--force", action="store_true", help="even if FILE exists")
    add_quiet_option(parser)
    options = parser.parse_args(arguments)
    if os.path.lexists(options.output) and not options.force:
        raise UsageError(f"'{options.output}' is there already", "--force replaces it")
    from thetastore.merging.assembling import write_result
    from thetastore.merging.many import merge_models as merged
    from thetastore.merging.many import source_of_models
    from thetastore.merging.mergekit_yaml import parse_models_recipe

    with open(options.recipe, "rb") as stream:
        recipe = parse_models_recipe(stream.read((1 << 20) + 1), options.recipe)
    with ExitStack() as stack:
        names = recipe.names()
        opened = open_all(stack, names)
        results = merged(recipe, opened, options.seed)
        size = write_result(source_of_models(results, opened[names[0]]), options.output)
    bases = {one.base for one in recipe.slices if one.base is not None}
    count = count_text(len(set(names) - bases), "model")
    of = f"{recipe.method.name} of {count}" + (" and a base" if bases else "")
    if not options.quiet:
        print(f"{options.output}: {of}, {count_text(len(results), 'tensor')}, {size_text(size)}")
    return 0


def open_all(stack: ExitStack, names: list[str]) -> dict[str, Checkpoint]:
    """Open checkpoints by name; the repository and its store only if a name needs them."""
    from gitbridge.merging.opening import open_named

    repository = _repository(stack)
    opened: list[Store] = []

    def store() -> Store:
        assert repository is not None, "only a repository's pointers ask for a store"
        if not opened:
            opened.append(stack.enter_context(repository.open_store()))
        return opened[0]

    found = {}
    for name in names:
        found[name] = open_named(repository, store, name, os.getcwd())
        close = getattr(found[name], "close", None)
        if close is not None:
            stack.callback(close)
    return found


def _repository(stack: ExitStack) -> Repository | None:
    from gitbridge.cli.opening import open_repository

    try:
        return stack.enter_context(open_repository())
    except RepositoryMissingError:
        return None
