"""The median of each element: what more than half of the sides moved, moves, and one outlier changes nothing.

This is all of a plug-in. `METHOD` is what the entry point in pyproject.toml names; after `pip install .` it is there:

    git config theta.merge.method 'median keep=0.5'

A method is a function of numbers. It gets one float array a side (never write to them), and returns one of the same
shape and dtype. Dtypes, rounding, NaN, vocabularies, files: all that is done around it. What it raises stops the merge
and names the method; raise `MergeError` where the user can do something about it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thetastore.merging import Inputs, Method, Parameter


def _median(inputs: Inputs) -> Any:
    assert inputs.base is not None  # needs_base=True sees to it
    delta = np.median([side - inputs.base for side in inputs.sides], axis=0)
    return (inputs.base + delta * inputs.values["keep"]).astype(inputs.base.dtype)


METHOD = Method(
    name="median",
    merge=_median,
    parameters=(Parameter("keep", 1.0, least=0.0, most=1.0),),
    needs_base=True,
    least_sides=2,
    is_elementwise=True,
)
