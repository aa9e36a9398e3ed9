"""Whole recipes, as people publish them: what mergekit makes of them, and what we do."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Work

LAYERS = 5
RECIPES = {
    "gradients by filters": """\
slices:
  - sources:
      - {model: A, layer_range: [0, 5]}
      - {model: B, layer_range: [0, 5]}
merge_method: slerp
base_model: A
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}
    - {filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}
    - value: 0.5
dtype: float32
""",
    "gradients of models": """\
models:
  - {model: B, parameters: {density: [1, 0.7, 0.1], weight: 1.0}}
  - model: C
    parameters:
      density: 0.33
      weight:
        - {filter: mlp, value: [0, 0.3, 0.7, 1]}
        - value: 0.25
merge_method: ties
base_model: A
parameters: {normalize: true, int8_mask: true}
dtype: float32
""",
    "slices of several models": """\
slices:
  - sources:
      - {model: B, layer_range: [0, 2], parameters: {weight: [0.1, 0.9]}}
      - {model: C, layer_range: [3, 5], parameters: {weight: 0.5}}
    parameters: {normalize: false}
  - sources:
      - {model: A, layer_range: [2, 5], parameters: {weight: 1}}
      - {model: C, layer_range: [0, 3], parameters: {weight: [0.2, 0.4, 0.6]}}
merge_method: linear
dtype: float32
""",
    "layers of three models": """\
slices:
  - sources: [{model: B, layer_range: [0, 3]}]
  - sources: [{model: C, layer_range: [1, 5]}]
  - sources: [{model: A, layer_range: [4, 5]}]
merge_method: passthrough
dtype: bfloat16
""",
}


@pytest.mark.deep
@pytest.mark.skipif(
    "THETA_MERGEKIT_PYTHON" not in os.environ, reason="needs a Python with mergekit: see make_golden.py"
)
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_gives_what_mergekit_makes_of_it(work: Work, recipe: str) -> None:
    for number, name in enumerate("ABC"):
        _write_llama(work, name.lower(), number)
        recipe = recipe.replace(f"model: {name}", f"model: {work.path / name.lower()}")
    (work.path / "recipe.yaml").write_text(recipe)

    program = Path(os.environ["THETA_MERGEKIT_PYTHON"]).with_name("mergekit-yaml")
    subprocess.run(
        [program, "recipe.yaml", "theirs"],
        cwd=work.path,
        check=True,
        capture_output=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    work.theta("merge-models", "recipe.yaml", "--output", "ours.safetensors")

    ours, theirs = work.tensors("ours.safetensors"), work.tensors("theirs/model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert ours[name].dtype == array.dtype
        # mergekit mixes in float32, each step rounded.
        np.testing.assert_allclose(ours[name].astype("f8"), array.astype("f8"), rtol=0, atol=1e-6 * abs(array).max())


def _write_llama(work: Work, name: str, seed: int) -> None:
    """Write the smallest model of an architecture that mergekit knows: one base, and what was learned since."""
    attention = {f"self_attn.{part}_proj": (16, 16) for part in "qkvo"}
    mlp = {"mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16), "mlp.down_proj": (16, 24)}
    layer = {**attention, **mlp, "input_layernorm": (16,), "post_attention_layernorm": (16,)}
    shapes: dict[str, Any] = {
        "model.embed_tokens.weight": (32, 16),
        "model.norm.weight": (16,),
        "lm_head.weight": (32, 16),
    }
    shapes |= {f"model.layers.{n}.{part}.weight": shape for n in range(LAYERS) for part, shape in layer.items()}
    base, learned = np.random.default_rng(9), np.random.default_rng(seed)
    tensors = {
        key: (base.standard_normal(shape) + (0.2 * learned.standard_normal(shape) if seed else 0)).astype("f4")
        for key, shape in shapes.items()
    }
    (work.path / name).mkdir()
    work.write(tensors, f"{name}/model.safetensors")
    (work.path / name / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": LAYERS,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 32,
                "tie_word_embeddings": False,
            }
        )
    )
