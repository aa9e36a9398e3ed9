"""A valid safetensors checkpoint from tensors that are elsewhere, as a stream: the header, then each tensor's bytes.

The same tensors and metadata give the same bytes, whatever their order: tensors lie in the order that the reference
implementation gives them (widest element first, then by name), and the header is padded so that the first begins at
a multiple of 8.

Source: https://github.com/huggingface/safetensors, safetensors/src/tensor.rs (`prepare`, `Dtype`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from thetastore.digest import Buffer
from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.errors import MalformedError, ThetaError, UnsupportedError
from thetastore.formats import MAX_HEADER_BYTES
from thetastore.formats.safetensors import DTYPE_NAMES

METADATA = "__metadata__"
_ALIGNMENT = 8
_ORDER = (
    *("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"),
)
"""Element types as the reference orders them, the widest last."""
TYPE_NAMES = {name: code.decode() for code, name in DTYPE_NAMES.items()}
"""What a header calls each of our element types."""


class NewTensor(NamedTuple):
    """A tensor that is to be in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Buffer]]
    """Gives the tensor's bytes in C order, in pieces of any length; asked for once, in the order of the file. A
    piece is used up before the next one is asked for."""

    @property
    def raw_bytes(self) -> int:
        """Length of the tensor in bytes."""
        return raw_bytes_of(self.dtype, math.prod(self.shape))


class SafetensorsSource:
    """A file of tensors to be read once from its start: a `Source` for `Store.put_file`. For one thread."""

    def __init__(self, header: bytes, tensors: Sequence[NewTensor]) -> None:
        self.file_bytes = len(header) + sum(tensor.raw_bytes for tensor in tensors)
        """Length of the whole file."""
        self._pieces = chain([header], chain.from_iterable(map(exact_pieces, tensors)))
        self._left = memoryview(b"")

    def readinto(self, view: memoryview, /) -> int:
        """Write the next bytes of the file into `view`; return how many, 0 at the end.

        Raises:
            MalformedError: a tensor gives more or fewer bytes than its shape and dtype say.
        """
        done = 0
        while done < view.nbytes:
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece).cast("B")
                continue
            count = min(view.nbytes - done, self._left.nbytes)
            view[done : done + count] = self._left[:count]
            self._left = self._left[count:]
            done += count
        return done

    def write_to(self, descriptor: int) -> None:
        """Write the file to an open descriptor, in order.

        Raises:
            MalformedError: as `readinto`.
            OSError: the disk is full or failing.
        """
        import os

        for piece in self._pieces:
            left = memoryview(piece).cast("B")
            while left:
                left = left[os.write(descriptor, left) :]


def nearest_type(dtype: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """Return an element type and shape that safetensors has for the same bytes: bytes, where it lacks the type.

    The last axis is then one of bytes: of whole blocks, or of one element where blocks have only one. Packed elements
    that do not fill their last byte become one row of bytes.
    """
    _, bits, _, block_elements = DTYPES[dtype]
    if dtype in TYPE_NAMES and math.prod(shape) * bits % 8 == 0:
        return dtype, shape
    if bits % 8:
        return "uint8", (raw_bytes_of(dtype, math.prod(shape)),)
    if block_elements > 1:
        return "uint8", (*shape[:-1], shape[-1] // block_elements * bits // 8)
    return "uint8", (*shape, bits // 8)


def safetensors_source(tensors: Sequence[NewTensor], metadata: Mapping[str, str] | None = None) -> SafetensorsSource:
    """Return a valid safetensors file of some tensors.

    Args:
        tensors: in any order.
        metadata: the file's `__metadata__`; None or empty leaves it out.

    Raises:
        UnsupportedError: safetensors has no such element type, or the header would be too long to be read.
        MalformedError: two tensors have one name, or a name or shape that the format cannot hold; or metadata of
            another kind than text.
    """
    _check_metadata(metadata or {})
    placed = sorted(tensors, key=_place)
    for tensor in placed:
        if math.prod(tensor.shape) * DTYPES[tensor.dtype].bits % 8:
            raise MalformedError(f"tensor '{tensor.name}' of {tensor.dtype} {tensor.shape} is not whole bytes")
    entries: dict[str, Any] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for tensor in placed:
        if tensor.name in entries or tensor.name == METADATA:
            raise MalformedError(f"a file cannot have two tensors of the name '{tensor.name}', nor '{METADATA}'")
        place = [offset, offset + tensor.raw_bytes]
        entries[tensor.name] = {"dtype": TYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        offset = place[1]
    return SafetensorsSource(_header(entries), placed)


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise MalformedError(f"metadata has text by names, and {name!r}: {value!r} is something else: make it str")


def _place(tensor: NewTensor) -> tuple[int, str]:
    name = TYPE_NAMES.get(tensor.dtype)
    if name is None:
        raise UnsupportedError(f"safetensors has no element type for tensor '{tensor.name}' of {tensor.dtype}")
    return -_ORDER.index(name), tensor.name


def _header(entries: dict[str, Any]) -> bytes:
    import json

    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise MalformedError("a name or the metadata is not valid Unicode") from None
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) + _ALIGNMENT > MAX_HEADER_BYTES:
        raise UnsupportedError(f"a header of {len(text)} bytes is longer than the {MAX_HEADER_BYTES} that are read")
    return len(text).to_bytes(8, "little") + text


def exact_pieces(tensor: NewTensor, error: Callable[[str], ThetaError] = MalformedError) -> Iterator[Buffer]:
    """Yield the bytes of a tensor; raise `error` where there are more or fewer than its shape and dtype say."""
    left_bytes = tensor.raw_bytes
    for piece in tensor.pieces():
        left_bytes -= memoryview(piece).nbytes
        if left_bytes < 0:
            break
        yield piece
    if left_bytes:
        raise error(
            f"tensor '{tensor.name}' of {tensor.dtype} {tensor.shape} has {tensor.raw_bytes} bytes; "
            f"it was given {'more' if left_bytes < 0 else tensor.raw_bytes - left_bytes}"
        )
