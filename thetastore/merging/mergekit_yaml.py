"""Recipes of mergekit, for the methods that we share: `models` or `slices`, `merge_method`, `base_model`, `parameters`.

The schema is strict: what we would not follow (tokenizers, modules, residual weights) is refused with its line, never
left out in silence. Read with PyYAML, which is imported only here; aliases are refused, since a few lines of them
can stand for gigabytes.

Source: https://github.com/arcee-ai/mergekit, README (Merge Configuration), version 0.1.5.
"""

from __future__ import annotations

from typing import Any

from thetastore.dtypes import DTYPES
from thetastore.merging import MergeError, Method
from thetastore.merging.models_recipe import Conditional, Model, ModelsRecipe, Slice, Values
from thetastore.merging.registry import find_method

MAX_YAML_BYTES = 1 << 20
_TOP = ("merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "name")
_SLICE = ("sources", "base_model", "parameters")
_MODEL = ("model", "parameters")
_SOURCE = ("model", "layer_range", "parameters")
_WITHOUT_EFFECT = ("int8_mask",)
"""Parameters that change how mergekit computes, and not what: they stand in most recipes, and are passed over."""


def parse_models_recipe(text: bytes, source: str) -> ModelsRecipe:
    """Read a recipe.

    Args:
        text: YAML.
        source: for messages, its path.

    Raises:
        MergeError: it is not understood, with the line; or PyYAML is not installed.
    """
    if len(text) > MAX_YAML_BYTES:
        raise MergeError(f"'{source}' has {len(text)} bytes, more than a recipe may have")
    top = _Node(_compose(text, source), source)
    fields = top.fields(_TOP)
    if "merge_method" not in fields:
        raise top.error("'merge_method' is missing")
    if ("models" in fields) == ("slices" in fields):
        raise top.error("either 'models' or 'slices' is needed" + (", not both" if "models" in fields else ""))
    method = fields["merge_method"].found_method()
    base = fields["base_model"].text() if "base_model" in fields else None
    slices: tuple[Slice, ...]
    if "models" in fields:
        slices = (Slice(tuple(item.model() for item in fields["models"].items()), base, {}, 0),)
    else:
        slices = tuple(item.slice(base) for item in fields["slices"].items())
    parameters = fields["parameters"].values() if "parameters" in fields else {}
    recipe = ModelsRecipe(method, slices, parameters, None)
    for one in slices:
        if method.name == "passthrough" and len(one.models) > 1:
            raise MergeError(f"{source}, line {one.models[1].line}: passthrough takes one model, or one of each slice")
        if method.needs_base and one.base is None:
            raise fields["merge_method"].error(f"method '{method.name}' needs a base_model")
        if (method.needs_base or method.name == "slerp") and one.base is not None and recipe.base_of(one) is None:
            raise MergeError(f"{source}, line {one.line}: base_model '{one.base:.60}' is no source of this slice")
    _check_parameters(recipe, source)
    dtype = fields.get("out_dtype") or fields.get("dtype")
    return recipe._replace(dtype=dtype.dtype() if dtype else None)


def _check_parameters(recipe: ModelsRecipe, source: str) -> None:
    """Refuse parameters that the method has not."""
    method = recipe.method
    known = {parameter.name for parameter in method.parameters}
    given = [(recipe.parameters, 0), *((one.parameters, one.line) for one in recipe.slices)]
    given += [(model.parameters, model.line) for one in recipe.slices for model in one.models]
    for values, line in given:
        for name in values:
            if name not in known:
                where = f", line {line}" if line else ""
                raise MergeError(
                    f"{source}{where}: method '{method.name}' has no parameter '{name}'",
                    f"it has: {', '.join(sorted(known))}",
                )


def _compose(text: bytes, source: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
    except ImportError:
        raise MergeError(
            "recipes in YAML are read with PyYAML, which is not installed", "pip install 'thetastore[merge]'"
        ) from None
    try:
        for token in yaml.scan(text.decode(), Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AliasToken | yaml.AnchorToken | yaml.TagToken):
                line = token.start_mark.line + 1
                raise MergeError(f"{source}, line {line}: aliases, anchors and tags are not allowed in a recipe")
        node = yaml.compose(text.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise MergeError(f"{source}{where}: this is not one recipe in YAML: {_said(error)}") from None
    if node is None:
        raise MergeError(f"{source}: the recipe is empty")
    return node


def _said(error: Exception) -> str:
    words = [getattr(error, "context", None), getattr(error, "problem", None)]
    return ", ".join(filter(None, words)) or str(error)


class _Node:
    """A node of YAML that knows its line."""

    def __init__(self, node: Any, source: str) -> None:
        self._node = node
        self._source = source
        self.line: int = node.start_mark.line + 1

    def error(self, message: str, hint: str = "") -> MergeError:
        """Return an error that names the line."""
        return MergeError(f"{self._source}, line {self.line}: {message}", hint)

    def fields(self, allowed: tuple[str, ...]) -> dict[str, _Node]:
        """Return the fields of a mapping; others than those allowed are errors."""
        if self._node.id != "mapping":
            raise self.error("expected names and values")
        found: dict[str, _Node] = {}
        for key, value in self._node.value:
            name = str(key.value)
            if allowed and name not in allowed:
                known = ", ".join(allowed)
                raise _Node(key, self._source).error(f"'{name:.60}' is not followed here", f"what is: {known}")
            if name in found:
                raise _Node(key, self._source).error(f"'{name:.60}' is there twice")
            found[name] = _Node(value, self._source)
        return found

    def items(self) -> list[_Node]:
        """Return the items of a list."""
        if self._node.id != "sequence" or not self._node.value:
            raise self.error("expected a list")
        return [_Node(value, self._source) for value in self._node.value]

    def text(self) -> str:
        """Return a text."""
        if self._node.id != "scalar" or not self._node.value:
            raise self.error("expected a text")
        return str(self._node.value)

    def found_method(self) -> Method:
        """Return the method of this name."""
        try:
            return find_method(self.text())
        except MergeError as error:
            raise self.error(error.message, error.hint) from None

    def dtype(self) -> str:
        """Return the name of an element type."""
        name = self.text()
        if name not in DTYPES:
            raise self.error(f"'{name:.60}' is no dtype that is known here", "float32, bfloat16, float16")
        return name

    def model(self, allowed: tuple[str, ...] = _MODEL) -> Model:
        """Return a model of the list."""
        fields = self.fields(allowed)
        for name in ("model", "layer_range"):
            if name in allowed and name not in fields:
                raise self.error(f"'{name}' is missing")
        layers = fields["layer_range"]._layer_range() if "layer_range" in fields else None
        return Model(
            fields["model"].text(), fields["parameters"].values() if "parameters" in fields else {}, self.line, layers
        )

    def slice(self, base: str | None) -> Slice:
        """Return a slice; its base is that of the recipe, unless it has its own."""
        fields = self.fields(_SLICE)
        if "sources" not in fields:
            raise self.error("'sources' is missing")
        models = tuple(item.model(_SOURCE) for item in fields["sources"].items())
        base = fields["base_model"].text() if "base_model" in fields else base
        found = Slice(models, base, fields["parameters"].values() if "parameters" in fields else {}, self.line)
        for model in models:
            if model.layers and model.layers[1] - model.layers[0] != found.layer_count:
                raise self.error("all sources of a slice have as many layers")
        return found

    def _layer_range(self) -> tuple[int, int]:
        numbers = [item._scalar() for item in self.items()]
        if len(numbers) != 2 or not all(type(one) is float and one.is_integer() for one in numbers):
            raise self.error("expected two numbers of layers: [FIRST, END]")
        first, end = int(numbers[0]), int(numbers[1])
        if not 0 <= first < end:
            raise self.error(f"there are no layers in [{first}, {end}]")
        return first, end

    def values(self) -> Values:
        """Return parameters, each with its conditions."""
        return {name: node._conditionals() for name, node in self.fields(()).items() if name not in _WITHOUT_EFFECT}

    def _conditionals(self) -> tuple[Conditional, ...]:
        if self._node.id == "scalar" or all(item._node.id == "scalar" for item in self.items()):
            return (Conditional("", self._value()),)
        found = []
        for item in self.items():
            if item._node.id != "mapping":
                raise item.error(
                    "expected a filter and a value: a list has either these, or values from layer to layer"
                )
            fields = item.fields(("filter", "value"))
            if "value" not in fields:
                raise item.error("'value' is missing")
            text = fields["filter"].text() if "filter" in fields else ""
            found.append(Conditional("" if text == "*" else text, fields["value"]._value()))
        return tuple(found)

    def _value(self) -> Any:
        """Return one value; of a list, its values from the first layer to the last."""
        return self._scalar() if self._node.id == "scalar" else tuple(item._scalar() for item in self.items())

    def _scalar(self) -> Any:
        if self._node.id != "scalar":
            raise self.error("expected one value")
        kind = str(self._node.tag).rpartition(":")[2]
        word = str(self._node.value)
        try:
            # YAML 1.1 takes 1e-5 for a text.
            return word.lower() in ("true", "yes", "on") if kind == "bool" else float(word)
        except ValueError:
            return word
