"""Files of a shape and size that no fixture on disk has."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

import pytest

GgufTensor = tuple[int, Sequence[int], bytes]
"""Type number, shape in C order, bytes."""


def make_gguf(
    tensors: Mapping[str, GgufTensor], metadata: Sequence[bytes] = (), alignment: int = 32, version: int = 3
) -> bytes:
    """Return a GGUF file; `metadata` are finished entries, which may set another alignment."""
    infos, data = [], b""
    for name, (kind, shape, raw) in tensors.items():
        lengths = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        infos.append(gguf_string(name.encode()) + lengths + struct.pack("<IQ", kind, len(data)))
        data += raw + bytes(-len(raw) % alignment)
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    directory = b"".join([head, *metadata, *infos])
    return directory + bytes(-len(directory) % alignment) * bool(tensors) + data


def gguf_string(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


@pytest.fixture(scope="session")
def gguf_file() -> Callable[..., bytes]:
    """Return `make_gguf`."""
    return make_gguf
