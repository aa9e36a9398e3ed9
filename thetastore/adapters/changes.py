"""Changes of tensors, made from the parts that adapters hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from thetastore.adapters import Base, Change
from thetastore.digest import Buffer
from thetastore.elements import has_values, numbers_of
from thetastore.layout import Tensor
from thetastore.merging import MergeError
from thetastore.merging.checkpoints import open_path
from thetastore.updates.arithmetic import apply, rounded
from thetastore.updates.recipe import DTYPES, Recipe, UpdateError, work_dtype

Array = np.ndarray[Any, np.dtype[Any]]
_PIECE_BYTES = 1 << 20


def opened(path: str) -> Base:
    """Open a file with the parts of updates, or a directory of safetensors files.

    Raises:
        UpdateError: there is none, or it is no checkpoint.
    """
    if not os.path.exists(path):
        raise UpdateError(f"there is no '{path}' to read an update from")
    try:
        return open_path(path)
    except MergeError as error:
        raise UpdateError(error.message, error.hint) from error
    except OSError as error:
        raise UpdateError(f"'{path}' cannot be read: {error.strerror or error}") from error


class Latest:
    """The recipe that was made last, for those that ask for one several times while they go through a file."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._recipe: Recipe | None = None

    def get(self, name: str, make: Callable[[], Recipe]) -> Recipe:
        """Return the recipe of a tensor, made if it is not the latest."""
        if self._name != name or self._recipe is None:
            self._recipe, self._name = make(), name
        return self._recipe


def by_recipe(base: Base, tensor: Tensor, make: Callable[[], Recipe], latest: Latest) -> Change:
    """Return the change of a tensor by a recipe, which is made when it is needed."""
    if tensor.dtype not in DTYPES:
        raise UpdateError(f"tensor '{tensor.name}' is of {tensor.dtype}; updates are for {', '.join(DTYPES)}")

    def recipe() -> Recipe:
        return latest.get(tensor.name, make)

    def pieces() -> Iterator[Buffer]:
        return applied(base, tensor, recipe())

    return Change(tensor.name, tensor.dtype, tensor.shape, pieces, recipe, is_applied=True)


def applied(base: Base, tensor: Tensor, recipe: Recipe) -> Iterator[memoryview]:
    """Yield what a recipe makes of a tensor, some rows at a time."""
    width = tensor.raw_bytes // max(1, prod(tensor.shape))
    row_bytes = recipe.columns * width
    step = max(1, _PIECE_BYTES // row_bytes) * row_bytes
    for start in range(0, tensor.raw_bytes, step):
        raw = memoryview(base.read(tensor.name, start, min(start + step, tensor.raw_bytes)))
        window = recipe.window(start // width, raw.nbytes // width)
        assert window is not None, "whole rows"
        out = memoryview(bytearray(raw.nbytes))
        apply(window, raw, tensor.dtype, out)
        yield out


def by_function(base: Base, tensor: Tensor, function: Callable[[Array], Array]) -> Change:
    """Return the change of a tensor by a function of its numbers, in `work_dtype`; it is read whole."""
    if tensor.dtype not in DTYPES:
        raise UpdateError(f"tensor '{tensor.name}' is of {tensor.dtype}; updates are for {', '.join(DTYPES)}")

    def pieces() -> Iterator[Buffer]:
        raw = base.read(tensor.name, 0, tensor.raw_bytes)
        numbers = numbers_of(raw, tensor.dtype).astype(work_dtype(tensor.dtype)).reshape(tensor.shape)
        with np.errstate(all="ignore"):
            yield rounded(function(numbers), tensor.dtype)

    return Change(tensor.name, tensor.dtype, tensor.shape, pieces)


def replaced(source: Base, key: str, name: str, place: Tensor | None) -> Change:
    """Return the change of a tensor to what a file has under a key, rounded to the type of what was there before."""
    own = source.tensors[key]
    if place is not None and place.shape != own.shape:
        raise UpdateError(f"'{key}' has the shape {list(own.shape)}, tensor '{name}' has {list(place.shape)}")
    dtype = own.dtype if place is None else place.dtype
    if dtype != own.dtype and not (dtype in DTYPES and has_values(own.dtype)):
        raise UpdateError(f"'{key}' is of {own.dtype}, tensor '{name}' is of {dtype}")

    def pieces() -> Iterator[Buffer]:
        width = own.raw_bytes // max(1, prod(own.shape))
        step = max(width, _PIECE_BYTES // 8 * 8)
        for start in range(0, own.raw_bytes, step):
            raw = source.read(key, start, min(start + step, own.raw_bytes))
            yield raw if dtype == own.dtype else rounded(numbers_of(raw, own.dtype).astype(work_dtype(dtype)), dtype)

    return Change(name, dtype, own.shape, pieces)


def factor(source: Base, key: str, dtype: str) -> Array:
    """Return the numbers of a part, for an update of a tensor of `dtype`.

    Raises:
        UpdateError: they are no numbers, or not all are finite.
    """
    tensor = source.tensors[key]
    if not has_values(tensor.dtype):
        raise UpdateError(f"'{key}' is of {tensor.dtype}, which has no values")
    with np.errstate(all="ignore"):
        numbers = numbers_of(source.read(key, 0, tensor.raw_bytes), tensor.dtype).astype(work_dtype(dtype))
    bad = int(numbers.size - np.count_nonzero(np.isfinite(numbers)))
    if bad:
        raise UpdateError(f"'{key}' has {bad} elements that are NaN or infinite, of {numbers.size}")
    return numbers.reshape(tensor.shape)
