"""Element types by name: how wide an element is, and what its bits mean.

The names are those of numpy, ml_dtypes and torch (`float32`, `bfloat16`, `float8_e4m3fn`). A name is
released once it has been written to a pointer: it is never reused or redefined. Elements are
little-endian in every format that we read; a format with big-endian elements says so by a name of
its own (`float32_be`), because the bytes differ.
"""

from __future__ import annotations

from typing import NamedTuple

BIG_ENDIAN = "_be"
"""Ends the names of elements whose highest byte is first in the file."""


class Dtype(NamedTuple):
    """One element type."""

    name: str
    bits: int
    """Width of an element in bits; under 8 for packed types. Of kind `block`: width of a whole block."""
    kind: str
    """One of `float`, `int`, `bool`, `complex`, `block`, `bytes`; `bytes`: codecs see nothing but bytes."""
    block_elements: int = 1
    """Elements that are coded together. More than 1 only for kind `block`: a single element has no bytes of its own."""


_FLOATS = {
    "float64": 64,
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
    "float8_e4m3": 8,
    "float8_e4m3b11fnuz": 8,
    "float8_e3m4": 8,
    "float8_e8m0fnu": 8,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
    "float4_e2m1fn": 4,
}
_INTS = {
    "int64": 64,
    "int32": 32,
    "int16": 16,
    "int8": 8,
    "int4": 4,
    "int2": 2,
    "uint64": 64,
    "uint32": 32,
    "uint16": 16,
    "uint8": 8,
    "uint4": 4,
    "uint2": 2,
}
_COMPLEX = {"complex32": 32, "complex64": 64, "complex128": 128}

_GGUF_BLOCKS = {
    # name: elements and bytes of a block
    "gguf_q1_0": (128, 18),
    "gguf_q4_0": (32, 18),
    "gguf_q4_1": (32, 20),
    "gguf_q5_0": (32, 22),
    "gguf_q5_1": (32, 24),
    "gguf_q8_0": (32, 34),
    "gguf_q8_1": (32, 40),
    "gguf_q2_k": (256, 84),
    "gguf_q3_k": (256, 110),
    "gguf_q4_k": (256, 144),
    "gguf_q5_k": (256, 176),
    "gguf_q6_k": (256, 210),
    "gguf_q8_k": (256, 292),
    "gguf_iq1_s": (256, 50),
    "gguf_iq1_m": (256, 56),
    "gguf_iq2_xxs": (256, 66),
    "gguf_iq2_xs": (256, 74),
    "gguf_iq2_s": (256, 82),
    "gguf_iq3_xxs": (256, 98),
    "gguf_iq3_s": (256, 110),
    "gguf_iq4_nl": (32, 18),
    "gguf_iq4_xs": (256, 136),
    "gguf_tq1_0": (256, 54),
    "gguf_tq2_0": (256, 66),
    "gguf_mxfp4": (32, 17),
    "gguf_nvfp4": (64, 36),
}
"""The quantised types of GGML, all that are in files. Source: ggml/src/ggml-common.h (`block_*`), as of gguf 0.19."""

DTYPES: dict[str, Dtype] = {
    **{name: Dtype(name, bits, "float") for name, bits in _FLOATS.items()},
    **{name: Dtype(name, bits, "int") for name, bits in _INTS.items()},
    "bool": Dtype("bool", 8, "bool"),
    **{name: Dtype(name, bits, "complex") for name, bits in _COMPLEX.items()},
    **{name: Dtype(name, 8 * nbytes, "block", elements) for name, (elements, nbytes) in _GGUF_BLOCKS.items()},
}
_KINDS_BIG_ENDIAN = {"float": "bytes", "int": "bytes", "complex": "complex", "block": "block"}
DTYPES |= {
    name + BIG_ENDIAN: dtype._replace(name=name + BIG_ENDIAN, kind=_KINDS_BIG_ENDIAN[dtype.kind])
    for name, dtype in DTYPES.items()
    if dtype.bits > 8
}
"""Every element type by its name. Of those of several bytes there are two, as the bytes of each element lie."""


def big_endian(dtype: str) -> str:
    """Return the name of the same elements with their highest byte first; the same name where they have one byte."""
    return dtype + BIG_ENDIAN if DTYPES[dtype].bits > 8 else dtype


def raw_bytes_of(dtype: str, element_count: int) -> int:
    """Return how many bytes `element_count` packed elements take, rounded up to a whole byte, or a whole block.

    Raises:
        KeyError: the name is not in `DTYPES`.
    """
    _, bits, _, block_elements = DTYPES[dtype]
    return (bits * -(-element_count // block_elements) + 7) // 8
