"""What a recipe for many models asks for: slices of layers, and parameters that may change with the depth.

A recipe without slices has one, of all tensors. What lies outside of layers is of the first slice if its name speaks of
embeddings, else of the last, and its depth is 0.

Source: mergekit 0.1.5, README (Parameter Specification, Merge Configuration), for what gradients and slices mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from thetastore.merging import MergeError, Method


class Conditional(NamedTuple):
    """A value for tensors whose names contain a text; an empty text is in all."""

    filter: str
    value: Any
    """A tuple is a gradient: from the first layer to the last, evenly spaced."""

    def at(self, depth: float) -> Any:
        """Return the value at a depth from 0 to 1: interpolated between numbers, chosen among words."""
        if not isinstance(self.value, tuple):
            return self.value
        place = depth * (len(self.value) - 1)
        first = int(place)
        if not all(type(value) is float for value in self.value):
            return self.value[first]
        second = min(first + 1, len(self.value) - 1)
        return (1 - (place - first)) * self.value[first] + (place - first) * self.value[second]


Values = Mapping[str, tuple[Conditional, ...]]


class Model(NamedTuple):
    """One of the models of a slice."""

    name: str
    parameters: Values
    line: int
    layers: tuple[int, int] | None = None
    """Which of its layers, the second bound excluded; None for the whole model."""


class Slice(NamedTuple):
    """What becomes the next layers of the result; or, of models without layers, all of it."""

    models: tuple[Model, ...]
    base: str | None
    parameters: Values
    line: int

    @property
    def layer_count(self) -> int | None:
        """How many layers each model gives; None for whole models."""
        layers = self.models[0].layers
        return None if layers is None else layers[1] - layers[0]


class ModelsRecipe(NamedTuple):
    """What is merged, and how."""

    method: Method
    slices: tuple[Slice, ...]
    parameters: Values
    dtype: str | None

    def names(self) -> list[str]:
        """Return the models that are read, in the order in which they are named; bases at the end."""
        listed = [model.name for one in self.slices for model in one.models]
        return list(dict.fromkeys([*listed, *(one.base for one in self.slices if one.base is not None)]))

    def base_of(self, one: Slice) -> Model | None:
        """Return the base of a slice."""
        listed = next((model for model in one.models if model.name == one.base), None)
        if listed is None and one.base is not None and one.layer_count is None:
            return Model(one.base, {}, 0)
        return listed

    def sides(self, one: Slice) -> tuple[Model, ...]:
        """Return the models that are mixed: those listed but the base. `slerp` goes from the base to the other."""
        base = self.base_of(one)
        others = tuple(model for model in one.models if base is None or model.name != base.name)
        if self.method.name == "slerp" and base is not None:
            return (base, *others)
        return others if self.method.needs_base else one.models

    def values(self, row: Row) -> dict[str, Any]:
        """Return the parameters for a tensor, as `parameter_values` takes them.

        Raises:
            MergeError: a model has no value of a parameter that others have.
        """
        sides = self.sides(row.slice)
        shared = (row.slice.parameters, self.parameters)
        given: dict[str, Any] = {}
        for name in dict.fromkeys(name for values in shared for name in values):
            value = _first(name, shared, row.name, row.depth)
            if value is not None:
                given[name] = value
        for name in dict.fromkeys(name for model in sides for name in model.parameters):
            several = [_first(name, (model.parameters, *shared), row.name_in(model), row.depth) for model in sides]
            if any(value is None for value in several):
                lacking = next(model for model, value in zip(sides, several, strict=True) if value is None)
                raise MergeError(f"model '{lacking.name}' has no '{name}' for tensor '{row.name}', and others have one")
            given[name] = several
        return given


def _first(name: str, sources: tuple[Values, ...], tensor: str, depth: float) -> Any:
    """Return the value of a parameter from the first source that has one for a tensor."""
    for values in sources:
        for one in values.get(name, ()):
            if one.filter in tensor:
                return one.at(depth)
    return None


class Row(NamedTuple):
    """A tensor of the result."""

    name: str
    depth: float
    slice: Slice
    offset: int | None = None
    """Of its layer in the slice; None outside of layers, and for whole models."""
    prefix: str = ""
    rest: str = ""

    def name_in(self, model: Model) -> str:
        """Return what it is called in a model."""
        if self.offset is None or model.layers is None:
            return self.name
        return f"{self.prefix}{model.layers[0] + self.offset}{self.rest}"


Tables = Mapping[str, Collection[str]]
"""The names of each model's tensors."""


def rows(recipe: ModelsRecipe, tables: Tables) -> Iterator[Row]:
    """Yield every tensor of the result.

    Raises:
        MergeError: the models have not the same tensors, or not the layers that are asked for.
    """
    if recipe.slices[0].layer_count is None:
        yield from _whole_rows(recipe, tables)
        return
    prefix = _common_prefix(recipe, tables)
    for one, is_ours in ((recipe.slices[0], _is_embedding), (recipe.slices[-1], lambda name: not _is_embedding(name))):
        yield from (Row(name, 0.0, one) for name in _outside(recipe, one, tables) if is_ours(name))
    number = 0
    for one in recipe.slices:
        count = one.layer_count
        assert count is not None, "slices have layers, all or none of them"
        for offset in range(count):
            for rest in _rests(one, offset, prefix, tables):
                depth = offset / (count - 1) if count > 1 else 1.0
                yield Row(f"{prefix}{number}{rest}", depth, one, offset, prefix, rest)
            number += 1


def _whole_rows(recipe: ModelsRecipe, tables: Tables) -> Iterator[Row]:
    (one,) = recipe.slices
    base = recipe.base_of(one)
    models = [*([base] if base is not None and recipe.method.needs_base else []), *recipe.sides(one)]
    names = _same({model.name: frozenset(tables[model.name]) for model in models})
    counts = _layer_counts(names)
    for name in sorted(names):
        found = _LAYERED.fullmatch(name)
        count = counts[found[1]] if found else 0
        yield Row(name, 0.0 if found is None else int(found[2]) / (count - 1) if count > 1 else 1.0, one)


_LAYERED = re.compile(r"((?:[^./]+[./])*?)([0-9]{1,6})([./].+)", re.DOTALL)
"""The first number of a name is its layer's."""
_EMBEDDINGS = re.compile(r"emb|wte|wpe", re.IGNORECASE)


def _is_embedding(name: str) -> bool:
    return _EMBEDDINGS.search(name) is not None and "embed_out" not in name


def _layer_counts(names: Collection[str]) -> dict[str, int]:
    """Return how many layers there are by what stands before their numbers."""
    counts: dict[str, int] = {}
    for name in names:
        if found := _LAYERED.fullmatch(name):
            counts[found[1]] = max(counts.get(found[1], 0), int(found[2]) + 1)
    return counts


def _common_prefix(recipe: ModelsRecipe, tables: Tables) -> str:
    """Return what stands before the numbers of layers, in every model, once all slices are known to be there."""
    prefixes: dict[str, str] = {}
    for one in recipe.slices:
        for model in one.models:
            counts = _layer_counts(tables[model.name])
            if len(counts) != 1:
                found = " and ".join(f"'{prefix}N'" for prefix in sorted(counts)[:3]) or "none"
                raise MergeError(f"slices need one stack of layers; '{model.name}' has {found}")
            ((prefix, count),) = counts.items()
            prefixes[prefix] = model.name
            assert model.layers is not None, "of slices, all models have a range"
            if model.layers[1] > count:
                raise MergeError(
                    f"line {model.line}: '{model.name}' has {count} layers, layer_range ends at {model.layers[1]}"
                )
    if len(prefixes) > 1:
        (one_prefix, first), (other_prefix, second) = list(prefixes.items())[:2]
        raise MergeError(f"layers of '{first}' are '{one_prefix}N', of '{second}' '{other_prefix}N'")
    return next(iter(prefixes))


def _outside(recipe: ModelsRecipe, one: Slice, tables: Tables) -> list[str]:
    models = recipe.sides(one)
    return sorted(
        _same(
            {model.name: frozenset(name for name in tables[model.name] if not _LAYERED.match(name)) for model in models}
        )
    )


def _rests(one: Slice, offset: int, prefix: str, tables: Tables) -> list[str]:
    """Return the ends of the names of one layer, which all models of the slice have."""
    found = {}
    for model in one.models:
        assert model.layers is not None, "of slices, all models have a range"
        head = f"{prefix}{model.layers[0] + offset}"
        ends = (name.removeprefix(head) for name in tables[model.name] if name.startswith((f"{head}.", f"{head}/")))
        found[f"{model.name}' in layer '{head}"] = frozenset(ends)
    return sorted(_same(found))


def _same(names: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return what all models have.

    Raises:
        MergeError: one lacks what another has.
    """
    (first, wanted), *others = names.items()
    for other, found in others:
        lacking = sorted(wanted ^ found)
        if lacking:
            who = other if lacking[0] in wanted else first
            more = f" (and {len(lacking) - 1} more that not both have)" if len(lacking) > 1 else ""
            raise MergeError(f"model '{who}' has no tensor '{lacking[0]}'{more}: are these of one architecture?")
    return wanted
