"""Many models into one, outside of any history: what a mergekit recipe asks for, as a new safetensors file."""

from __future__ import annotations

from collections.abc import Mapping

from thetastore.checkpoints.ingest import Source
from thetastore.merging import MergeError
from thetastore.merging.assembling import composed, metadata_of
from thetastore.merging.checkpoints import Checkpoint
from thetastore.merging.mergekit_yaml import ModelsRecipe
from thetastore.merging.mixing import Part, Result, Rule, copied, plan
from thetastore.merging.numbers import can_mix


def merge_models(recipe: ModelsRecipe, opened: Mapping[str, Checkpoint], seed: int = 0) -> list[Result]:
    """Return every tensor of the result; numbers are read when their pieces are.

    Args:
        recipe: what to merge.
        opened: each model that it names.
        seed: what chance depends on, beside the tensors' names.

    Raises:
        MergeError: the models do not fit each other, or the method does not fit them.
    """
    base = opened[recipe.base] if recipe.base is not None else None
    sides = [opened[model.name] for model in recipe.sides()]
    if not sides:
        raise MergeError("the recipe lists no model but the base")
    _check_names([*([base] if base is not None and recipe.method.needs_base else []), *sides])
    results = []
    for name in sorted(sides[0].tensors):
        rule = Rule(recipe.method, recipe.values(name), seed)
        parts = [Part(side, name) for side in sides]
        base_part = Part(base, name) if base is not None and name in base.tensors else None
        try:
            results.append(_one(name, rule, base_part, parts, recipe.dtype))
        except MergeError as error:
            raise MergeError(f"tensor '{name}': {error.message}", error.hint) from error
    return results


def _one(name: str, rule: Rule, base: Part | None, parts: list[Part], dtype: str | None) -> Result:
    first = parts[0]
    if not can_mix(first.tensor.dtype):
        if all(_is_same(first, part) for part in parts[1:]):
            return copied(name, first, name)
        raise MergeError(f"{first.tensor.dtype} can be copied, not mixed, and the models differ in it")
    is_float = first.tensor.dtype.startswith(("float", "bfloat"))
    return plan(name, rule, base, parts, dtype=dtype if is_float else None)


def _is_same(one: Part, other: Part) -> bool:
    if one.tensor[1:3] != other.tensor[1:3]:
        return False
    size = one.tensor.raw_bytes
    return bytes(one.read(0, size)) == bytes(other.read(0, size))


def _check_names(checkpoints: list[Checkpoint]) -> None:
    first = checkpoints[0]
    for other in checkpoints[1:]:
        lacking = sorted(first.tensors.keys() ^ other.tensors.keys())
        if lacking:
            who = other if lacking[0] in first.tensors else first
            more = f" (and {len(lacking) - 1} more that not both have)" if len(lacking) > 1 else ""
            raise MergeError(f"model '{who.label}' has no tensor '{lacking[0]}'{more}: are these of one architecture?")


def source_of_models(results: list[Result], first: Checkpoint) -> Source:
    """Return the result as a new safetensors file, with the first model's metadata."""
    return composed(results, metadata_of(first) or {"format": "pt"})
