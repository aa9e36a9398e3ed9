"""Weights to measure with, made by script: transformer checkpoints of any size, distributed as in real models.

Values are drawn in fp32 from a normal distribution whose scale is that of the tensor (1 / sqrt(fan_in), times a
factor of the tensor's own), norms lie around 1, and bf16 is made by rounding: fp32 weights that once were bf16 would
compress far better than real ones do. A file depends on its parameters alone, is made in blocks (memory stays under
100 MB), and is kept, because a 4 GB file takes half a minute to draw.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RECIPE = 1
"""Part of the names of kept files: raised when the same parameters would give other bytes."""

BLOCK_ELEMENTS = 4 << 20
_LAYERS = 11
_VOCABULARY = 32_000
_CODES = {"float32": ("F32", 4), "bfloat16": ("BF16", 2)}


class Place(NamedTuple):
    """Where a tensor lies in a safetensors file."""

    name: str
    code: str
    """dtype as safetensors spells it."""
    shape: tuple[int, ...]
    offset: int
    """From the start of the file."""
    raw_bytes: int


def transformer(directory: Path, size_mb: int, dtype: str, seed: int) -> Path:
    """Return a safetensors file of about `size_mb` (10^6 bytes) with 101 tensors; made at the first call."""
    code, width = _CODES[dtype]
    path = directory / f"transformer-{size_mb}mb-{dtype}-seed{seed}-r{RECIPE}.safetensors"
    if path.exists():
        return path
    shapes = _shapes(size_mb * 1_000_000 // width)
    directory.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(_header({name: (code, shape, width * math.prod(shape)) for name, shape in shapes.items()}))
        for number, (name, shape) in enumerate(shapes.items()):
            generator = np.random.Generator(np.random.SFC64([seed, number]))
            for block in _draw(generator, name, shape):
                file.write((block if width == 4 else round_to_bf16(block)).data)
    os.replace(part, path)
    return path


def changed(source: Path, target: Path, seed: int) -> Place:
    """Copy a checkpoint with one tensor of typical size moved a little, as by training; return which."""
    shutil.copyfile(source, target)
    places = [place for place in read_places(source) if len(place.shape) == 2]
    place = sorted(places, key=lambda candidate: candidate.raw_bytes)[len(places) // 2]
    generator = np.random.Generator(np.random.SFC64([seed, 1_000_003]))
    with target.open("r+b") as file:
        file.seek(place.offset)
        weights = as_fp32(file.read(place.raw_bytes), place.code)
        weights += generator.standard_normal(weights.shape, dtype=np.float32) * np.float32(0.02 * weights.std())
        file.seek(place.offset)
        file.write(weights.tobytes() if place.code == "F32" else round_to_bf16(weights).tobytes())
    return place


def bf16_copy(source: Path, target: Path) -> Path:
    """Write an fp32 checkpoint again with all of its fp32 tensors rounded to bf16; other tensors stay."""
    if target.exists():
        return target
    places = sorted(read_places(source), key=lambda place: place.offset)
    entries = {p.name: ("BF16", p.shape, p.raw_bytes // 2) if p.code == "F32" else (p.code, p.shape, p.raw_bytes)
               for p in places}  # fmt: skip
    part = target.with_suffix(".part")
    with source.open("rb") as file, part.open("wb") as sink:
        sink.write(_header(entries))
        for place in places:
            file.seek(place.offset)
            raw = file.read(place.raw_bytes)
            sink.write(round_to_bf16(np.frombuffer(raw, np.float32)).tobytes() if place.code == "F32" else raw)
    os.replace(part, target)
    return target


def small_files(directory: Path, count: int, nbytes: int, seed: int) -> Path:
    """Return a directory of `count` safetensors files of about `nbytes` each, with four tensors in each."""
    target = directory / f"small-{count}x{nbytes}-seed{seed}-r{RECIPE}"
    if target.exists():
        return target
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for number in range(count):
        _write_small_file(part / f"adapter-{number:04}.safetensors", nbytes, np.random.SFC64([seed, number]))
    part.rename(target)
    return target


def _write_small_file(path: Path, nbytes: int, bits: np.random.SFC64) -> None:
    names = [f"layers.{layer}.lora_{side}.weight" for layer in (0, 1) for side in "AB"]
    each = (nbytes - 400) // 16
    values = np.random.Generator(bits).standard_normal(4 * each, dtype=np.float32) * np.float32(0.02)
    path.write_bytes(_header(dict.fromkeys(names, ("F32", (each,), 4 * each))) + values.tobytes())


def read_places(path: Path) -> list[Place]:
    """List the tensors of a safetensors file in the order of the file."""
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    start = 8 + header_bytes
    places = [
        Place(name, at["dtype"], tuple(at["shape"]), start + at["data_offsets"][0],
              at["data_offsets"][1] - at["data_offsets"][0])
        for name, at in header.items() if name != "__metadata__"
    ]  # fmt: skip
    return sorted(places, key=lambda place: place.offset)


def as_fp32(raw: bytes, code: str) -> npt.NDArray[np.float32]:
    """Return the values of fp32 or bf16 bytes in an array of their own."""
    if code == "F32":
        return np.frombuffer(raw, np.float32).copy()
    return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)


def round_to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return the bits of the nearest bfloat16, ties to even; values must be finite."""
    bits = values.reshape(-1).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _shapes(element_count: int) -> dict[str, tuple[int, ...]]:
    """A decoder of 11 layers; the vocabulary takes what the layers leave, so that sizes are as awkward as real ones."""
    width = 64
    while _VOCABULARY * width + _LAYERS * 12 * width * width < element_count:
        width += 64
    inner = 64 * round(width * 8 / 3 / 64)
    vocabulary = max(1, (element_count - _LAYERS * (4 * width + 3 * inner) * width) // width)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        shapes[f"{prefix}input_layernorm.weight"] = (width,)
        for projection in "qkvo":
            shapes[f"{prefix}self_attn.{projection}_proj.weight"] = (width, width)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (width,)
        shapes[f"{prefix}mlp.gate_proj.weight"] = (inner, width)
        shapes[f"{prefix}mlp.up_proj.weight"] = (inner, width)
        shapes[f"{prefix}mlp.down_proj.weight"] = (width, inner)
    shapes["model.norm.weight"] = (width,)
    return shapes


def _draw(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.float32]]:
    scale = np.float32(math.exp(generator.normal(0, 0.3)) / math.sqrt(shape[-1]))
    left = math.prod(shape)
    while left:
        block = generator.standard_normal(min(left, BLOCK_ELEMENTS), dtype=np.float32)
        if name.endswith("norm.weight"):
            block *= np.float32(0.1)
            block += np.float32(1)
        else:
            block *= scale
        yield block
        left -= block.size


def _header(entries: dict[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """A safetensors header, padded with spaces to a multiple of 8 as the reference writer does."""
    offset = 0
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, (code, shape, raw_bytes) in entries.items():
        table[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, offset + raw_bytes]}
        offset += raw_bytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
