"""Make peft.npz, what PEFT merges: run it where torch, transformers and peft are installed.

    python tests/updates/make_peft_golden.py

Each case has the tensors that its adapter may change, before and after `merge_and_unload`, and the adapter as
`save_pretrained` writes it. Of what was merged there are digests; where norms are involved, also the bits that differ.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from hashlib import sha256

import numpy as np
import peft
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

LORA = {"r": 4, "lora_alpha": 8}
CASES = {
    "lora": LoraConfig(target_modules=["q", "k"], **LORA),
    "rslora": LoraConfig(target_modules=["q"], use_rslora=True, **LORA),
    "patterns": LoraConfig(
        target_modules=["q", "k"], rank_pattern={"k": 2}, alpha_pattern={"inner.k": 32, "^q$": 1}, **LORA
    ),
    "fan-in-fan-out": LoraConfig(target_modules=["c"], fan_in_fan_out=True, **LORA),
    "embedding": LoraConfig(target_modules=["emb"], **LORA),
    "conv": LoraConfig(target_modules=["conv", "point"], **LORA),
    "bias": LoraConfig(target_modules=["q"], bias="lora_only", **LORA),
    "lora-bias": LoraConfig(target_modules=["q"], lora_bias=True, **LORA),
    "dora": LoraConfig(target_modules=["q"], use_dora=True, **LORA),
    "dora-fan-in-fan-out": LoraConfig(target_modules=["c"], use_dora=True, fan_in_fan_out=True, **LORA),
    "dora-conv": LoraConfig(target_modules=["conv"], use_dora=True, **LORA),
    "dora-embedding": LoraConfig(target_modules=["emb"], use_dora=True, **LORA),
    "ia3": IA3Config(target_modules=["q", "k"], feedforward_modules=["k"]),
    "ia3-fan-in-fan-out": IA3Config(target_modules=["c"], feedforward_modules=[], fan_in_fan_out=True),
    "ia3-conv": IA3Config(target_modules=["conv", "point"], feedforward_modules=["point"]),
    "ia3-groups": IA3Config(target_modules=["conv", "depth"], feedforward_modules=["conv", "depth"]),
    "modules-to-save": LoraConfig(target_modules=["q"], modules_to_save=["head"], **LORA),
    "bfloat16": LoraConfig(target_modules=["q", "emb"], **LORA),
    "bfloat16-dora": LoraConfig(target_modules=["q"], use_dora=True, **LORA),
    "bfloat16-ia3": IA3Config(target_modules=["q"], feedforward_modules=[]),
    "float16": LoraConfig(target_modules=["q"], **LORA),
}


class Inner(torch.nn.Module):
    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.q = torch.nn.Linear(width, height)
        self.k = torch.nn.Linear(width, height)


class Model(torch.nn.Module):
    def __init__(self, width: int = 24, height: int = 32) -> None:
        super().__init__()
        self.emb = torch.nn.Embedding(height, width)
        self.inner = Inner(width, height)
        self.c = Conv1D(height, width)
        self.conv = torch.nn.Conv2d(8, 12, 3)
        self.point = torch.nn.Conv2d(16, 16, 1)
        self.head = torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.q(self.emb(x))


class Groups(torch.nn.Module):
    def __init__(self, width: int = 24, height: int = 32) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(8, 6, 3, groups=2)
        self.depth = torch.nn.Conv2d(4, 4, 3, groups=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


MODELS = {"ia3-groups": Groups}


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().view(torch.uint8).numpy().view(f"u{tensor.element_size()}")


def make(name: str, width: int = 24, height: int = 32) -> dict[str, np.ndarray]:
    torch.manual_seed(7)
    dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name.partition("-")[0], torch.float32)
    kind = MODELS.get(name, Model)
    model = kind(width, height).to(dtype)
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    adapted = get_peft_model(model, CASES[name])
    for key, value in adapted.named_parameters():
        if any(part in key for part in ("lora_", "ia3_l", "modules_to_save")) or value.requires_grad:
            value.data += (torch.randn(value.shape) * 0.1).to(value.dtype)
    out: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as directory:
        adapted.save_pretrained(directory)
        fresh = kind(width, height).to(dtype)
        fresh.load_state_dict(before)
        merged = PeftModel.from_pretrained(fresh, directory).merge_and_unload().state_dict()
        for key, value in load_file(os.path.join(directory, "adapter_model.safetensors")).items():
            out[f"{name}|adapter|{value.dtype}|{key}"] = bits(value)
        with open(os.path.join(directory, "adapter_config.json"), "rb") as stream:
            config = {key: value for key, value in json.load(stream).items() if value is not None}
            config["target_modules"].sort()  # written from a set, in another order each time
            out[f"{name}|config"] = np.frombuffer(json.dumps(config).encode(), "u1")
    for key, value in merged.items():
        if not torch.equal(value, before[key]):
            base = "base" if kind is Model else f"{name}|base"
            out[f"{base}|{value.dtype}|{key}"] = bits(before[key])
            out[f"{name}|sha256|{value.dtype}|{key}"] = np.frombuffer(sha256(bits(value).tobytes()).digest(), "u1")
            if "dora" in name:
                out[f"{name}|xor|{value.dtype}|{key}"] = bits(value) ^ bits(before[key])
    return out


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    found: dict[str, np.ndarray] = {}
    sizes = [int(size) for size in sys.argv[2:4]]
    for name in CASES:
        found |= make(name, *sizes)
    found["versions"] = np.frombuffer(f"peft {peft.__version__}, torch {torch.__version__}".encode(), "u1")
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "peft.npz")
    np.savez_compressed(path, **found)  # type: ignore[arg-type]
    print(path, os.path.getsize(path), "bytes")
