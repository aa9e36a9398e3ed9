"""Make `mergekit.npz`: what mergekit 0.1.5 makes of small random tensors. Run it with a Python that has mergekit:

    python3 -m venv /tmp/venv-mergekit && /tmp/venv-mergekit/bin/pip install mergekit==0.1.5 blake3 xxhash zstandard
    PYTHONPATH=. /tmp/venv-mergekit/bin/python tests/merge/make_golden.py [FILE [ROWS COLUMNS [SEED]]]

Each case is computed by mergekit in float64 and rounded to float32. How far mergekit's own float32 is from that is
printed. Where mergekit draws by chance, it draws our numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods.registry import get

sys.path.insert(0, str(Path(__file__).parent))
from merge_cases import CASES, NAME, SEED, Case

from thetastore.merging.methods.sparsifying import chance


def inputs(rows: int, columns: int, seed: int) -> dict[str, Any]:
    """Return a base, three fine-tunes of it, and one nearly parallel to the first."""
    draw = np.random.default_rng(seed)
    base = draw.standard_normal((rows, columns)).astype("f4")
    sides = {letter: base + (0.1 * draw.standard_normal(base.shape)).astype("f4") for letter in "abc"}
    return {"base": base, **sides, "d": sides["a"] * np.float32(1.001)}


class Draws:
    """Stands in for torch.bernoulli: the n-th call draws for side n."""

    def __init__(self) -> None:
        self.side = 0

    def __call__(self, probabilities: torch.Tensor) -> torch.Tensor:
        draws = chance(NAME, SEED, self.side, probabilities.numel()).astype("f8").reshape(probabilities.shape)
        self.side += 1
        limits = probabilities.double().numpy() * 2.0**32
        return torch.from_numpy(draws < limits).to(probabilities.dtype)


def merged(case: Case, arrays: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return mergekit's result."""
    names = [*(["base"] if case.has_base or case.method == "slerp" else []), *case.sides]
    if case.method == "slerp":
        names = list(case.sides)  # its base is the first of the two
    tensors = [torch.from_numpy(arrays[name]).to(dtype) for name in names]
    base_index = 0 if case.has_base or case.method == "slerp" else None
    group = TensorGroup.from_tensors(tensors, base_index=base_index, name=NAME)
    parameters = {name: value for name, value in case.mergekit.items() if name != "from_base"}
    # Before it draws, mergekit turns everything but bfloat16 into "torch.float32": here that shall lose nothing.
    with patch("torch.bernoulli", Draws()), patch("torch.float32", dtype):
        (result,) = get(case.method)([group], parameters=parameters)
    return result.numpy()


def main(path: str, rows: int = 16, columns: int = 12, seed: int = 1) -> None:
    """Write the file."""
    arrays = inputs(rows, columns, seed)
    found = dict(arrays)
    for case in CASES:
        found[case.name] = merged(case, arrays, torch.float64).astype("f4")
        own = merged(case, arrays, torch.float32)
        worst = np.max(
            np.abs(own.astype("f8") - found[case.name]) / np.spacing(np.maximum(np.abs(own), np.float32(0.1)))
        )
        print(f"{case.name}: float32 is {worst:.1f} units off")
    np.savez(path, **found)
    print(f"{path}: {len(CASES)} cases, {Path(path).stat().st_size} bytes")


if __name__ == "__main__":
    main(
        *(sys.argv[1:2] or [str(Path(__file__).parent / "mergekit.npz")]),
        *(int(word) for word in sys.argv[2:]),
    )
