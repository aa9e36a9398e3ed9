"""Where the tensors of a torch pickle lie, and how its storages are cut into spans.

The same tensor should give the same chunks in a `.pt` and in a safetensors file. So a storage is cut like the
tensors that lie in it: by the largest one at each place, whatever smaller views there are into it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from thetastore.dtypes import DTYPES
from thetastore.errors import NotThisFormat
from thetastore.formats.names import Names
from thetastore.formats.pickle_machine import Pickle
from thetastore.formats.torch_state import StoredTensor, named_tensors
from thetastore.layout import Span, Tensor, is_contiguous


class Place(NamedTuple):
    """Where the bytes of a storage lie."""

    offset: int
    nbytes: int
    dtype: str | None
    rename: Callable[[str], str] | None = None
    """What makes of a dtype the one that is in the file; None where it is the same."""


class Found(NamedTuple):
    """What was found in a file or in a part of one."""

    tensors: list[Tensor]
    spans: list[Span]

    def add(self, other: Found) -> None:
        """Take in what was found elsewhere."""
        self.tensors.extend(other.tensors)
        self.spans.extend(other.spans)


def find_tensors(
    pickle: Pickle, places: dict[str, Place], file_bytes: int, names: Names, prefix: tuple[str, ...] = ()
) -> Found:
    """Return the tensors of a pickle and the spans of its storages.

    Args:
        pickle: what torch saved.
        places: where each storage that it mentions lies; they share no bytes.
        file_bytes: what a tensor of more bytes than all of them is too large for.
        names: the names that are taken.
        prefix: goes before each path.
    """
    tensors = []
    for name, stored in named_tensors(pickle, names, prefix):
        place = places.get(stored.storage.key)
        if place is None:
            raise NotThisFormat(f"the storage '{stored.storage.key[:80]}' is not there")
        tensor = _placed(name, stored, place)
        if _is_reasonable(tensor, file_bytes):
            tensors.append(tensor)
    return Found(tensors, _find_spans(places, tensors))


def _placed(name: str, stored: StoredTensor, place: Place) -> Tensor:
    """Return the tensor with its place in the file; axes of length 1, along which nothing steps, get stride 0."""
    strides = None
    if not is_contiguous(stored.shape, stored.strides):
        strides = tuple(step if n > 1 else 0 for n, step in zip(stored.shape, stored.strides, strict=True))
    dtype = place.rename(stored.dtype) if place.rename else stored.dtype
    return Tensor(name, dtype, stored.shape, place.offset + stored.offset, strides)


def _is_reasonable(tensor: Tensor, file_bytes: int) -> bool:
    """Tell whether a tensor can be listed: a mask that `expand` blows up must not make the whole file opaque."""
    return tensor.strides is None or (DTYPES[tensor.dtype].bits >= 8 and tensor.raw_bytes <= file_bytes)


def _find_spans(places: dict[str, Place], tensors: list[Tensor]) -> list[Span]:
    """Cut every storage. Tensors are told apart by where they lie: storages share no bytes."""
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    spans: list[Span] = []
    at = 0
    for place in sorted(places.values(), key=lambda place: place.offset):
        while at < len(ordered) and ordered[at].offset < place.offset:
            at += 1
        start = at
        while at < len(ordered) and ordered[at].offset < place.offset + place.nbytes:
            at += 1
        dtype = place.rename(place.dtype) if place.rename and place.dtype else place.dtype
        spans += spans_of_storage(place.offset, place.nbytes, dtype, ordered[start:at])
    return spans


def spans_of_storage(offset: int, nbytes: int, dtype: str | None, tensors: list[Tensor]) -> list[Span]:
    """Return spans that cover the bytes `[offset, offset + nbytes)` of a file, a storage of `dtype`, without gaps.

    From the start of the storage on: the largest tensor that begins here and fills its bytes without holes is a span
    (of equals one in C order, then one of the most dimensions, since a flat alias says less, then the first by name),
    and the next place is where it ends. Where none begins, the bytes up to the next place where one does are a
    one-dimensional span of the storage's own type.
    """
    candidates = sorted(
        (tensor.offset, -tensor.raw_bytes, tensor.strides is not None, -len(tensor.shape), tensor.name, span)
        for tensor in tensors
        if (span := _dense_span(tensor)) is not None
    )
    spans: list[Span] = []
    at = offset
    for *_, span in candidates:
        if span.offset < at:
            continue
        if span.offset > at:
            spans.append(_flat_span(at, span.offset - at, dtype))
        spans.append(span)
        at = span.offset + span.raw_bytes
    if at < offset + nbytes:
        spans.append(_flat_span(at, offset + nbytes - at, dtype))
    return spans


def _dense_span(tensor: Tensor) -> Span | None:
    """Return the span of a tensor that fills its bytes once, with its axes in the order of the file.

    A transposed matrix is thus cut as the matrix that lies in the file.
    """
    if not tensor.raw_bytes:
        return None
    if tensor.strides is None:
        return Span(tensor.offset, tensor.raw_bytes, tensor.dtype, tensor.shape)
    axes = sorted(range(len(tensor.shape)), key=lambda axis: (-tensor.strides[axis], axis))  # type: ignore[index]
    moving = [axis for axis in axes if tensor.shape[axis] > 1]
    step = 1
    for axis in reversed(moving):
        if tensor.strides[axis] != step:
            return None
        step *= tensor.shape[axis]
    return Span(tensor.offset, tensor.raw_bytes, tensor.dtype, tuple(tensor.shape[axis] for axis in moving))


def _flat_span(offset: int, nbytes: int, dtype: str | None) -> Span:
    if dtype is None or nbytes * 8 % DTYPES[dtype].bits:
        dtype = "uint8"
    return Span(offset, nbytes, dtype, (nbytes * 8 // DTYPES[dtype].bits,))
