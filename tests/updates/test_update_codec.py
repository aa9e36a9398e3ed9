"""Codec `update`: what a recipe makes of a base, and what it lacks, comes back to the bit; damage is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thetastore.codecs import decode, encode_update
from thetastore.codecs.update import Shared
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.updates.arithmetic import apply, rounded
from thetastore.updates.recipe import DTYPES, Recipe, work_dtype


def numbers(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("f4")


def chunk_of(dtype: str, rows: int, columns: int, seed: int = 1) -> memoryview:
    return rounded(numbers(seed, rows, columns, scale=0.05).astype(work_dtype(dtype)), dtype)


def recipe_of(dtype: str, rows: int, columns: int, rank: int = 4, **more: object) -> Recipe:
    work = work_dtype(dtype)
    left, right = numbers(2, rows, rank).astype(work), numbers(3, rank, columns, scale=0.01).astype(work)
    return Recipe(columns, left, right, 2.0, **more)  # type: ignore[arg-type]


def made(recipe: Recipe, base: memoryview, dtype: str, start: int = 0) -> bytes:
    width = int(work_dtype(dtype)[-1]) if dtype in ("float32", "float64") else 2
    window = recipe.window(start, base.nbytes // width)
    assert window is not None
    out = bytearray(base.nbytes)
    apply(window, base, dtype, memoryview(out))
    return bytes(out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", ["product", "rounded", "dora", "ia3 rows", "ia3 columns"])
def test_what_a_recipe_makes_takes_only_its_factors(dtype: str, parts: str) -> None:
    rows, columns, work = 96, 80, work_dtype(dtype)
    recipe = recipe_of(dtype, rows, columns, rounds_product=parts == "rounded")
    if parts == "dora":
        recipe = recipe._replace(row_factors=(1 + numbers(4, rows, scale=0.1)).astype(work))
    if parts.startswith("ia3"):
        recipe = Recipe(columns)
        factors = (1 + numbers(4, rows if "rows" in parts else columns, scale=0.1)).astype(work)
        recipe = recipe._replace(**{"row_factors" if "rows" in parts else "column_factors": factors})
    base = chunk_of(dtype, rows, columns)
    raw = made(recipe, base, dtype)

    coded = encode_update(raw, base, dtype, recipe.window(0, rows * columns))

    assert coded is not None
    assert len(coded.stored) < (rows * 5 + columns * 4) * int(work[-1]) + 100
    out = bytearray(len(raw))
    decode("update", b"", coded.stored, memoryview(out), [base])
    assert out == raw


def test_elements_that_somebody_else_rounded_otherwise_are_fixed_up() -> None:
    recipe = recipe_of("float32", 64, 64)
    base = chunk_of("float32", 64, 64)
    raw = bytearray(made(recipe, base, "float32"))
    np.frombuffer(raw, "u4")[::50] += 1

    coded = encode_update(raw, base, "float32", recipe.window(0, 4096))

    assert coded is not None
    assert len(coded.stored) < 3200
    out = bytearray(len(raw))
    decode("update", b"", coded.stored, memoryview(out), [base])
    assert out == raw


def test_parts_that_have_nothing_to_do_with_the_chunk_are_no_update() -> None:
    base, other = chunk_of("float32", 64, 64), chunk_of("float32", 64, 64, seed=9)

    assert encode_update(other, base, "float32", recipe_of("float32", 64, 64).window(0, 4096)) is None


def test_chunks_of_whole_rows_and_of_parts_of_a_row_share_one_object() -> None:
    recipe = recipe_of("float32", 6, 1000, rank=4, column_factors=1 + numbers(4, 1000, scale=0.1))
    shared = Shared(recipe.right, recipe.column_factors, 1000)
    base = chunk_of("float32", 6, 1000)
    whole = made(recipe, base, "float32")

    for start, count in ((0, 2000), (2000, 4000), (2000, 500), (2500, 500)):
        part = slice(4 * start, 4 * (start + count))
        window = recipe.window(start, count)
        coded = encode_update(whole[part], base[part], "float32", window, (1000, start % 1000))
        assert coded is not None
        out = bytearray(4 * count)
        decode("update", b"", coded.stored, memoryview(out), [base[part], shared.raw])
        assert out == whole[part]


def test_a_part_that_is_neither_whole_rows_nor_within_one_is_no_window() -> None:
    recipe = recipe_of("float32", 8, 100)

    assert recipe.window(50, 100) is None
    assert recipe.window(0, 150) is None
    assert recipe.window(50, 50) is not None


def test_a_result_that_is_no_number_is_the_same_on_every_processor() -> None:
    base = memoryview(np.array([[np.inf, np.nan, 1.0, -np.inf]], "f4").view("u1").ravel().data)
    recipe = Recipe(4, row_factors=np.zeros(1, "f4"))

    assert np.frombuffer(made(recipe, base, "float32"), "u4").tolist() == [0x7FC00000, 0x7FC00000, 0, 0x7FC00000]


def test_steps_of_the_product_are_rounded_as_fused_ones() -> None:
    left = np.array([[1 + 2.0**-12, 1.0]], "f4")
    right = np.array([[1 + 2.0**-12], [-1.0]], "f4")
    base = memoryview(np.zeros(1, "f4").view("u1").data)

    found = np.frombuffer(made(Recipe(1, left, right), base, "float32"), "f4")

    first = np.float32(np.float64(left[0, 0]) * np.float64(right[0, 0]))
    assert found[0] == np.float32(np.float64(first) - 1.0)


def sample() -> tuple[bytes, bytes, memoryview]:
    recipe = recipe_of("float32", 32, 32, column_factors=1 + numbers(4, 32, scale=0.1))
    base = chunk_of("float32", 32, 32)
    raw = bytearray(made(recipe, base, "float32"))
    raw[5] ^= 1
    coded = encode_update(raw, base, "float32", recipe.window(0, 1024))
    assert coded is not None
    return bytes(raw), bytes(coded.stored), base


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_refused_or_gives_other_bytes_and_nothing_else(data: st.DataObject) -> None:
    raw, stored, base = sample()
    damaged = bytearray(stored)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(200, len(damaged) - 1)))
        damaged[at] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]

    try:
        decode("update", b"", damaged, memoryview(bytearray(len(raw))), [base])
    except (MalformedError, UnsupportedError):
        pass


def test_every_field_of_the_header_is_checked() -> None:
    raw, stored, base = sample()
    cases = {0: 1, 1: 4, 2: 32, 3: 1, 4: 1, 8: 33, 12: 1, 16: 1, 20: 33, 22: 1}

    for offset, value in cases.items():
        damaged = bytearray(stored)
        damaged[offset] = value
        with pytest.raises((MalformedError, UnsupportedError)):
            decode("update", b"", damaged, memoryview(bytearray(len(raw))), [base])
    for bases in ([base, base], [base[4:]], []):
        with pytest.raises(MalformedError):
            decode("update", b"", stored, memoryview(bytearray(len(raw))), bases)
