"""The suite that every update type has to pass, and what is particular to this one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from theta_loha import PARTS, TYPE

from thetastore.checkpoints.compose import NewTensor, safetensors_source
from thetastore.testing.updates import ArraysBase, UpdateTypeConformance

ROWS, COLUMNS, RANK, ALPHA = 12, 10, 3, 6.0


def base() -> dict[str, Any]:
    draw = np.random.default_rng(1)
    return {"q.weight": draw.standard_normal((ROWS, COLUMNS)).astype("f4"), "q.bias": np.zeros(ROWS, "f4")}


def factors() -> dict[str, Any]:
    draw = np.random.default_rng(2)
    shapes = ((ROWS, RANK), (RANK, COLUMNS)) * 2
    return {part: draw.standard_normal(shape).astype("f4") for part, shape in zip(PARTS, shapes, strict=True)}


def write(path: str, base: Mapping[str, Any], module: str = "q") -> None:
    os.mkdir(path)
    with open(os.path.join(path, "adapter_config.json"), "w", encoding="utf-8") as stream:
        json.dump({"peft_type": "LOHA", "alpha": ALPHA, "alpha_pattern": {}}, stream)
    tensors = [
        NewTensor(f"base_model.model.{module}.{part}", "float32", array.shape, lambda array=array: iter([array.data]))
        for part, array in factors().items()
    ]
    with open(os.path.join(path, "adapter_model.safetensors"), "wb") as stream:
        safetensors_source(tensors).write_to(stream.fileno())


def write_for_another(path: str) -> None:
    write(path, {}, "nobody")


class TestLoha(UpdateTypeConformance):
    update_type = TYPE
    base = staticmethod(base)
    write = staticmethod(write)
    write_for_another = staticmethod(write_for_another)


def test_a_weight_becomes_what_the_formula_says(tmp_path: Any) -> None:
    write(str(tmp_path / "adapter"), base())
    parts = [factors()[part].astype("f8") for part in PARTS]
    wanted = base()["q.weight"] + ALPHA / RANK * (parts[0] @ parts[1]) * (parts[2] @ parts[3])

    adapter = TYPE.open(str(tmp_path / "adapter"), ArraysBase(base()))

    raw = b"".join(adapter.changes["q.weight"].pieces())
    np.testing.assert_allclose(np.frombuffer(raw, "f4").reshape(ROWS, COLUMNS), wanted, rtol=1e-5, atol=1e-5)
