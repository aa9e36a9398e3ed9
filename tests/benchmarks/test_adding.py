"""The benchmark of bases and threads runs, and what it prints of bytes is so."""

from __future__ import annotations

import numpy as np

from benchmarks.adding import WAYS, file_of, measure, table
from benchmarks.difference import changed


def test_each_way_has_a_row_and_the_base_is_found_by_those_that_have_it() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 0.02, (600, 400)).astype(np.float32)
    base = {"layer": ("float32", values.shape, values.tobytes())}
    version = {"layer": ("float32", values.shape, changed(base["layer"], "layer", "sparse", rng))}

    rows = measure("sparse", file_of(version), base, 1)

    assert [row["beside"] for row in rows] == [way.name for way in WAYS]
    for way, row in zip(WAYS, rows, strict=True):
        assert (row["ratio"] < 0.1) is (way.others < 0)
    assert table(rows).count("sparse") == len(WAYS)
