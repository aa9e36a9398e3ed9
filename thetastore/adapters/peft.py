"""Directories of Hugging Face PEFT: `adapter_config.json` beside `adapter_model.safetensors` (or `.bin`).

What is computed is what `PeftModel.from_pretrained(...).merge_and_unload()` computes on a CPU: LoRA with alpha, rsLoRA,
patterns of rank and alpha, fan_in_fan_out, embeddings, convolutions, biases, DoRA; IA3; modules_to_save. Factors are
taken to float32, as PEFT does when it loads them. What would be merged in another way is refused, by its name in the
configuration: a wrong guess would be a model that looks right.

Source: https://github.com/huggingface/peft, src/peft/tuners/lora and ia3.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from math import prod, sqrt
from typing import Any, NamedTuple

import numpy as np

from thetastore.adapters import Adapter, Base, Change
from thetastore.adapters.changes import Array, Latest, by_function, by_recipe, factor, opened, replaced
from thetastore.layout import Tensor
from thetastore.updates.arithmetic import row_norms
from thetastore.updates.recipe import Recipe, UpdateError

CONFIG = "adapter_config.json"
_NAMES = {"LORA": "LoRA", "IA3": "IA3"}
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_MAX_CONFIG_BYTES = 1 << 20
_PREFIX = "base_model.model."
_PARTS = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|ia3_l)"
    r"(?:\.default)?(?:\.(weight|bias))?"
)
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin a training (`init_lora_weights`) that leave the base as it is. PEFT changes it for the others (PiSSA,
OLoRA, CorDA, LoftQ), anew whenever it loads the adapter."""
_OTHER_SUMS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
"""Settings by which more is merged than the product of two factors, or something else."""
_MERGE_ELSEWHERE = "merge it with PEFT, put the model in FILE's place, and git theta add FILE"
_MOST_PATTERN_CHARACTERS = 200
_REPEATED_GROUP = re.compile(r"\)[*+{?]")
"""Patterns come with the adapter. What repeats a group may take for ever to match."""


class _Settings(NamedTuple):
    kind: str
    rank: int
    alpha: float
    uses_rslora: bool
    alpha_pattern: Mapping[str, float]
    is_transposed: bool
    feedforward: tuple[str, ...] | str


def is_peft(path: str) -> bool:
    """Tell whether a path is a directory of PEFT, or a file in one."""
    return os.path.exists(os.path.join(_directory(path), CONFIG))


def _directory(path: str) -> str:
    if os.path.isdir(path):
        return path
    return os.path.dirname(path) if os.path.basename(path) in WEIGHTS else os.path.join(path, "")


def open_peft(path: str, base: Base, kinds: tuple[str, ...] = ("LORA", "IA3")) -> Adapter:
    """Open a directory of PEFT.

    Raises:
        UpdateError: it cannot be read, is of another kind, or its shapes do not fit.
    """
    directory = _directory(path)
    settings = _read_settings(os.path.join(directory, CONFIG))
    if settings.kind not in kinds:
        known = "LORA and IA3 are" if len(kinds) > 1 else f"{kinds[0]} is"
        hint = "--update-type auto" if settings.kind in _NAMES else _MERGE_ELSEWHERE
        raise UpdateError(f"'{path}' is a PEFT adapter of type {settings.kind}; {known} what this reads", hint)
    found = next((name for name in WEIGHTS if os.path.exists(os.path.join(directory, name))), None)
    if found is None:
        raise UpdateError(f"'{directory}' has neither {WEIGHTS[0]} nor {WEIGHTS[1]}")
    return _Opened(base, opened(os.path.join(directory, found)), settings).adapter()


def _read_settings(path: str) -> _Settings:
    try:
        with open(path, "rb") as stream:
            config: Any = json.loads(stream.read(_MAX_CONFIG_BYTES))
        kind = str(config["peft_type"])
        if kind == "LORA":
            _check_plain(path, config)
        forward = config.get("feedforward_modules") or ()
        return _Settings(
            kind,
            int(config.get("r") or 0),
            float(config.get("lora_alpha") or 0),
            bool(config.get("use_rslora")),
            {str(key): float(value) for key, value in (config.get("alpha_pattern") or {}).items()},
            bool(config.get("fan_in_fan_out")),
            forward if isinstance(forward, str) else tuple(map(str, forward)),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UpdateError(f"'{path}' cannot be read: {type(error).__name__}: {error}") from error


def _check_plain(path: str, config: dict[str, Any]) -> None:
    """Refuse what PEFT does not merge as the sum of a weight and a product."""
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise UpdateError(
            f"'{path}' says init_lora_weights '{start}': PEFT changes the base itself before it adds such an adapter",
            "save it with path_initial_model_for_weight_conversion, which makes it plain LoRA; or " + _MERGE_ELSEWHERE,
        )
    other = next((name for name in _OTHER_SUMS if config.get(name)), None)
    if other is not None:
        raise UpdateError(f"'{path}' says {other}, which is not read", _MERGE_ELSEWHERE)


class _Opened:
    """An adapter on its way to changes."""

    def __init__(self, base: Base, source: Base, settings: _Settings) -> None:
        self._base = base
        self._source = source
        self._settings = settings
        self._latest = Latest()
        self._changes: dict[str, Change] = {}
        self._unused: list[str] = []
        self._by_end: dict[str, list[str]] = {}
        for name in base.tensors:
            self._by_end.setdefault(".".join(name.split(".")[-2:]), []).append(name)

    def adapter(self) -> Adapter:
        modules: dict[str, dict[str, str]] = {}
        for key in sorted(self._source.tensors):
            matched = _PARTS.fullmatch(key.removeprefix(_PREFIX))
            if matched is None:
                self._replace(key)
                continue
            module, part, end = matched.groups()
            modules.setdefault(module, {})[f"{part}.bias" if end == "bias" else part] = key
        for module, parts in modules.items():
            weight = self._find(f"{module}.weight")
            if weight is None:
                self._unused += parts.values()
            else:
                self._update(module, weight, parts)
        return Adapter(_NAMES[self._settings.kind], self._changes, tuple(self._unused))

    def _find(self, name: str) -> Tensor | None:
        """Return the base's tensor of a name: one of them may have been saved as a part of a larger module."""
        if name in self._base.tensors:
            return self._base.tensors[name]
        ends = [
            other
            for other in self._by_end.get(".".join(name.split(".")[-2:]), ())
            if other.endswith(f".{name}") or name.endswith(f".{other}")
        ]
        return self._base.tensors[ends[0]] if len(ends) == 1 else None

    def _put(self, change: Change) -> None:
        if change.name in self._changes:
            raise UpdateError(f"two keys of the adapter are for tensor '{change.name}'")
        self._changes[change.name] = change

    def _replace(self, key: str) -> None:
        """Take a whole tensor: of a module to save, or a bias that was trained along."""
        name = key.removeprefix(_PREFIX).replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
        name = name.replace(".base_layer.", ".")
        place = self._find(name)
        if place is None and not name.endswith((".weight", ".bias")):
            self._unused.append(key)
        else:
            self._put(replaced(self._source, key, name if place is None else place.name, place))

    def _update(self, module: str, weight: Tensor, parts: dict[str, str]) -> None:
        if "ia3_l" in parts:
            self._scale(module, weight, parts["ia3_l"])
            return
        embedding = "lora_embedding_A" in parts
        first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        for part in (first, second):
            if part not in parts:
                raise UpdateError(f"the adapter has '{min(parts.values())}', but no {part} of '{module}'")
        thin = _Thin(self._base, self._source, weight, parts[first], parts[second], self._is_transposed(embedding))
        scale = self._scale_of(module, thin.rank)
        magnitude = parts.get("lora_magnitude_vector")
        if magnitude is not None:
            thin.check_magnitude(self._source, magnitude)
        rounds = embedding and magnitude is None
        self._put(by_recipe(self._base, weight, lambda: thin.recipe(scale, magnitude, rounds), self._latest))
        if "lora_B.bias" in parts:
            self._add_to_bias(module, parts["lora_B.bias"], scale)

    def _is_transposed(self, embedding: bool) -> bool:
        return embedding or self._settings.is_transposed

    def _scale_of(self, module: str, rank: int) -> float:
        alpha = next(
            (value for pattern, value in self._settings.alpha_pattern.items() if _matches(pattern, module)),
            self._settings.alpha,
        )
        return alpha / sqrt(rank) if self._settings.uses_rslora else alpha / rank

    def _add_to_bias(self, module: str, key: str, scale: float) -> None:
        bias = self._find(f"{module}.bias")
        if bias is None:
            self._unused.append(key)
            return
        _check_count(self._source.tensors[key], bias)
        dtype = bias.dtype
        self._put(
            by_function(
                self._base,
                bias,
                lambda numbers: np.asarray(numbers + factor(self._source, key, dtype) * numbers.dtype.type(scale)),
            )
        )

    def _scale(self, module: str, weight: Tensor, key: str) -> None:
        """Take a vector of IA3: of output features, and then the bias is scaled too, or of input features."""
        vector, shape = self._source.tensors[key], weight.shape
        count = prod(vector.shape)
        is_inner = self._is_feedforward(module) if len(shape) > 2 or 1 in shape else vector.shape[0] == 1
        # In what is stored as inputs x outputs, and in nothing else, outputs are the last axis.
        is_by_row = is_inner == (self._settings.is_transposed and len(shape) == 2)
        axis = 0 if is_by_row else 1
        if is_inner and len(shape) > 2 and count != shape[1] and _groups(count, shape):
            self._put(by_function(self._base, weight, lambda numbers: self._by_group(numbers, key, weight.dtype)))
            return
        if len(shape) < 2 or shape[axis] != count:
            raise UpdateError(f"'{key}' of {list(vector.shape)} does not scale tensor '{weight.name}' of {list(shape)}")

        def make() -> Recipe:
            factors = factor(self._source, key, weight.dtype).ravel()
            columns = prod(shape[1:])
            if is_by_row:
                return Recipe(columns, row_factors=factors)
            return Recipe(columns, column_factors=np.repeat(factors, columns // count))

        self._put(by_recipe(self._base, weight, make, self._latest))
        bias = None if is_inner else self._find(f"{module}.bias")
        if bias is not None:
            _check_count(vector, bias)
            dtype = bias.dtype
            self._put(
                by_function(
                    self._base,
                    bias,
                    lambda numbers: np.asarray(numbers * factor(self._source, key, dtype).reshape(numbers.shape)),
                )
            )

    def _by_group(self, numbers: Array, key: str, dtype: str) -> Array:
        """Return the weight of a grouped convolution with its input channels scaled: each group has some of them."""
        factors = factor(self._source, key, dtype).ravel()
        outputs, inputs = numbers.shape[:2]
        groups = len(factors) // inputs
        return np.asarray(
            numbers.reshape(groups, outputs // groups, inputs, -1) * factors.reshape(groups, 1, inputs, 1)
        )

    def _is_feedforward(self, module: str) -> bool:
        forward = self._settings.feedforward
        if isinstance(forward, str):
            return _matches(forward, module)
        return any(module == name or module.endswith(f".{name}") for name in forward)


def _check_count(vector: Tensor, bias: Tensor) -> None:
    if prod(vector.shape) != prod(bias.shape):
        raise UpdateError(
            f"'{vector.name}' of {list(vector.shape)} does not fit tensor '{bias.name}' of {list(bias.shape)}"
        )


def _groups(channels: int, shape: tuple[int, ...]) -> int:
    """Return the groups of a convolution with so many input channels, from its weight's shape; 0 where none fit."""
    groups, rest = divmod(channels, shape[1]) if shape[1] else (0, 1)
    return groups if groups and not rest and shape[0] % groups == 0 else 0


def _matches(pattern: str, module: str) -> bool:
    """Tell whether a pattern of the configuration is meant for a module: its end, or a regular expression for it."""
    if module == pattern or module.endswith(f".{pattern}"):
        return True
    if len(pattern) > _MOST_PATTERN_CHARACTERS or _REPEATED_GROUP.search(pattern):
        raise UpdateError(f"the pattern '{pattern:.60}' of the adapter's configuration repeats groups, or is too long")
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error as error:
        raise UpdateError(f"the pattern '{pattern}' of the adapter's configuration is none: {error}") from error


def _is_of_groups(inner: tuple[int, ...], outer: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether two factors are LoRA's of a convolution in groups: the first one sees the channels of all."""
    if not len(inner) == len(outer) == len(shape) > 2 or (outer[0], inner[2:]) != (shape[0], shape[2:]):
        return False
    groups = _groups(inner[1], shape)
    return groups > 1 and outer[1] * groups == inner[0]


class _Thin:
    """Two thin matrices, and how they lie over a weight."""

    def __init__(self, base: Base, source: Base, weight: Tensor, first: str, second: str, transposed: bool) -> None:
        self._base, self._source, self._weight = base, source, weight
        self._first, self._second = first, second
        inner, outer = source.tensors[first].shape, source.tensors[second].shape
        self.rank = inner[0] if inner else 0
        fits = bool(self.rank) and len(inner) >= 2 and len(outer) >= 2 and outer[1] == self.rank
        self.columns = prod(weight.shape[1:])
        straight = fits and (outer[0], *inner[1:]) == weight.shape and all(length == 1 for length in outer[2:])
        turned = fits and len(inner) == len(outer) == 2 and (inner[1], outer[0]) == weight.shape
        if not straight and _is_of_groups(inner, outer, weight.shape):
            raise UpdateError(
                f"'{first}' is of a convolution in groups ('{weight.name}' of {list(weight.shape)}): the product mixes "
                "what the groups keep apart, so that no weight holds the sum, and PEFT does not merge it either",
                "keep that adapter beside the model: git theta track takes it as a file of its own",
            )
        if not (straight or turned):
            raise UpdateError(
                f"'{first}' of {list(inner)} and '{second}' of {list(outer)} do not fit tensor '{weight.name}' of "
                f"{list(weight.shape)}"
            )
        self.is_turned = turned and (transposed or not straight)

    def check_magnitude(self, source: Base, key: str) -> None:
        """Refuse a magnitude for another number of outputs."""
        outputs = self._weight.shape[1] if self.is_turned else self._weight.shape[0]
        if prod(source.tensors[key].shape) != outputs:
            raise UpdateError(
                f"'{key}' of {list(source.tensors[key].shape)} does not fit tensor '{self._weight.name}' of "
                f"{list(self._weight.shape)}"
            )

    def recipe(self, scale: float, magnitude: str | None, rounds: bool) -> Recipe:
        """Return the recipe; of DoRA the tensor is read, for the norms of what is scaled."""
        dtype = self._weight.dtype
        inner = factor(self._source, self._first, dtype).reshape(self.rank, -1)
        outer = factor(self._source, self._second, dtype).reshape(-1, self.rank)
        left, right = (inner.T, outer.T) if self.is_turned else (outer, inner)
        made = Recipe(self.columns, np.ascontiguousarray(left), np.ascontiguousarray(right), scale, rounds)
        if magnitude is None:
            return made
        norms = self._norms(made)
        with np.errstate(all="ignore"):
            factors: Array = factor(self._source, magnitude, dtype).ravel() / norms
        if not np.isfinite(factors).all():
            raise UpdateError(f"tensor '{self._weight.name}' has outputs of norm 0, which DoRA cannot scale")
        if self.is_turned:
            return made._replace(column_factors=factors)
        return made._replace(row_factors=factors)

    def _norms(self, recipe: Recipe) -> Array:
        return row_norms(recipe, self._pieces(), self._weight.dtype, self.is_turned)

    def _pieces(self) -> Iterator[memoryview]:
        """Yield the weight, some rows at a time."""
        weight = self._weight
        row_bytes = weight.raw_bytes // weight.shape[0]
        step = max(1, (1 << 20) // row_bytes) * row_bytes
        for start in range(0, weight.raw_bytes, step):
            yield memoryview(self._base.read(weight.name, start, min(start + step, weight.raw_bytes)))
