"""Figures of changed tensors, against plain numpy."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thetastore.comparing.comparison import Measured
from thetastore.elements import has_values, values_of
from thetastore.statistics import Pair, Piece, TensorKind
from thetastore.statistics.moments import Moments
from thetastore.statistics.spectrum import Spectrum

if TYPE_CHECKING:
    from conftest import Compare

BF16 = ml_dtypes.bfloat16
RANDOM = np.random.default_rng(7)
Array = np.ndarray[Any, Any]


def moments(measured: Measured) -> Moments:
    assert measured.moments is not None
    return measured.moments


def normal(*shape: int, dtype: Any = np.float32, scale: float = 1.0) -> Array:
    return (RANDOM.standard_normal(shape) * scale).astype(dtype)


def check_against_numpy(before: Array, after: Array, measured: Measured) -> None:
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    a, b = before.astype(wide).ravel(), after.astype(wide).ravel()
    fine = np.isfinite(a) & np.isfinite(b)
    bits = f"u{before.dtype.itemsize}" if before.dtype.itemsize <= 8 else "V16"
    changed = np.count_nonzero(before.ravel().view(bits) != after.ravel().view(bits))
    a, b = a[fine], b[fine]
    found = moments(measured)
    assert measured.changed == changed
    assert found.change_norm == pytest.approx(np.linalg.norm(b - a), rel=1e-12)
    assert found.largest == pytest.approx(np.abs(b - a).max(initial=0), rel=1e-15)
    assert found.nan_before == np.count_nonzero(np.isnan(before))
    assert found.inf_after == np.count_nonzero(np.isinf(after))
    if found.has_read_all and np.linalg.norm(a) and np.linalg.norm(b):
        assert found.relative == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-12)
        cosine = np.vdot(a, b).real / np.linalg.norm(a) / np.linalg.norm(b)
        assert found.cosine == pytest.approx(cosine, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "dtype",
    [
        np.float64, np.float32, np.float16, BF16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.complex64,
        np.int64, np.int32, np.int8, np.uint8,
    ],
)  # fmt: skip
def test_the_figures_of_every_type_are_those_of_numpy(compare: Compare, dtype: Any) -> None:
    before = normal(70, 300, dtype=dtype, scale=20)
    after = (before + normal(70, 300, scale=3)).astype(dtype)

    (measured,) = compare({"w": before}, {"w": after})

    check_against_numpy(before, after, measured)


def test_truth_values_are_counted(compare: Compare) -> None:
    before = RANDOM.random((50, 50)) < 0.5
    after = before.copy()
    after[3, :7] ^= True

    (measured,) = compare({"mask": before}, {"mask": after})

    assert (measured.changed, measured.rows) == (7, (1, 50))


def test_a_tensor_of_many_chunks_has_the_figures_of_its_whole(compare: Compare) -> None:
    before = normal(1500, 701)
    after = before + normal(1500, 701, scale=1e-3)

    (measured,) = compare({"w": before}, {"w": after})

    check_against_numpy(before, after, measured)
    assert measured.read_bytes == before.nbytes + after.nbytes


@given(
    seed=st.integers(0, 2**32),
    shape=st.lists(st.integers(1, 40), min_size=0, max_size=3).map(tuple),
    share=st.floats(0, 1),
    exponent=st.integers(-300, 300),
    poison=st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=5),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_float64_tensors_are_measured_as_numpy_would(
    compare: Compare, seed: int, shape: tuple[int, ...], share: float, exponent: int, poison: list[float]
) -> None:
    random = np.random.default_rng(seed)
    before = np.ldexp(random.standard_normal(shape), exponent)
    after = np.where(random.random(shape) < share, np.ldexp(random.standard_normal(shape), exponent), before)
    after = np.asarray(after)
    for value in poison:
        after.reshape(-1)[random.integers(after.size)] = value

    found = compare({"w": before}, {"w": after})

    if np.array_equal(before.view("u8"), after.view("u8")):
        assert not found
        return
    a, b = before.ravel(), after.ravel()
    fine = np.isfinite(b)
    scale = 2.0**exponent
    measured = moments(found[0])
    assert found[0].changed == np.count_nonzero(a.view("u8") != b.view("u8"))
    assert measured.change_norm / scale == pytest.approx(
        np.linalg.norm(b[fine] / scale - a[fine] / scale), rel=1e-9, abs=1e-300
    )
    assert measured.nan_after == np.count_nonzero(np.isnan(b))


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 500), max_size=6), order=st.randoms())
@settings(max_examples=50, deadline=None)
def test_figures_do_not_depend_on_how_a_tensor_is_cut_nor_on_the_order_of_merging(
    seed: int, cuts: list[int], order: Any
) -> None:
    random = np.random.default_rng(seed)
    before, after = random.standard_normal(500), random.standard_normal(500)
    pair = Pair(TensorKind("float64", (500,)), TensorKind("float64", (500,)))
    whole = Moments(pair)
    whole.feed(before.copy(), after.copy(), np.empty(500), 500)
    bounds = [0, *sorted(cuts), 500]
    parts = []
    for start, stop in itertools.pairwise(bounds):
        part = Moments(pair)
        part.feed(before[start:stop].copy(), after[start:stop].copy(), np.empty(stop - start), stop - start)
        parts.append(part)
    order.shuffle(parts)

    merged = Moments(pair)
    for part in parts:
        merged.merge(part)

    assert merged.read_elements == whole.read_elements
    assert merged.largest == whole.largest
    for name in ("change_norm", "relative", "cosine", "factor", "off_factor"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9), name


def test_a_nan_hides_no_other_change(compare: Compare) -> None:
    before = normal(1000)
    after = before.copy()
    after[3] = np.nan
    after[5:10] += 1
    before[20] = -np.inf

    (measured,) = compare({"w": before}, {"w": after})

    found = moments(measured)
    assert measured.changed == 7
    assert (found.nan_before, found.nan_after, found.inf_before, found.inf_after) == (0, 1, 1, 0)
    assert found.change_norm == pytest.approx(math.sqrt(5), rel=1e-6)
    assert found.largest == pytest.approx(1, rel=1e-6)


def test_changes_of_tiny_weights_by_one_unit_in_the_last_place_are_seen(compare: Compare) -> None:
    before = normal(4000, scale=1e-9)
    after = np.nextafter(before, np.float32(1))

    (measured,) = compare({"w": before}, {"w": after})

    assert measured.changed == 4000
    assert moments(measured).change_norm > 0


@pytest.mark.parametrize("value", [1e-200, 1e200])
def test_norms_of_extreme_values_neither_vanish_nor_overflow(compare: Compare, value: float) -> None:
    before = np.full(300, value)
    after = np.full(300, 3 * value)

    (measured,) = compare({"w": before}, {"w": after})

    assert moments(measured).change_norm == pytest.approx(2 * value * math.sqrt(300), rel=1e-12)
    assert moments(measured).relative == pytest.approx(2, rel=1e-12)


def test_the_sign_of_a_zero_is_a_change_that_moves_nothing(compare: Compare) -> None:
    before = normal(100)
    before[4] = 0.0
    after = before.copy()
    after[4] = -0.0

    (measured,) = compare({"w": before}, {"w": after})

    assert measured.changed == 1
    assert measured.looks is not None
    assert measured.looks.word == "bits"


# What a change looks like


def word(measured: list[Measured]) -> str:
    (one,) = measured
    assert one.looks is not None
    return one.looks.word


def test_a_change_of_an_integer_that_float64_rounds_away_is_no_change_of_bits_alone(compare: Compare) -> None:
    before = np.full((64, 64), 2**60, "i8")
    few, all_of_them = before.copy(), before + 1
    few[0, 0] += 1

    words = [compare({"w": before}, {"w": after})[0].looks for after in (few, all_of_them)]

    assert [looks and looks.word for looks in words] == ["sparse", "dense"]


def test_a_few_changed_elements_are_sparse(compare: Compare) -> None:
    before = normal(300, 400)
    after = before.copy()
    after[7, ::3] += 1

    found = compare({"w": before}, {"w": after})

    assert word(found) == "sparse"
    assert found[0].rows == (1, 300)


@pytest.mark.parametrize("dtype", [np.float32, BF16, np.float16])
def test_a_multiple_is_scaled_by_its_factor(compare: Compare, dtype: Any) -> None:
    before = normal(200, 300, dtype=dtype)
    after = (before.astype(np.float32) * 1.37).astype(dtype)

    found = compare({"w": before}, {"w": after})

    assert word(found) == "scaled"
    assert found[0].looks is not None
    assert found[0].looks.factor == pytest.approx(1.37, rel=1e-2)


@pytest.mark.parametrize(
    ("dtype", "rank"), [(np.float32, 1), (np.float32, 8), (np.float32, 64), (BF16, 8), (np.float16, 16)]
)
@pytest.mark.parametrize("shape", [(384, 512), (2000, 300)])
def test_the_rank_of_a_merged_adapter_is_found(compare: Compare, dtype: Any, rank: int, shape: tuple[int, int]) -> None:
    before = normal(*shape, dtype=dtype, scale=0.05)
    update = normal(shape[0], rank) @ normal(rank, shape[1]) * np.float32(0.01 / math.sqrt(rank))
    after = (before.astype(np.float32) + update).astype(dtype)

    (measured,) = compare({"w": before}, {"w": after})

    assert measured.looks is not None
    assert (measured.looks.word, measured.looks.rank) == ("low-rank", rank)


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@pytest.mark.parametrize("step", [1e-5, 1e-3, 0.1])
def test_a_change_of_full_rank_is_dense_however_small(compare: Compare, dtype: Any, step: float) -> None:
    before = normal(400, 400, dtype=dtype)
    after = (before.astype(np.float32) + normal(400, 400, scale=step)).astype(dtype)

    assert word(compare({"w": before}, {"w": after})) in ("dense", "sparse")


def test_the_exact_spectrum_is_that_of_the_change(compare: Compare) -> None:
    before = normal(300, 700)
    after = before + normal(300, 5) @ normal(5, 700)

    (measured,) = compare({"w": before}, {"w": after}, "spectrum")

    want = np.linalg.svd(after.astype("f8") - before, compute_uv=False)
    got = np.array(measured.metrics["spectrum"]["singular_values"])
    assert measured.metrics["spectrum"]["rank"] == 5
    assert np.allclose(got, want, atol=1e-5 * want[0])


def test_estimated_singular_values_are_near_the_exact_ones(compare: Compare) -> None:
    before = normal(500, 700)
    after = before + normal(500, 4) @ normal(4, 700)

    (measured,) = compare({"w": before}, {"w": after})

    want = np.linalg.svd(after - before, compute_uv=False)[:4]
    got = np.array(measured.metrics["sketch"]["singular_values"][:4])
    assert np.allclose(got, want, rtol=0.4)


def test_the_histogram_counts_magnitudes_by_powers_of_two(compare: Compare) -> None:
    before = np.zeros(6, np.float32)
    after = np.array([1, 1.5, -2, 0.25, 0, 0], np.float32)

    (measured,) = compare({"w": before}, {"w": after}, "histogram")

    assert measured.metrics["histogram"]["exponents"] == [[-2, 1], [0, 2], [1, 1]]


def test_every_type_with_values_can_be_turned_into_numbers() -> None:
    for name in ("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float8_e4m3fn", "float8_e5m2"):
        out = np.empty(256)
        values_of(bytes(range(256)), name, out)

        want = np.arange(256).astype("u1").view(getattr(ml_dtypes, name)).astype("f8")
        assert np.array_equal(out, want, equal_nan=True), name
    assert not has_values("gguf_q4_0")


def test_a_spectrum_of_pieces_out_of_order_is_that_of_the_whole() -> None:
    change = normal(8, 6).astype("f8")
    pair = Pair(TensorKind("float32", (8, 6)), TensorKind("float32", (8, 6)))
    parts = []
    for start, stop in ((20, 48), (0, 20)):
        part = Spectrum.of(pair)
        assert part is not None
        run = change.reshape(-1)[start:stop]
        part.feed(Piece(start, run, run, run, np.ones(run.size, bool), run.size))
        parts.append(part)

    parts[0].merge(parts[1])

    assert np.allclose(parts[0].result()["singular_values"], np.linalg.svd(change, compute_uv=False), rtol=1e-5)
