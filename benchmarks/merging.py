"""Merges of two models against mergekit: time, CPU time and memory of whole commands, on the same files.

    python -m benchmarks.merging --mergekit /tmp/venv-mergekit/bin/mergekit-yaml --size-mb 400

The models are Llamas of random float32 weights, since mergekit has to know an architecture. Without --mergekit only
ours is measured. The contenders take turns; the best and the median of the runs are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import run, timed

METHODS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"weight": 1.0},
    "task_arithmetic": {"weight": 0.5},
    "ties": {"weight": 0.5, "density": 0.5},
    "slerp": {},
}


def shapes(size_mb: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama of about so many megabytes in float32, of one layer at least."""
    intermediate, vocabulary = hidden * 11 // 4, hidden * 16
    layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, hidden),
        "self_attn.v_proj": (hidden, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    found |= {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    layer_bytes = 4 * sum(int(np.prod(shape)) for shape in layer.values())
    left = size_mb * 10**6 - 8 * vocabulary * hidden
    for number in range(max(1, round(left / layer_bytes))):
        found |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return found


def write_model(place: Path, wanted: dict[str, tuple[int, ...]], seed: int) -> int:
    """Write a model's directory; return the bytes of its weights."""
    place.mkdir(parents=True)
    header, at = {}, 0
    for name, shape in wanted.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    layers = len({name.split(".")[2] for name in wanted if ".layers." in name})
    vocabulary, hidden = wanted["lm_head.weight"]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "vocab_size": vocabulary,
        "intermediate_size": hidden * 11 // 4, "num_hidden_layers": layers, "num_attention_heads": 16,
        "num_key_value_heads": 16, "torch_dtype": "float32", "tie_word_embeddings": False,
    }  # fmt: skip
    (place / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(seed)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (place / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape in wanted.values():
            stream.write(draw.standard_normal(shape, dtype=np.float32).tobytes())
    return at


def recipe(method: str, directory: Path) -> str:
    """Return a recipe for both programs."""
    parameters = METHODS[method]
    lines = [f"merge_method: {method}", "dtype: float32", "models:"]
    listed = ["a", "b"] if method in ("linear", "slerp") else ["base", "a", "b"]
    for name in listed:
        lines.append(f"  - model: {directory / name}")
        if parameters and name != "base":
            lines += ["    parameters:", *(f"      {key}: {value}" for key, value in parameters.items())]
    if method != "linear":
        lines.append(f"base_model: {directory / ('a' if method == 'slerp' else 'base')}")
    if method == "slerp":
        lines.append("parameters: {t: 0.5}")
    return "\n".join(lines) + "\n"


def measure(directory: Path, method: str, mergekit: str | None, repeats: int) -> dict[str, Any]:
    """Run the contenders in turns; return their times."""
    path = directory / f"{method}.yaml"
    path.write_text(recipe(method, directory))
    out = directory / "out"
    ours = [os.path.join(os.path.dirname(sys.executable), "git-theta"), "merge-models", str(path)]
    contenders: dict[str, Sequence[str]] = {"git-theta": [*ours, "--output", f"{out}.safetensors", "--force"]}
    if mergekit:
        contenders["mergekit"] = [mergekit, str(path), str(out), "--no-copy-tokenizer", "--quiet"]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    taken: dict[str, list[Any]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, command in contenders.items():
            shutil.rmtree(out, ignore_errors=True)
            taken[name].append(timed(command, directory, env))
    agree = _largest_difference(directory, out) if mergekit else None
    return {
        "method": method,
        "largest_difference": agree,
        **{
            name: {
                "best_s": min(one.elapsed_s for one in runs),
                "median_s": statistics.median(one.elapsed_s for one in runs),
                "cpu_s": statistics.median(one.cpu_s for one in runs),
            }
            for name, runs in taken.items()
        },
    }


def _largest_difference(directory: Path, out: Path) -> float:
    """Return by how much any element of the two results differs: they must have done the same work."""
    from thetastore.merging.checkpoints import FileCheckpoint, open_path

    mine, other = FileCheckpoint(str(directory / "out.safetensors")), open_path(str(out))
    worst = 0.0
    for name, tensor in mine.tensors.items():
        one, two = (np.frombuffer(side.read(name, 0, tensor.raw_bytes), "f4") for side in (mine, other))
        worst = max(worst, float(np.abs(one - two).max()))
    mine.close()
    other.close()
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", help="path of the program mergekit-yaml")
    parser.add_argument("--size-mb", type=int, default=400)
    parser.add_argument("--hidden", type=int, default=1024, help="width of a layer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--methods", default="linear")
    parser.add_argument("--json", help="write results to this file, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        wanted = shapes(options.size_mb, options.hidden)
        sizes = [write_model(directory / name, wanted, seed) for seed, name in enumerate(("base", "a", "b"))]
        size = sizes[0]
        run(["sync"], directory, os.environ)
        print(f"models of {size / 1e6:.0f} MB, {len(wanted)} tensors, float32, best of {options.repeats} (median; CPU)")
        results = [
            measure(directory, method, options.mergekit, options.repeats) for method in options.methods.split(",")
        ]
    for result in results:
        for name in ("git-theta", "mergekit"):
            if name in result:
                one = result[name]
                words = f"{one['best_s']:6.2f} s ({one['median_s']:.2f} s; {one['cpu_s']:.2f} s)"
                print(f"{result['method']:16} {name:10} {words}")
        if result["largest_difference"] is not None:
            print(f"{result['method']:16} the results differ by {result['largest_difference']:.1e} at most")
    if options.json:
        Path(options.json).write_text(json.dumps({"size_bytes": size, "results": results}, indent=1))


if __name__ == "__main__":
    main()
