"""Which object to take a difference against, for each chunk of a file that is being stored.

The best base is what the same place held before: the chunk at the same place of the tensor of the same name and
dtype, and of the same shape but for the number of rows, in the parent version; else in another model of the family
(`families`), of which a few candidates are compared by samples of the first chunks. Where none has a tensor of that
name, samples are compared with those of the same form (`renamed`). What is filed under a sketch of its numbers
(`sketches`) is the nearest of all, whatever names and shapes the rest of it has. Guesses cost no more than looking
things up: chunk lists are read a page at a time, and when difference after difference turns out to be no use, nothing
more is guessed for the file.
"""

from __future__ import annotations

import _thread
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice
from math import prod
from typing import Protocol

from thetastore import codecs
from thetastore.bases.families import Described, family_keys, find_relatives, form_keys, register
from thetastore.bases.renamed import Renamed
from thetastore.bases.sketches import LEAST_SKETCHED_BYTES, sketch_keys
from thetastore.digest import Digest, Kind
from thetastore.dtypes import raw_bytes_of
from thetastore.errors import ThetaError
from thetastore.manifest import Chunk, Manifest, parse_manifest, parse_page
from thetastore.objects import Objects, Prepared
from thetastore.representations.choice import LEAST_DIFFERENCE_BYTES

BaseHint = Digest | Callable[[], Digest | None] | None
"""The manifest of the parent version, or what finds it when it is needed; None where there is none."""

_MOST_CANDIDATES = 4
_MANY_TENSORS = 4096
"""Where a model has more, only the first candidate is looked at: reading its manifest takes 10 us a tensor."""
_MOST_SKETCHES_LOOKED_UP = 16
"""Tensors of a file that are looked up by their sketches until one leads somewhere: 0.1 ms each."""
_PROBES = 3
_PROBE_BYTES = 64 << 10
_FREE_FAILURES = 24
"""Useless guesses, 0.5 ms each, until there are no more; as many are in flight when the first one comes back."""
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
            (tensor.offset, -raw_bytes_of(tensor.dtype, prod(tensor.shape)), number, tensor)
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
        if start + nbytes > raw_bytes_of(own.dtype, prod(own.shape)):
            return None
        place = own.offset + start
        chunk = self._page_at(place).get(place)
        return chunk.digest if chunk is not None and chunk.raw_bytes == nbytes else None

    def chunk_at(self, place: int) -> Chunk | None:
        """Return the chunk that begins at an offset in this file."""
        return self._page_at(place).get(place)

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


class Bases:
    """Guesses bases for the chunks of one file. Thread-safe; nothing is read before the first guess is asked for."""

    def __init__(self, objects: Objects, tensors: Sequence[PlacedTensor], parent: BaseHint = None) -> None:
        """Guess for a file with these tensors, whose earlier version is `parent`."""
        self._objects = objects
        self._tensors = tensors
        self._parent = parent
        self._candidates: list[Candidate] | None = None
        self._renamed: dict[Candidate, Renamed] = {}
        self._map: TensorMap | None = None
        self._probes_left = _PROBES
        self._starts = {tensor.offset for tensor in tensors if tensor.strides is None}
        self._sketches: dict[int, tuple[str, ...]] = {}
        """Keys of tensors that are new to the store, by offset."""
        self._sketches_left = _MOST_SKETCHES_LOOKED_UP
        self._known: set[Digest] = set()
        """Manifests of candidates that names or forms led to."""
        self._has_parent = False
        self._family_keys: tuple[str, ...] | None = None
        self._guessed_count = 0
        self._useful_count = 0
        self._lock = _thread.allocate_lock()

    def guess(self, offset: int, raw: memoryview, dtype: str | None) -> Iterator[Digest]:
        """Yield what a chunk may be a difference of, the best first; all work is done when that is asked for.

        Args:
            offset: where it lies in the file.
            raw: its bytes.
            dtype: its element type; opaque bytes have no base.
        """
        if dtype is not None and len(raw) >= LEAST_DIFFERENCE_BYTES:
            with self._lock:
                found = self._guess(offset, raw, dtype)
            yield from found

    def is_hopeful(self) -> bool:
        """Tell whether there is a model to guess from, and guessing was of use so far."""
        with self._lock:
            return not self._is_useless() and bool(self._opened()[0])

    def _is_useless(self) -> bool:
        return self._guessed_count > _FREE_FAILURES + 3 * self._useful_count

    def learn(self, prepared: Prepared) -> None:
        """Take note of what became of a chunk, so that guessing ends where it is useless."""
        if prepared.entry is not None and prepared.entry.codec == "difference":
            self._useful_count += 1

    def _guess(self, offset: int, raw: memoryview, dtype: str) -> list[Digest]:
        if self._is_useless():
            return []
        self._opened()
        self._sketch(offset, raw, dtype)
        candidates, tensors = self._opened()
        tensor = tensors.at(offset, len(raw))
        if tensor is None or not candidates:
            return []
        is_probe = len(candidates) > 1 and self._probes_left > 0 and len(raw) >= _PROBE_BYTES
        guesses = ((candidate, candidate.chunk_like(tensor, offset, len(raw))) for candidate in candidates)
        named = ((candidate, digest) for candidate, digest in guesses if digest is not None)
        found = list(islice(named, None if is_probe else 1))
        found = found or list(islice(self._under_other_names(candidates, tensor, offset, raw), 1))
        if is_probe:
            self._probe(found, raw, dtype)
        self._guessed_count += bool(found)
        return [digest for _, digest in found[:1]]

    def _sketch(self, offset: int, raw: memoryview, dtype: str) -> None:
        """Sketch a tensor of which this is the beginning; where that leads to a model, look nowhere but there."""
        if self._has_parent or offset not in self._starts or len(raw) < LEAST_SKETCHED_BYTES:
            return
        keys = sketch_keys(raw, dtype)
        if keys:
            self._sketches[offset] = keys
        if not keys or not self._sketches_left:
            return
        self._sketches_left -= 1
        alike = find_relatives(self._objects.backend, keys)
        if not alike:
            return
        self._sketches_left = 0
        nearest = None if self._known.intersection(alike) else self._read(alike[0])
        if nearest is not None:
            self._candidates = [nearest]
            self._map = TensorMap(self._tensors)

    def _under_other_names(
        self, candidates: Iterable[Candidate], tensor: PlacedTensor, offset: int, raw: memoryview
    ) -> Iterator[tuple[Candidate, Digest]]:
        for candidate in candidates:
            renamed = self._renamed.get(candidate)
            if renamed is None:
                renamed = self._renamed[candidate] = Renamed(self._tensors, candidate, self._resembles)
            digest = renamed.chunk_like(tensor, offset, len(raw), lambda: raw)
            if digest is not None:
                yield candidate, digest

    def _resembles(self, digest: Digest, raw: memoryview, dtype: str) -> bool:
        return resembles(self._objects, digest, raw, dtype)

    def register(self, manifest_digest: Digest) -> None:
        """Make the file known to its family, unless it is but a version of what is known."""
        if not self._has_parent:
            form = form_keys(self._tensors)
            keys = self._keys() + form + self._sketch_keys() if form else ()
            register(self._objects.backend, dict.fromkeys(keys), manifest_digest)

    def _sketch_keys(self) -> tuple[str, ...]:
        """Return the keys of the first tensor, which helps most, and of one that is chosen by its content alone."""
        if not self._sketches:
            return ()
        of_first = self._sketches[min(self._sketches)]
        return of_first + min(self._sketches.values(), key=min)

    def _keys(self) -> tuple[str, ...]:
        if self._family_keys is None:
            self._family_keys = family_keys(self._tensors)
        return self._family_keys

    def _opened(self) -> tuple[list[Candidate], TensorMap]:
        if self._map is None:
            self._candidates = list(self._find())
            self._map = TensorMap(self._tensors if self._candidates else ())
        return self._candidates or [], self._map

    def _find(self) -> Iterator[Candidate]:
        candidate = self._read(self._parent) if self._parent is not None else None
        if candidate is not None:
            self._has_parent = True
            yield candidate
            return
        backend = self._objects.backend
        relatives = find_relatives(backend, self._keys()) or find_relatives(backend, form_keys(self._tensors))
        most = _MOST_CANDIDATES if len(self._tensors) <= _MANY_TENSORS else 1
        for digest in relatives[:most]:
            candidate = self._read(digest)
            if candidate is not None:
                self._known.add(digest)
                yield candidate

    def _read(self, hint: BaseHint) -> Candidate | None:
        try:
            digest = hint() if callable(hint) else hint
            if digest is None or not self._objects.contains(digest):
                return None
            return Candidate(self._objects, parse_manifest(self._objects.get(Kind.MANIFEST, digest)))
        except ThetaError:
            return None

    def _probe(self, found: list[tuple[Candidate, Digest]], raw: memoryview, dtype: str) -> None:
        """Compare candidates by the start of one chunk; after a few, that order is kept."""
        for candidate in self._candidates or ():
            candidate.cost_bytes += _PROBE_BYTES
        for candidate, digest in found:
            candidate.cost_bytes += _sampled_bytes(self._objects, digest, raw, dtype) - _PROBE_BYTES
        found.sort(key=lambda pair: pair[0].cost_bytes)
        self._probes_left -= 1
        if not self._probes_left and self._candidates:
            self._candidates.sort(key=lambda candidate: candidate.cost_bytes)


def resembles(objects: Objects, digest: Digest, raw: memoryview, dtype: str) -> bool:
    """Tell whether the beginning of a chunk is worth a difference from an object, which may be longer."""
    return _sampled_bytes(objects, digest, raw, dtype) < min(len(raw), _PROBE_BYTES)


def _sampled_bytes(objects: Objects, digest: Digest, raw: memoryview, dtype: str) -> int:
    """Return what the beginning of a chunk takes as a difference from an object."""
    representations = objects.representations
    try:
        decoded = representations.decode(digest, representations.entry(digest).raw_bytes)
    except ThetaError:
        return _PROBE_BYTES
    try:
        coded = codecs.encode_difference(raw[:_PROBE_BYTES], decoded.raw[: min(len(raw), _PROBE_BYTES)], dtype)
    finally:
        representations.give(decoded.raw)
    return _PROBE_BYTES if coded is None else memoryview(coded.stored).nbytes
