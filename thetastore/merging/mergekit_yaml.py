"""Recipes of mergekit, for the methods that we share: `models`, `merge_method`, `base_model`, `parameters`, `dtype`.

The schema is strict: what we would not follow (slices, tokenizers, gradients over layers) is refused with its line,
never left out in silence. Read with PyYAML, which is imported only here; aliases are refused, since a few lines of them
can stand for gigabytes.

Source: https://github.com/arcee-ai/mergekit, README (Merge Configuration), version 0.1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from thetastore.dtypes import DTYPES
from thetastore.merging import MergeError, Method
from thetastore.merging.registry import find_method

MAX_YAML_BYTES = 1 << 20
_TOP = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "name")
_MODEL = ("model", "parameters")


class Conditional(NamedTuple):
    """A value for tensors whose names contain a text; an empty text is in all."""

    filter: str
    value: Any


Values = Mapping[str, tuple[Conditional, ...]]


class Model(NamedTuple):
    """One of the models."""

    name: str
    parameters: Values
    line: int


class ModelsRecipe(NamedTuple):
    """What is merged, and how."""

    method: Method
    base: str | None
    models: tuple[Model, ...]
    parameters: Values
    dtype: str | None

    def sides(self) -> tuple[Model, ...]:
        """Return the models that are mixed: those listed but the base. `slerp` goes from the base to the other."""
        if self.method.name == "slerp" and self.base is not None:
            others = tuple(model for model in self.models if model.name != self.base)
            return (Model(self.base, {}, 0), *others)
        if not self.method.needs_base:
            return self.models
        return tuple(model for model in self.models if model.name != self.base)

    def values(self, tensor: str) -> dict[str, Any]:
        """Return the parameters for a tensor, as `parameter_values` takes them.

        Raises:
            MergeError: a model has no value of a parameter that others have.
        """
        given = {name: found for name, one in self.parameters.items() if (found := _chosen(one, tensor)) is not None}
        sides = self.sides()
        for name in dict.fromkeys(name for model in sides for name in model.parameters):
            several = [_chosen(model.parameters.get(name, ()), tensor) for model in sides]
            several = [given.get(name) if value is None else value for value in several]
            if any(value is None for value in several):
                lacking = next(model for model, value in zip(sides, several, strict=True) if value is None)
                raise MergeError(f"model '{lacking.name}' has no '{name}' for tensor '{tensor}', and others have one")
            given[name] = several
        return given


def _chosen(values: tuple[Conditional, ...], tensor: str) -> Any:
    return next((one.value for one in values if one.filter in tensor), None)


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
    for name in ("merge_method", "models"):
        if name not in fields:
            raise top.error(f"'{name}' is missing")
    method = fields["merge_method"].found_method()
    models = tuple(item.model() for item in fields["models"].items())
    parameters = fields["parameters"].values() if "parameters" in fields else {}
    base = fields["base_model"].text() if "base_model" in fields else None
    if method.needs_base and base is None:
        raise fields["merge_method"].error(f"method '{method.name}' needs a base_model")
    known = {parameter.name for parameter in method.parameters}
    for values, line in [(parameters, 0), *((model.parameters, model.line) for model in models)]:
        for name in values:
            if name not in known:
                where = f", line {line}" if line else ""
                raise MergeError(
                    f"{source}{where}: method '{method.name}' has no parameter '{name}'",
                    f"it has: {', '.join(sorted(known))}",
                )
    dtype = fields.get("out_dtype") or fields.get("dtype")
    return ModelsRecipe(method, base, models, parameters, dtype.dtype() if dtype else None)


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
        raise MergeError(f"{source}{where}: this is not YAML: {getattr(error, 'problem', None) or error}") from None
    if node is None:
        raise MergeError(f"{source}: the recipe is empty")
    return node


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

    def model(self) -> Model:
        """Return a model of the list."""
        fields = self.fields(_MODEL)
        if "model" not in fields:
            raise self.error("'model' is missing")
        return Model(fields["model"].text(), fields["parameters"].values() if "parameters" in fields else {}, self.line)

    def values(self) -> Values:
        """Return parameters, each with its conditions."""
        return {name: node._conditionals() for name, node in self.fields(()).items()}

    def _conditionals(self) -> tuple[Conditional, ...]:
        if self._node.id == "scalar":
            return (Conditional("", self._scalar()),)
        found = []
        for item in self.items():
            if item._node.id != "mapping":
                raise item.error("a list of numbers is a gradient over layers, which is not followed here")
            fields = item.fields(("filter", "value"))
            if "value" not in fields:
                raise item.error("'value' is missing")
            text = fields["filter"].text() if "filter" in fields else ""
            found.append(Conditional("" if text == "*" else text, fields["value"]._scalar()))
        return tuple(found)

    def _scalar(self) -> Any:
        if self._node.id != "scalar":
            raise self.error("expected one value: gradients over layers are not followed here")
        kind = str(self._node.tag).rpartition(":")[2]
        word = str(self._node.value)
        try:
            # YAML 1.1 takes 1e-5 for a text.
            return word.lower() in ("true", "yes", "on") if kind == "bool" else float(word)
        except ValueError:
            return word
