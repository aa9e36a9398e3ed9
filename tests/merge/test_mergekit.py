"""Our methods against mergekit's, by golden vectors that `make_golden.py` wrote; docs/merge.md has the deviations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thetastore.merging import Inputs
from thetastore.merging.registry import find_method, parameter_values

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from merge_cases import CASES, NAME, SEED, Case  # noqa: E402

GOLDEN = HERE / "mergekit.npz"


def ours(case: Case, arrays: Any) -> Any:
    method = find_method(case.method)
    sides = tuple(arrays[letter].astype("f8") for letter in case.sides)
    base = arrays["base"].astype("f8") if case.has_base else None
    values = parameter_values(method, case.ours, len(sides))
    assert method.merge is not None
    return method.merge(Inputs(NAME, base, sides, values, SEED)).astype("f4")


def check(case: Case, arrays: Any) -> None:
    expected, found = arrays[case.name], ours(case, arrays)
    taking_part = [arrays[name] for name in case.sides] + [arrays["base"]] * case.has_base
    # Where numbers cancel out, what is left has the error of what there was.
    scale = np.max(np.abs([expected, found, *taking_part]), axis=0).astype("f4")

    assert np.max(np.abs(found.astype("f8") - expected.astype("f8")) / np.spacing(scale)) <= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32_agrees_with_mergekit_to_one_unit_in_the_last_place(case: Case) -> None:
    with np.load(GOLDEN) as arrays:
        check(case, arrays)


def test_the_golden_file_is_small_and_has_no_case_that_is_not_tested() -> None:
    with np.load(GOLDEN) as arrays:
        names = {name for name in arrays if ":" in name}

    assert names == {case.name for case in CASES}
    assert GOLDEN.stat().st_size < 100_000


@pytest.mark.deep
@pytest.mark.skipif(
    "THETA_MERGEKIT_PYTHON" not in os.environ, reason="needs a Python with mergekit: see make_golden.py"
)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1000), (512, 300), (1000, 2)])
def test_larger_tensors_agree_with_the_installed_mergekit(tmp_path: Path, rows: int, columns: int) -> None:
    path = tmp_path / "oracle.npz"
    command = [os.environ["THETA_MERGEKIT_PYTHON"], HERE / "make_golden.py", path, str(rows), str(columns), "2"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(HERE.parents[1])})

    with np.load(path) as arrays:
        for case in CASES:
            check(case, arrays)
