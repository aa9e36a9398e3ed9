"""Git-Theta's side files: a checkpoint whose keys are a tensor's name and a part's, `layer.weight/R`.

| type | parts | result |
| --- | --- | --- |
| `low-rank` | `R`, `C` | base + R @ C |
| `sparse` | `data`, `indices`, `indptr`, `shape` | base + the one row of a CSR matrix, in C order |
| `ia3` | `ia3` | base * ia3, broadcast |
| `dense` | none: the key is the tensor's name, or that and `parameter` | what the file has |

The part may be set off by `/` or `.`, as the formats of checkpoints join nested names; so may the parts of the name.
Source: https://github.com/r-three/git-theta, git_theta/updates (the formats).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from thetastore.adapters import Adapter, Base, Change
from thetastore.adapters.changes import Array, Latest, by_function, by_recipe, factor, opened, replaced
from thetastore.layout import Tensor
from thetastore.updates.recipe import Recipe, UpdateError, work_dtype

PARTS = {"low-rank": ("R", "C"), "sparse": ("data", "indices", "indptr", "shape"), "ia3": ("ia3",), "dense": ()}
"""What belongs to an update, by type."""


def open_side_file(path: str, base: Base, types: Iterable[str] = tuple(PARTS)) -> Adapter:
    """Open a side file with updates of some types.

    Raises:
        UpdateError: it is no checkpoint; a part is missing; shapes do not fit the base's.
    """
    source = opened(path)
    names = {_plain(name): name for name in base.tensors}
    groups, unused = _grouped(source, names, tuple(types))
    latest = Latest()
    changes: dict[str, Change] = {}
    for (name, kind), keys in groups.items():
        if name in changes:
            raise UpdateError(f"'{path}' has two updates of tensor '{name}'")
        missing = [part for part in PARTS[kind] if part not in keys]
        if missing:
            raise UpdateError(f"'{path}' has '{min(keys.values())}', but not '{name}/{missing[0]}'")
        changes[name] = _MAKERS[kind](base, base.tensors[name], source, keys, latest)
    kinds = sorted({kind for _, kind in groups})
    return Adapter(", ".join(kinds) or "side file", changes, tuple(unused))


def _plain(name: str) -> str:
    return name.replace("/", ".")


def _grouped(
    source: Base, names: dict[str, str], types: tuple[str, ...]
) -> tuple[dict[tuple[str, str], dict[str, str]], list[str]]:
    """Return the keys of each update by tensor and type, then by part; and the keys that found no tensor."""
    groups: dict[tuple[str, str], dict[str, str]] = {}
    unused = []
    for key in sorted(source.tensors):
        name, _, part = _plain(key).rpartition(".")
        kinds = [kind for kind in types if part in PARTS[kind]]
        if name in names and kinds:
            groups.setdefault((names[name], kinds[0]), {})[part] = key
        elif "dense" in types and (_plain(key) in names or (part == "parameter" and name in names)):
            groups.setdefault((names.get(_plain(key)) or names[name], "dense"), {})["parameter"] = key
        else:
            unused.append(key)
    return groups, unused


def _low_rank(base: Base, tensor: Tensor, source: Base, keys: dict[str, str], latest: Latest) -> Change:
    rows, columns = source.tensors[keys["R"]].shape, source.tensors[keys["C"]].shape
    fits = len(rows) == len(columns) == 2 and rows[1] == columns[0] and (rows[0], columns[1]) == tensor.shape
    if not fits or not rows[1]:
        raise UpdateError(
            f"'{keys['R']}' of {list(rows)} and '{keys['C']}' of {list(columns)} make no {list(tensor.shape)}, "
            f"the shape of tensor '{tensor.name}'"
        )

    def make() -> Recipe:
        left, right = (factor(source, keys[part], tensor.dtype) for part in PARTS["low-rank"])
        return Recipe(tensor.shape[1], left, right)

    return by_recipe(base, tensor, make, latest)


def _ia3(base: Base, tensor: Tensor, source: Base, keys: dict[str, str], latest: Latest) -> Change:
    key = keys["ia3"]
    shape = source.tensors[key].shape
    padded = (1,) * (len(tensor.shape) - len(shape)) + shape
    if len(padded) != len(tensor.shape) or any(
        own not in (1, length) for own, length in zip(padded, tensor.shape, strict=True)
    ):
        raise UpdateError(f"'{key}' of {list(shape)} does not scale tensor '{tensor.name}' of {list(tensor.shape)}")
    if not tensor.shape or (any(length != 1 for length in padded[:-1]) and any(length != 1 for length in padded[1:])):
        return by_function(
            base, tensor, lambda numbers: np.asarray(numbers * factor(source, key, tensor.dtype).reshape(padded))
        )
    is_by_column = padded[-1] != 1 or len(padded) == 1
    return by_recipe(base, tensor, partial(_scaled, tensor, source, key, is_by_column), latest)


def _scaled(tensor: Tensor, source: Base, key: str, is_by_column: bool) -> Recipe:
    factors = factor(source, key, tensor.dtype).ravel()
    if is_by_column:
        columns = tensor.shape[-1]
        return Recipe(columns, column_factors=np.broadcast_to(factors, (columns,)).copy())
    columns = int(np.prod(tensor.shape[1:]))
    return Recipe(columns, row_factors=np.broadcast_to(factors, (tensor.shape[0],)).copy())


def _sparse(base: Base, tensor: Tensor, source: Base, keys: dict[str, str], _: Latest) -> Change:
    shape = tuple(int(length) for length in _integers(source, keys["shape"], "elements of a shape"))
    if shape != tensor.shape:
        raise UpdateError(f"'{keys['shape']}' says {list(shape)}, tensor '{tensor.name}' has {list(tensor.shape)}")
    counts = [source.tensors[keys[part]].shape for part in ("data", "indices")]
    if counts[0] != counts[1] or len(counts[0]) != 1:
        raise UpdateError(f"'{keys['data']}' of {list(counts[0])} and '{keys['indices']}' of {list(counts[1])} differ")

    def added(numbers: Array) -> Array:
        values, places = factor(source, keys["data"], tensor.dtype), _integers(source, keys["indices"], "places")
        if places.size and not 0 <= int(places.min()) <= int(places.max()) < numbers.size:
            raise UpdateError(f"'{keys['indices']}' has places beyond the {numbers.size} elements of '{tensor.name}'")
        sums = np.zeros(numbers.size, work_dtype(tensor.dtype))
        np.add.at(sums, places, values)
        flat = numbers.ravel()
        flat[places] += sums[places]
        return flat.reshape(numbers.shape)

    return by_function(base, tensor, added)


def _integers(source: Base, key: str, what: str) -> Array:
    from thetastore.elements import numbers_of

    tensor = source.tensors[key]
    numbers = numbers_of(source.read(key, 0, tensor.raw_bytes), tensor.dtype)
    if numbers.dtype.kind not in "iu":
        raise UpdateError(f"'{key}' is of {tensor.dtype}; {what} are integers")
    return numbers


def _dense(base: Base, tensor: Tensor, source: Base, keys: dict[str, str], _: Latest) -> Change:
    return replaced(source, keys["parameter"], tensor.name, tensor)


_MAKERS: dict[str, Callable[[Base, Tensor, Base, dict[str, str], Latest], Change]] = {
    "low-rank": _low_rank,
    "sparse": _sparse,
    "ia3": _ia3,
    "dense": _dense,
}
