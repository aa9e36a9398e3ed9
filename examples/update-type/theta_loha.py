"""PEFT's LoHa adapters: weight + scale * (w1_a @ w1_b) * (w2_a @ w2_b), the products multiplied element by element.

This is all of a plug-in: `TYPE` is what the entry point in pyproject.toml names. The product of two matrices of ranks r
and s, element by element, is one of rank r * s: its left factor has a column for each pair of columns, its right factor
a row for each pair of rows. So it is a `Recipe`, and the store keeps the factors in place of the weight. The bytes are
those of this order of sums; PEFT's may differ from them in last places. (A model that PEFT has merged is kept to the
bit all the same: put it in the file's place first, and what differs is stored too.)

Source: Hyeon-Woo, Ye-Bin, Oh, "FedPara" (2022), for the product; https://github.com/huggingface/peft for the files.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from thetastore.adapters import Adapter, Base, Change, UpdateType
from thetastore.adapters.changes import Latest, by_recipe, factor, opened
from thetastore.layout import Tensor
from thetastore.updates.recipe import Recipe, UpdateError

PARTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
MOST_RANK = 1024
"""Of a recipe."""


class Scales(NamedTuple):
    """What a configuration says of sizes."""

    alpha: float
    patterns: dict[str, Any]

    def of(self, module: str, rank: int) -> float:
        """Return what the product of a module is multiplied by."""
        ends = (end for end in self.patterns if module == end or module.endswith(f".{end}"))
        return float(self.patterns.get(next(ends, ""), self.alpha)) / rank


def open_loha(path: str, base: Base) -> Adapter:
    """Open a directory as PEFT writes it."""
    scales = _scales(os.path.join(path, "adapter_config.json"))
    source = opened(os.path.join(path, "adapter_model.safetensors"))
    modules: dict[str, dict[str, str]] = {}
    unused = []
    for key in sorted(source.tensors):
        module, _, part = key.removeprefix("base_model.model.").rpartition(".")
        if part in PARTS and f"{module}.weight" in base.tensors:
            modules.setdefault(module, {})[part] = key
        else:
            unused.append(key)  # the error that names them is made for us
    latest = Latest()
    changes = {}
    for module, keys in modules.items():
        change = _change(base, source, module, keys, scales, latest)
        changes[change.name] = change
    return Adapter("LoHa", changes, tuple(unused))


def _scales(path: str) -> Scales:
    try:
        with open(path, "rb") as stream:
            config = json.loads(stream.read(1 << 20))
        if config["peft_type"] != "LOHA":
            raise UpdateError(f"'{path}' is of type {config['peft_type']}, not LOHA", "--update-type auto")
        return Scales(float(config["alpha"]), dict(config.get("alpha_pattern") or {}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UpdateError(f"'{path}' is no configuration of LoHa: {error}") from error


def _change(base: Base, source: Base, module: str, keys: dict[str, str], scales: Scales, latest: Latest) -> Change:
    weight = base.tensors[f"{module}.weight"]
    lacking = [part for part in PARTS if part not in keys]
    if lacking:
        raise UpdateError(f"the adapter has no {lacking[0]} of '{module}'")
    rank = _rank(weight, *(source.tensors[keys[part]].shape for part in PARTS))
    scale = scales.of(module, rank)

    def make() -> Recipe:
        left_1, right_1, left_2, right_2 = (factor(source, keys[part], weight.dtype) for part in PARTS)
        left = (left_1[:, :, None] * left_2[:, None, :]).reshape(len(left_1), -1)
        right = (right_1[:, None, :] * right_2[None, :, :]).reshape(-1, right_1.shape[1])
        return Recipe(weight.shape[1], left, right, scale)

    return by_recipe(base, weight, make, latest)


def _rank(weight: Tensor, *shapes: tuple[int, ...]) -> int:
    """Return the rank of either product, if the factors fit a weight."""
    if len(weight.shape) == 2 and all(len(shape) == 2 for shape in shapes):
        rank = shapes[0][1]
        rows, columns = weight.shape
        if shapes == ((rows, rank), (rank, columns)) * 2 and 0 < rank * rank <= MOST_RANK:
            return rank
    raise UpdateError(f"factors of {', '.join(map(str, map(list, shapes)))} do not fit '{weight.name}'")


TYPE = UpdateType("loha", "a PEFT directory of LoHa", open_loha)
