"""Element types by name: how wide an element is, and what its bits mean.

The names are those of numpy, ml_dtypes and torch (`float32`, `bfloat16`, `float8_e4m3fn`). A name is
released once it has been written to a pointer: it is never reused or redefined. Elements are
little-endian in every format that we read; a format with big-endian elements says so by a name of
its own (`float32_be`), because the bytes differ.
"""

from __future__ import annotations

from typing import NamedTuple


class Dtype(NamedTuple):
    """One element type."""

    name: str
    bits: int
    """Width of an element in bits; under 8 for packed types."""
    kind: str
    """One of `float`, `int`, `bool`, `complex`, `block`, `bytes`."""


_FLOATS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
    "float4_e2m1fn": 4,
}
_INTS = {"int8": 8, "uint8": 8, "int16": 16, "uint16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64}

DTYPES: dict[str, Dtype] = {
    **{name: Dtype(name, bits, "float") for name, bits in _FLOATS.items()},
    **{name: Dtype(name, bits, "int") for name, bits in _INTS.items()},
    "bool": Dtype("bool", 8, "bool"),
    "complex64": Dtype("complex64", 64, "complex"),
    "complex128": Dtype("complex128", 128, "complex"),
}
"""Every element type by its name."""


def raw_bytes_of(dtype: str, element_count: int) -> int:
    """Return how many bytes `element_count` packed elements take, rounded up to a whole byte.

    Raises:
        KeyError: the name is not in `DTYPES`.
    """
    return (DTYPES[dtype].bits * element_count + 7) // 8
