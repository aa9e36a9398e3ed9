"""Train MiniLM for real and write what comes out: needs torch, and nothing of ours.

    PYTHON-WITH-TORCH training.py BASE.safetensors DIRECTORY < runs.json

Sentences that stand next to each other in a paragraph are drawn together, those of other paragraphs apart (InfoNCE,
temperature 0.05), with AdamW and weight decay 0.01, as sentence transformers are trained. The text is what every
Python carries, the language reference of `pydoc`. Words become token ids by their checksum, not by MiniLM's vocabulary:
frequencies, and with them which rows of the embedding move how often, are those of English.

A run is `{"name", "seed", "lr", "rank", "saves": {"FILE": step, ...}}`. With a rank, query and value matrices get a
low-rank update (LoRA, alpha = 2 rank), everything else stays, and the merged model is written. A file whose name has
`bf16` in it is rounded to that. Files that exist are not made again.
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
import time
import zlib
from pydoc_data import topics
from typing import Any

import torch
from torch.nn import functional

HEADS = 12
PAIRS, TOKENS = 4, 16
WORD_IDS = range(1000, 30522)
LN_EPSILON = 1e-12

Weights = dict[str, torch.Tensor]


def read(path: str) -> Weights:
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start = file.tell()
        header.pop("__metadata__", None)
        weights = {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            dtype = {"F32": torch.float32, "I64": torch.int64}[entry["dtype"]]
            weights[name] = torch.frombuffer(bytearray(file.read(end - begin)), dtype=dtype).reshape(entry["shape"])
    return weights


def write(path: str, weights: Weights) -> None:
    """Write a safetensors file as the library does: aligned, the header padded with spaces."""
    codes = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
    if "bf16" in os.path.basename(path):
        weights = {name: w.bfloat16() if w.dtype == torch.float32 else w for name, w in weights.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in weights.items():
        nbytes = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": codes[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + nbytes],
        }
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{path}.part", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in weights.values():
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    os.replace(f"{path}.part", path)


def sentences() -> list[list[list[int]]]:
    """Return paragraphs of sentences of token ids."""
    paragraphs = []
    for text in topics.topics.values():
        for block in text.split("\n\n"):
            found = [re.findall(r"[a-z]+|[^\sa-z]", part.lower()) for part in re.split(r"(?<=[.:;])\s", block)]
            coded = [[WORD_IDS[zlib.crc32(word.encode()) % len(WORD_IDS)] for word in words] for words in found]
            coded = [ids for ids in coded if len(ids) >= 6]
            if len(coded) >= 2:
                paragraphs.append(coded)
    return paragraphs


def batch(paragraphs: list[list[list[int]]], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of PAIRS sentences, and below them of those that follow each."""
    ids = torch.zeros(2 * PAIRS, TOKENS, dtype=torch.int64)
    for row, at in enumerate(torch.randint(len(paragraphs), (PAIRS,), generator=generator).tolist()):
        paragraph = paragraphs[at]
        first = int(torch.randint(len(paragraph) - 1, (1,), generator=generator))
        for place, words in ((row, paragraph[first]), (row + PAIRS, paragraph[first + 1])):
            tokens = [101, *words[: TOKENS - 2], 102]
            ids[place, : len(tokens)] = torch.tensor(tokens)
    return ids, ids != 0


def embed(w: Weights, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The forward pass of BERT, mean pooling, length 1."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], LN_EPSILON)

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in w:
        at = f"encoder.layer.{layer}"
        query, key, value = (heads(linear(x, f"{at}.attention.self.{name}")) for name in ("query", "key", "value"))
        seen = functional.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        seen = seen.transpose(1, 2).reshape(x.shape)
        x = norm(x + linear(seen, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = functional.gelu(linear(x, f"{at}.intermediate.dense"))
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        layer += 1
    pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return functional.normalize(pooled, dim=-1)


class Lora:
    """Low-rank updates of query and value matrices, beside weights that stay."""

    def __init__(self, base: Weights, rank: int) -> None:
        self._base = base
        self._scale = 2.0
        names = [name for name in base if name.endswith(("self.query.weight", "self.value.weight"))]
        self._downs = {name: (torch.randn(rank, base[name].shape[1]) * 0.02).requires_grad_() for name in names}
        self._ups = {name: torch.zeros(base[name].shape[0], rank).requires_grad_() for name in names}
        self.trained = [*self._downs.values(), *self._ups.values()]

    def weights(self) -> Weights:
        updates = {name: self._scale * (self._ups[name] @ down) for name, down in self._downs.items()}
        return self._base | {name: self._base[name] + update for name, update in updates.items()}


class Full:
    """All weights move."""

    def __init__(self, base: Weights) -> None:
        self._weights = {name: w.clone().requires_grad_(w.is_floating_point()) for name, w in base.items()}
        self.trained = [w for w in self._weights.values() if w.requires_grad]

    def weights(self) -> Weights:
        return self._weights


def train(base: Weights, directory: str, run: dict[str, Any], paragraphs: list[list[list[int]]]) -> None:
    saves = {path: step for path, step in run["saves"].items() if not os.path.exists(os.path.join(directory, path))}
    if not saves:
        return
    torch.manual_seed(run["seed"])
    generator = torch.Generator().manual_seed(run["seed"])
    model = Lora(base, run["rank"]) if run.get("rank") else Full(base)
    optimizer = torch.optim.AdamW(model.trained, lr=run["lr"], weight_decay=0.01, fused=True)
    started_s = time.time()
    loss = torch.zeros(())
    for step in range(1, max(saves.values()) + 1):
        ids, mask = batch(paragraphs, generator)
        vectors = embed(model.weights(), ids, mask)
        scores = vectors[:PAIRS] @ vectors[PAIRS:].T / 0.05
        loss = functional.cross_entropy(scores, torch.arange(PAIRS))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for path in (path for path, at in saves.items() if at == step):
            with torch.no_grad():
                write(os.path.join(directory, path), model.weights())
    print(f"{run['name']}: {step} steps, loss {loss.item():.3f}, {time.time() - started_s:.0f} s", file=sys.stderr)


def main() -> None:
    base_path, directory = sys.argv[1:]
    torch.set_num_threads(1)  # sums are added in one order, and nothing waits for a processor that others have
    base, paragraphs = read(base_path), sentences()
    for run in json.load(sys.stdin):
        train(base, directory, run, paragraphs)


if __name__ == "__main__":
    main()
