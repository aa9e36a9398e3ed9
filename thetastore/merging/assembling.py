"""The file of a merge's result: the bytes of one side with other tensors in their places, or a new safetensors file.

A side's own bytes serve where the result has exactly its tensors, dtypes and shapes: then header, order, padding and
metadata stay as they were. Zip files hold checksums of their entries, which are computed anew. Anything else needs a
file of another structure, and only safetensors is written from nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from thetastore.checkpoints.compose import NewTensor, exact_pieces, safetensors_source
from thetastore.checkpoints.ingest import Source
from thetastore.digest import Buffer, Digest, new_hasher
from thetastore.formats.zip_checksums import mend_checksums
from thetastore.layout import Tensor
from thetastore.merging import MergeError
from thetastore.merging.checkpoints import Checkpoint
from thetastore.merging.mixing import Result
from thetastore.open_file import OpenFile

_PLAIN = frozenset({"safetensors", "gguf", "npy", "torch-legacy"})
_ZIPPED = frozenset({"torch-zip", "npz"})
REWRITABLE = _PLAIN | _ZIPPED
"""Formats in which nothing but tensors (and, of zip files, checksums) depends on what the tensors hold."""


def why_not_in_place(results: Sequence[Result], layout: Checkpoint) -> str:
    """Say why results cannot be put in the places that a checkpoint has for them; empty if they can."""
    if layout.format not in REWRITABLE:
        return f"a file of format '{layout.format or 'several files'}' cannot be rewritten"
    wanted = {result.name: (result.dtype, result.shape) for result in results}
    present = {tensor.name: (tensor.dtype, tensor.shape) for tensor in layout.tensors.values()}
    if wanted != present:
        return _difference(wanted, present)
    return _clash(results, layout)


def _difference(wanted: Mapping[str, object], present: Mapping[str, object]) -> str:
    for name in sorted({*wanted, *present}):
        if name not in present:
            return f"it has no place for tensor '{name}'"
        if name not in wanted:
            return f"it has a tensor '{name}' that the result has not"
        if wanted[name] != present[name]:
            return f"tensor '{name}' has another shape or dtype in the result"
    raise AssertionError("two equal tables")


def _clash(results: Sequence[Result], layout: Checkpoint) -> str:
    """Say which tensors share bytes in the file that the result does not let them share."""
    placed = sorted((layout.tensors[result.name], result) for result in results)
    placed.sort(key=lambda pair: pair[0].offset)
    end, before = 0, None
    for tensor, result in placed:
        if _is_kept(tensor, result, layout):
            continue
        if tensor.strides is not None:
            return f"the elements of tensor '{tensor.name}' do not lie one behind the other in it"
    for tensor, result in placed:
        if before is not None and tensor.raw_bytes and tensor.offset < end:
            other, first = before
            both_kept = _is_kept(tensor, result, layout) and _is_kept(other, first, layout)
            is_tied = tensor[1:] == other[1:] and result.key == first.key
            if not (both_kept or is_tied):
                return f"tensors '{other.name}' and '{tensor.name}' share their bytes in it"
        if tensor.offset + _reach_bytes(tensor) > end:
            end, before = tensor.offset + _reach_bytes(tensor), (tensor, result)
    return ""


def _reach_bytes(tensor: Tensor) -> int:
    if tensor.strides is None or 0 in tensor.shape:
        return tensor.raw_bytes
    elements = 1
    for length in tensor.shape:
        elements *= length
    last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=True))
    return (last + 1) * (tensor.raw_bytes // elements)


def _is_kept(tensor: Tensor, result: Result, layout: Checkpoint) -> bool:
    return bool(result.key == ("copied", layout.table()[tensor.name]))


class PiecesSource:
    """Pieces as a `Source`."""

    def __init__(self, pieces: Iterator[Buffer]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readinto(self, view: memoryview, /) -> int:
        """Write the next bytes into `view`; see `Source`."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece).cast("B")
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def in_place(results: Sequence[Result], layout: Checkpoint, scratch: IO[bytes] | None) -> Source:
    """Return a checkpoint's file with results in the places of its tensors; see `why_not_in_place`.

    Args:
        results: one for each tensor of `layout`.
        layout: whose bytes the file has otherwise.
        scratch: an empty file for formats with checksums (`needs_scratch`); the source reads from it.
    """
    places = {
        layout.tensors[result.name].offset: result
        for result in results
        if not _is_kept(layout.tensors[result.name], result, layout)
    }
    pieces = _overlaid(layout, sorted(places.items()))
    if scratch is None:
        return PiecesSource(pieces)
    size = 0
    for piece in pieces:
        size += scratch.write(piece)
    scratch.flush()
    mend_checksums(OpenFile(scratch.fileno(), size))
    scratch.seek(0)
    return scratch  # type: ignore[return-value]  # what is opened for buffered reading has `readinto`


def needs_scratch(layout: Checkpoint) -> bool:
    """Tell whether the result has to be written once before it can be read from its start."""
    return layout.format in _ZIPPED


def _overlaid(layout: Checkpoint, places: Sequence[tuple[int, Result]]) -> Iterator[Buffer]:
    """Yield a file with other bytes in some places; what lies wholly under them is not read."""
    waiting = iter([(offset, result) for offset, result in places if result.raw_bytes])
    at, result = next(waiting, (None, None))
    covered_to = 0
    for segment in layout.segments():
        cursor, end = (
            max(segment.offset, min(covered_to, segment.offset + segment.raw_bytes)),
            segment.offset + segment.raw_bytes,
        )
        raw: memoryview | None = None
        while cursor < end:
            if at == cursor and result is not None:
                yield from exact_pieces(_new(result), MergeError)
                covered_to = cursor + result.raw_bytes
                cursor = min(end, covered_to)
                at, result = next(waiting, (None, None))
                continue
            stop = end if at is None else min(end, at)
            raw = memoryview(segment.read()) if raw is None else raw
            yield raw[cursor - segment.offset : stop - segment.offset]
            cursor = stop


def composed(results: Sequence[Result], metadata: Mapping[str, str] | None) -> Source:
    """Return a new safetensors file of the results."""
    return safetensors_source([_new(result) for result in results], metadata)


def _new(result: Result) -> NewTensor:
    return NewTensor(result.name, result.dtype, result.shape, result.pieces)


def skeleton_digest(layout: Checkpoint) -> Digest:
    """Return a digest of the bytes of a file that belong to no tensor; only the pieces that hold any are read."""
    hasher = new_hasher()
    spans = sorted((t.offset, t.offset + _reach_bytes(t)) for t in layout.tensors.values())
    at = 0
    covered_to = 0
    for segment in layout.segments():
        end = segment.offset + segment.raw_bytes
        cursor = segment.offset
        raw: memoryview | None = None
        while cursor < end:
            while at < len(spans) and spans[at][0] <= cursor:
                covered_to = max(covered_to, spans[at][1])
                at += 1
            if covered_to > cursor:
                cursor = min(end, covered_to)
                continue
            stop = min(end, spans[at][0]) if at < len(spans) else end
            raw = memoryview(segment.read()) if raw is None else raw
            hasher.update(raw[cursor - segment.offset : stop - segment.offset])
            cursor = stop
    return Digest(hasher.digest())


def metadata_of(layout: Checkpoint) -> dict[str, str]:
    """Return the `__metadata__` of a safetensors file; of others nothing."""
    if layout.format != "safetensors":
        return {}
    import json

    wanted_bytes = 8
    head = bytearray()
    for segment in layout.segments():
        head += segment.read()
        if len(head) >= 8:
            wanted_bytes = 8 + int.from_bytes(head[:8], "little")
        if len(head) >= wanted_bytes:
            break
    found = json.loads(bytes(head[8:wanted_bytes])).get("__metadata__", {})
    return {str(key): str(value) for key, value in found.items()}


def write_result(source: Source, path: str) -> int:
    """Write a file beside its place, and put it there in one step; return its length.

    Raises:
        MergeError, OSError: it cannot be made; what was at the path is still there.
    """
    temporary = f"{path}.theta-{os.getpid()}"
    buffer = memoryview(bytearray(1 << 20))
    try:
        with open(temporary, "wb", buffering=0) as stream:
            size = 0
            while count := source.readinto(buffer):
                part = buffer[:count]
                while part:
                    part = part[stream.write(part) :]
                size += count
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        _unlink(temporary)
        raise
    return size


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
