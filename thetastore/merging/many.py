"""Many models into one, outside of any history: what a mergekit recipe asks for, as a new safetensors file."""

from __future__ import annotations

from collections.abc import Mapping

from thetastore.checkpoints.ingest import Source
from thetastore.merging import MergeError
from thetastore.merging.assembling import composed, metadata_of
from thetastore.merging.checkpoints import Checkpoint
from thetastore.merging.mixing import Part, Result, Rule, copied, plan
from thetastore.merging.models_recipe import ModelsRecipe, rows
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
    results = []
    for row in rows(recipe, {name: checkpoint.tensors.keys() for name, checkpoint in opened.items()}):
        sides, base = recipe.sides(row.slice), recipe.base_of(row.slice)
        if not sides:
            raise MergeError("the recipe lists no model but the base")
        rule = Rule(recipe.method, recipe.values(row), seed)
        parts = [Part(opened[model.name], row.name_in(model)) for model in sides]
        base_part = _part(opened[base.name], row.name_in(base)) if base is not None else None
        try:
            results.append(_one(row.name, rule, base_part, parts, recipe.dtype))
        except MergeError as error:
            raise MergeError(f"tensor '{row.name}': {error.message}", error.hint) from error
    return results


def _part(checkpoint: Checkpoint, name: str) -> Part | None:
    return Part(checkpoint, name) if name in checkpoint.tensors else None


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


def source_of_models(results: list[Result], first: Checkpoint) -> Source:
    """Return the result as a new safetensors file, with the first model's metadata."""
    return composed(results, metadata_of(first) or {"format": "pt"})
