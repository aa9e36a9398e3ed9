"""Updates found in a tensor that was changed elsewhere."""

import numpy as np
import numpy.typing as npt
import pytest

from thetastore.updates.recipe import Recipe
from thetastore.updates.search import find

ROWS, COLUMNS, RANK = 384, 256, 8


def changed(seed: int, dense: float = 0.0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return a matrix, and what it is with a product of rank 8 added, and as much of noise."""
    rng = np.random.default_rng(seed)
    before = rng.normal(0, 0.06, (ROWS, COLUMNS)).astype("f4")
    product = rng.normal(0, 0.03, (ROWS, RANK)) @ rng.normal(0, 0.03, (RANK, COLUMNS))
    return before, (before + product + rng.normal(0, 1, before.shape) * dense).astype("f4")


def found(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> Recipe | None:
    return find(memoryview(before.tobytes()), memoryview(after.tobytes()), "float32", ROWS)


def test_a_product_in_float32_is_found_whatever_its_numbers_are() -> None:
    recipes = [found(*changed(seed)) for seed in range(12)]

    assert [recipe and recipe.rank for recipe in recipes] == [RANK] * 12


@pytest.mark.parametrize("dense", [1e-7, 1e-4])
def test_a_product_beside_a_dense_change_is_none(dense: float) -> None:
    assert [found(*changed(seed, dense)) for seed in range(4)] == [None] * 4
