"""The suite that every merge method has to pass, and what is particular to this one."""

from __future__ import annotations

import numpy as np
from theta_median import METHOD

from thetastore.merging import Inputs, Method
from thetastore.testing.merge_methods import MergeMethodConformance


class TestMedian(MergeMethodConformance):
    def make_method(self) -> Method:
        return METHOD


def test_one_outlier_of_three_changes_nothing() -> None:
    base = np.zeros(3)
    sides = (base + 1, base + 1, base + 1000)

    assert METHOD.merge is not None
    assert METHOD.merge(Inputs("w", base, sides, {"keep": 1.0})).tolist() == [1, 1, 1]
