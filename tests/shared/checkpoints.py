"""Safetensors files by what the document of the format says, without any code of ours: what other tests begin with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}
Arrays = Mapping[str, np.ndarray[Any, Any]]


def safetensors_bytes(arrays: Arrays, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a file with tensors in the order given; its header is padded, as the reference implementation does."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, array in arrays.items():
        span = [at, at + array.nbytes]
        header[name] = {"dtype": CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": span}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())


def read_safetensors(raw: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a file."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    types = {code: np.dtype(getattr(ml_dtypes, name, None) or name) for name, code in CODES.items()}
    found = {}
    for name, one in header.items():
        start, stop = (8 + size + offset for offset in one["data_offsets"])
        found[name] = np.frombuffer(raw[start:stop], types[one["dtype"]]).reshape(one["shape"])
    return found
