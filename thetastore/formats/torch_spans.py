"""How a torch storage is cut into spans.

The same tensor should give the same chunks in a `.pt` and in a safetensors file. So a storage is cut like the
tensors that lie in it: by the largest one at each place, whatever smaller views there are into it.
"""

from __future__ import annotations

from thetastore.dtypes import DTYPES
from thetastore.layout import Span, Tensor


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
