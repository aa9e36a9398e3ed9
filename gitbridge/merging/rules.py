"""Which method decides a conflict in a file, from everywhere that may say so.

The variable GIT_THETA_MERGE_METHOD goes before all. Then the recipe counts, the file `.thetamerge` at the top of the
tree (or what `theta.merge.recipe` names), whose rules are for single tensors; then the attribute `theta.merge.method`
of the path; then the setting of that name.

Recipes are committed, so written by others: all that one can do is choose among methods that are installed here. They
are read from the index, else from HEAD, since git merges files before it writes any to the work tree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gitbridge.errors import GitError, RevisionError
from gitbridge.repository import Repository
from thetastore.merging import MergeError
from thetastore.merging.checkpoints import Checkpoint
from thetastore.merging.mixing import Rule
from thetastore.merging.recipes import (
    MAX_RECIPE_BYTES,
    UNDECIDED,
    Recipe,
    RecipeRule,
    check_patterns,
    parse_recipe,
    parse_rule,
    rule_for,
)

VARIABLE = "GIT_THETA_MERGE_METHOD"
METHOD = "theta.merge.method"
"""A setting, and an attribute."""
RECIPE_SETTING = "theta.merge.recipe"
RECIPE_FILE = ".thetamerge"

OpenImportances = Callable[[str], Checkpoint]
"""Opens a checkpoint that a parameter of a method names."""


class Rules(NamedTuple):
    """What decides conflicts in one file."""

    override: Rule | None
    """From the environment."""
    by_tensor: tuple[RecipeRule, ...]
    default: Rule | None
    """From the attribute or the setting."""
    recipe: Recipe | None = None

    def for_tensor(self, name: str) -> Rule | None:
        """Return the rule for a tensor, None where none decides."""
        if self.override is not None:
            return self.override
        found = rule_for(self.by_tensor, name)
        return found.rule if found is not None else self.default

    def check(self, names: Iterable[str], path: str) -> None:
        """Check that each rule of the recipe is for some tensor of a file.

        Raises:
            MergeError: one is for none.
        """
        if self.recipe is not None:
            check_patterns(self.by_tensor, names, self.recipe.source, path)

    def with_importances(self, opened: OpenImportances) -> Rules:
        """Return the same with the checkpoints that parameters name opened."""
        return self._replace(
            override=with_importances(self.override, opened),
            by_tensor=tuple(one._replace(rule=with_importances(one.rule, opened)) for one in self.by_tensor),
            default=with_importances(self.default, opened),
        )


def rules_for(repository: Repository, path: str) -> Rules:
    """Return what decides conflicts in a file.

    Raises:
        MergeError: something that was set, or the recipe, is not understood.
    """
    said = os.environ.get(VARIABLE)
    override = _rule(said, VARIABLE) if said else None
    recipe = committed_recipe(repository)
    by_tensor = tuple(recipe.for_file(path)) if recipe else ()
    attribute = attribute_of(repository, METHOD, path)
    if attribute:
        default = _rule(attribute, f"the attribute {METHOD}")
    else:
        configured = repository.config(METHOD)
        default = _rule(configured, f"the setting {METHOD}") if configured else None
    return Rules(override, by_tensor, default, recipe)


def _rule(text: str, source: str) -> Rule | None:
    if text.strip() == UNDECIDED:
        return None
    try:
        return parse_rule(text, source)
    except MergeError as error:
        raise MergeError(f"{source} is '{text:.100}': {error.message}", error.hint) from None


def committed_recipe(repository: Repository) -> Recipe | None:
    """Return the recipe of the tree, None where there is none.

    Raises:
        MergeError: it is not understood, or one was named and is not there.
    """
    named = repository.config(RECIPE_SETTING)
    name = named or RECIPE_FILE
    for tree in ("", "HEAD"):
        try:
            content = repository.cat_file().read(f"{tree}:{name}").content
        except (RevisionError, GitError):
            continue
        return parse_recipe(content[: MAX_RECIPE_BYTES + 1].decode("utf-8", "replace"), name)
    if named:
        raise MergeError(
            f"the recipe '{named}' of {RECIPE_SETTING} is neither in the index nor in HEAD", f"git add {named}"
        )
    return None


def recipe_in_file(path: str) -> Recipe:
    """Return the recipe in a file that the user named.

    Raises:
        OSError: it cannot be read.
        MergeError: it is not understood.
    """
    with open(path, "rb") as stream:
        content = stream.read(MAX_RECIPE_BYTES + 1)
    return parse_recipe(content.decode("utf-8", "replace"), path)


def with_importances(rule: Rule | None, opened: OpenImportances) -> Rule | None:
    """Return a rule with the checkpoints that its parameters name opened, if its method needs them."""
    if rule is None or not rule.method.needs_importances or rule.importances:
        return rule
    named = [name for name in str(rule.given.get("fisher", "")).split(",") if name]
    return rule._replace(importances=tuple(opened(name) for name in named))


def attribute_of(repository: Repository, name: str, path: str) -> str | None:
    """Return the value of an attribute of a path; None where it has none."""
    try:
        answer = repository.git("check-attr", "-z", "--stdin", name, input=os.fsencode(path) + b"\0").split(b"\0")
    except GitError:
        return None
    if len(answer) < 3 or answer[2] in (b"unspecified", b"unset", b"set", b""):
        return None
    return os.fsdecode(answer[2])
