"""Models of a store, against whose chunks differences may be taken: where their tensors lie, and samples of these."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Protocol

from thetastore import codecs
from thetastore.bases.families import Described, nbytes_of
from thetastore.bases.sketches import LEAST_SKETCHED_BYTES, sketch_keys
from thetastore.digest import Digest, Kind
from thetastore.errors import ThetaError
from thetastore.manifest import Chunk, Manifest, parse_manifest, parse_page
from thetastore.objects import Objects

SAMPLE_BYTES = 64 << 10
"""Of the beginning of a chunk, where it is compared with others."""
_MOST_PAGES = 8


class PlacedTensor(Described, Protocol):
    """A tensor and where it lies, of a layout or of a manifest."""

    @property
    def offset(self) -> int:
        """Where it begins in the file."""

    @property
    def strides(self) -> tuple[int, ...] | None:
        """None where it is contiguous."""


class TensorMap:
    """Finds the tensor that covers a piece of a file."""

    def __init__(self, tensors: Iterable[PlacedTensor]) -> None:
        places = sorted(
            (tensor.offset, -nbytes_of(tensor), number, tensor)
            for number, tensor in enumerate(tensors)
            if tensor.strides is None
        )
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._tensors: list[PlacedTensor] = []
        for offset, negative_bytes, _, tensor in places:
            end = offset - negative_bytes
            if end > (self._ends[-1] if self._ends else offset):  # else it lies within another
                self._starts.append(offset)
                self._ends.append(end)
                self._tensors.append(tensor)

    def at(self, offset: int, nbytes: int) -> PlacedTensor | None:
        """Return the longest tensor that holds all of `[offset, offset + nbytes)` contiguously."""
        number = bisect_right(self._starts, offset) - 1
        if number < 0 or offset + nbytes > self._ends[number]:
            return None
        return self._tensors[number]


class Candidate:
    """A model against whose chunks differences may be taken. Its chunk list is read as it is needed."""

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self._objects = objects
        self.tensors = tuple(tensor for tensor in manifest.tensors if tensor.strides is None)
        """Those that are contiguous."""
        self._by_name = {tensor.name: tensor for tensor in self.tensors}
        self._pages = manifest.pages
        self._page_starts = list(accumulate((page.raw_bytes for page in manifest.pages), initial=0))
        self._chunks: dict[int, dict[int, Chunk]] = {}
        if not manifest.pages:
            self._chunks[0] = _by_offset(manifest.chunks, 0)
        self.cost_bytes = 0
        """What samples of differences from it took."""

    def chunk_like(self, tensor: PlacedTensor, offset: int, nbytes: int) -> Digest | None:
        """Return the chunk at a place of the same tensor here; None where there is none of that length.

        Rows may have been appended or cut off since: what is before them is where it was.
        """
        own = self._by_name.get(tensor.name)
        if own is None or own.dtype != tensor.dtype or own.shape[1:] != tensor.shape[1:]:
            return None
        return self.chunk_of(own, tensor, offset, nbytes)

    def chunk_of(self, own: PlacedTensor, tensor: PlacedTensor, offset: int, nbytes: int) -> Digest | None:
        """Return the chunk of a tensor here at the place that `offset` is of another file's tensor; as `chunk_like`."""
        start = offset - tensor.offset
        if start + nbytes > nbytes_of(own):
            return None
        place = own.offset + start
        chunk = self._page_at(place).get(place)
        return chunk.digest if chunk is not None and chunk.raw_bytes == nbytes else None

    def chunk_at(self, place: int) -> Chunk | None:
        """Return the chunk that begins at an offset in this file."""
        return self._page_at(place).get(place)

    def sketches(self, most: int) -> dict[int, tuple[str, ...]]:
        """Return the keys of the first tensors that have sketches, `most` at most, by their offsets in the file.

        A chunk is decoded for each; of as many again that turn out to have none, no more are looked at.
        """
        found: dict[int, tuple[str, ...]] = {}
        for tensor in islice(self._with_samples(), 2 * most):
            chunk = self.chunk_at(tensor.offset)
            raw = memoryview(b"") if chunk is None else beginning(self._objects, chunk)
            keys = sketch_keys(raw, tensor.dtype) if len(raw) >= LEAST_SKETCHED_BYTES else ()
            if keys:
                found[tensor.offset] = keys
            if len(found) == most:
                break
        return found

    def _with_samples(self) -> Iterator[PlacedTensor]:
        """Yield what is long enough for a sketch, in the order of the file."""
        placed = (tensor for tensor in self.tensors if nbytes_of(tensor) >= LEAST_SKETCHED_BYTES)
        return iter(sorted(placed, key=lambda tensor: tensor.offset))

    def _page_at(self, place: int) -> dict[int, Chunk]:
        number = max(0, bisect_right(self._page_starts, place) - 1) if self._pages else 0
        page = self._chunks.get(number)
        if page is None:
            page = self._read_page(number) if number < len(self._pages) else {}
            if len(self._chunks) >= _MOST_PAGES:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[number] = page
        return page

    def _read_page(self, number: int) -> dict[int, Chunk]:
        page = self._pages[number]
        try:
            chunks = parse_page(self._objects.get(Kind.PAGE, page.digest), page)
        except ThetaError:
            return {}
        return _by_offset(chunks, self._page_starts[number])


def _by_offset(chunks: Sequence[Chunk], start: int) -> dict[int, Chunk]:
    return dict(zip(accumulate((chunk.raw_bytes for chunk in chunks), initial=start), chunks, strict=False))


def read_manifest(objects: Objects, digest: Digest) -> Manifest | None:
    """Return a manifest; None where it cannot be read."""
    try:
        return parse_manifest(objects.get(Kind.MANIFEST, digest))
    except ThetaError:
        return None


def beginning(objects: Objects, chunk: Chunk) -> memoryview:
    """Return what a chunk begins with, for samples; nothing where it cannot be read."""
    try:
        decoded = objects.representations.decode(chunk.digest, chunk.raw_bytes)
    except ThetaError:
        return memoryview(b"")
    try:
        return memoryview(bytes(decoded.raw[:SAMPLE_BYTES]))
    finally:
        objects.representations.give(decoded.raw)


def resembles(objects: Objects, chunk: Chunk, raw: memoryview, dtype: str) -> bool:
    """Tell whether bytes, or their beginning, are worth a difference from a chunk, which may be longer."""
    return sampled_bytes(objects, chunk, raw, dtype) < min(len(raw), SAMPLE_BYTES)


def sampled_bytes(objects: Objects, chunk: Chunk, raw: memoryview, dtype: str) -> int:
    """Return what the beginning of some bytes takes as a difference from a chunk."""
    return sample(objects, chunk, raw, dtype)[0]


def sample(objects: Objects, chunk: Chunk, raw: memoryview, dtype: str) -> tuple[int, int]:
    """Return what the beginning of some bytes takes as a difference from a chunk, and how deep that chunk stands."""
    representations = objects.representations
    try:
        decoded = representations.decode(chunk.digest, chunk.raw_bytes)
    except ThetaError:
        return SAMPLE_BYTES, 0
    try:
        coded = codecs.encode_difference(raw[:SAMPLE_BYTES], decoded.raw[: min(len(raw), SAMPLE_BYTES)], dtype)
    finally:
        representations.give(decoded.raw)
    return SAMPLE_BYTES if coded is None else memoryview(coded.stored).nbytes, decoded.depth
