"""The blocks of docs/python.md run as they stand there, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import gitbridge

GUIDE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_blocks_of_the_guide_run(make_work, tmp_path, monkeypatch, capsys):
    work = make_work("repository")
    work.commit("start")
    random = np.random.default_rng(1)
    state = {
        "layers.0.weight": random.standard_normal((300, 500)).astype(np.float32),
        "layers.0.bias": random.standard_normal(300).astype(np.float32),
        "layers.1.weight": random.standard_normal((300, 500)).astype(np.float32),
    }
    gitbridge.commit(state, "model.safetensors", "first", "release", repository=work.path)
    work.git("tag", "v1.0", "release")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}

    for number, block in enumerate(BLOCK.findall(GUIDE.read_text())):
        exec(compile(block, f"{GUIDE.name}, block {number}", "exec"), names)

    assert np.array_equal(names["state"]["layers.0.weight"], state["layers.0.weight"])
    assert np.array_equal(names["bias"], state["layers.0.bias"])
    assert np.array_equal(names["part"], state["layers.0.weight"][-10:, ::2])
    assert "did you mean 'layers.0.weight'" in capsys.readouterr().out
