"""Recipes: which method decides which tensors, as text of one rule a line. docs/merge.md has the grammar.

    # tensors                  method    parameters
    *                          ties      density=0.5 weight=1,0.8
    model.embed_tokens.weight  ours
    [heads/*.safetensors]
    *                          average

A line whose pattern is in brackets begins rules for files that match. Of several rules for a tensor the last counts, as
in `.gitattributes`. A pattern that matches no tensor is an error: it is more likely misspelled than meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from thetastore.errors import near_names
from thetastore.merging import MergeError
from thetastore.merging.mixing import Rule
from thetastore.merging.registry import find_method, parameter_values

UNDECIDED = "conflict"
"""Stands for a method: the tensor is left in conflict."""
MAX_RECIPE_BYTES = 1 << 20
MAX_RULES = 1000
"""Each is held against the name of every tensor: 1000 against 200,000 names take about a minute."""
_SIDES = 2


class RecipeRule(NamedTuple):
    """One line."""

    line: int
    files: str
    """Glob of paths; `*` matches `/` too."""
    tensors: str
    """Glob of names; `*` matches dots too."""
    rule: Rule | None
    """None for `conflict`."""


class Recipe(NamedTuple):
    """A recipe as it was read."""

    source: str
    text: str
    rules: tuple[RecipeRule, ...]

    def for_file(self, path: str) -> list[RecipeRule]:
        """Return the rules for a file, in order."""
        from fnmatch import fnmatchcase

        return [one for one in self.rules if fnmatchcase(path, one.files)]


def parse_recipe(text: str, source: str, side_count: int = _SIDES) -> Recipe:
    """Read a recipe.

    Args:
        text: its lines.
        source: for messages, its path.
        side_count: for how many sides parameters may have values.

    Raises:
        MergeError: a line is not understood; it is named.
    """
    if len(text) > MAX_RECIPE_BYTES:
        raise MergeError(f"'{source}' is longer than a recipe may be: {len(text)} characters")
    files = "*"
    rules: list[RecipeRule] = []
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            if stripped.startswith("["):
                files = _section(stripped)
                continue
            _check_room(rules)
            tensors, rest = _pattern(stripped)
            rules.append(RecipeRule(number, files, tensors, parse_rule(rest, f"{source}, line {number}", side_count)))
        except MergeError as error:
            raise MergeError(f"{source}, line {number}: {error.message}", error.hint) from None
    return Recipe(source, text, tuple(rules))


def _check_room(rules: list[RecipeRule]) -> None:
    if len(rules) == MAX_RULES:
        raise MergeError(f"more than {MAX_RULES} rules")


def _section(line: str) -> str:
    if not line.endswith("]") or len(line) < 3:
        raise MergeError(f"'{line:.80}' is not a pattern of files in brackets", "[models/*.safetensors]")
    return line[1:-1]


def _pattern(line: str) -> tuple[str, str]:
    """Return the pattern of a line, which may be a JSON string, and the rest."""
    if not line.startswith('"'):
        pattern, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        return pattern, rest
    import json

    try:
        pattern, end = json.JSONDecoder().raw_decode(line)
    except ValueError:
        raise MergeError("a pattern that begins with a quote is a JSON string, and this one does not end") from None
    return str(pattern), line[end:]


def parse_rule(text: str, source: str, side_count: int = _SIDES) -> Rule | None:
    """Read a method and its parameters: `ties density=0.5 weight=1,0.8 seed=7`.

    Args:
        text: as in a recipe; a semicolon counts as a space, since attributes of Git cannot hold one.
        source: who says so, for messages.
        side_count: for how many sides parameters may have values.

    Returns:
        The rule, or None for `conflict`.

    Raises:
        MergeError: an unknown method or parameter, or a value that it does not take.
    """
    name, *words = text.replace(";", " ").split() or [""]
    if not name:
        raise MergeError("a method is missing", "for example: * average")
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or key in given:
            raise MergeError(f"'{word:.80}' is not a parameter of the form name=value, or is there twice")
        given[key] = value
    if name == UNDECIDED and not given:
        return None
    method = find_method(name)
    seed = _seed(given.pop("seed", "0"))
    parameter_values(method, given, side_count)
    return Rule(method, given, seed, source)


def _seed(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise MergeError(f"the seed '{text:.40}' is not a whole number from 0 on")
    return int(text)


def check_patterns(rules: Sequence[RecipeRule], names: Iterable[str], source: str, path: str) -> None:
    """Check that every rule is for some tensor.

    Args:
        rules: those for one file.
        names: of all tensors of any side of it.
        source: of the recipe.
        path: of the file.

    Raises:
        MergeError: a pattern matches none; names that look like it are shown.
    """
    from fnmatch import fnmatchcase

    known = list(names)
    for one in rules:
        if not any(fnmatchcase(name, one.tensors) for name in known):
            raise no_match(
                f"{source}, line {one.line}: '{one.tensors}' matches no tensor of '{path}'", one.tensors, known
            )


def no_match(message: str, pattern: str, names: Sequence[str]) -> MergeError:
    """Return an error that shows names that look like a pattern."""
    near = near_names(pattern.strip("*"), names, likeness=0.4) or names[:3]
    return MergeError(message, f"tensors are called, for example, {', '.join(near)}" if near else "")


def rule_for(rules: Sequence[RecipeRule], name: str) -> RecipeRule | None:
    """Return the last rule that is for a tensor."""
    from fnmatch import fnmatchcase

    return next((one for one in reversed(rules) if fnmatchcase(name, one.tensors)), None)
