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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

from thetastore.backends import Backend
from thetastore.bases.candidates import SAMPLE_BYTES, Candidate, PlacedTensor, TensorMap, resembles, sample
from thetastore.bases.families import family_keys, find_each, find_relatives, form_keys, register
from thetastore.bases.renamed import Patience, Renamed
from thetastore.bases.sketches import LEAST_SKETCHED_BYTES, sketch_keys
from thetastore.digest import Digest, Kind
from thetastore.errors import ThetaError
from thetastore.manifest import Chunk, parse_manifest
from thetastore.objects import Objects, Prepared
from thetastore.representations.choice import LEAST_DIFFERENCE_BYTES

BaseHint = Digest | Callable[[], Digest | None] | None
"""The manifest of the parent version, or what finds it when it is needed; None where there is none."""

_MOST_CANDIDATES = 4
_MANY_TENSORS = 4096
"""Where a model has more, only the first candidate is looked at: reading its manifest takes 10 us a tensor."""
MOST_SKETCHES = 16
"""Tensors of a file that are looked up by their sketches until one leads somewhere: 0.1 ms each."""

Sketches = Mapping[int, tuple[str, ...]]
"""Keys of tensors by their offsets in the file."""
_PROBES = 3
_WORTH_A_LEVEL = 16
"""One part in so many has to be saved by a candidate that is a difference itself, as reading it takes its base too: a
fine-tune at 2e-5 beside one at 1e-6 was .6 % smaller as a difference from that, and took 1.6 times as long to read."""
_FREE_FAILURES = 24
"""Useless guesses, 0.5 ms each, until there are no more; as many are in flight when the first one comes back."""


class Bases:
    """Guesses bases for the chunks of one file. Thread-safe; nothing is read before `open`, or the first guess."""

    def __init__(
        self,
        objects: Objects,
        tensors: Sequence[PlacedTensor],
        parent: BaseHint = None,
        sketch: Callable[[], Sketches] | None = None,
    ) -> None:
        """Guess bases in a store.

        Args:
            objects: of the store.
            tensors: of the file.
            parent: the manifest of its earlier version.
            sketch: returns the keys of its first tensors, where the file is at hand already: they are looked up
                together, and not one after the other as their bytes come by.
        """
        self._objects = objects
        self._sketch_all = sketch
        self._tensors = tensors
        self._parent = parent
        self._candidates: list[Candidate] | None = None
        self._renamed: dict[Candidate, Renamed] = {}
        self._patience = Patience()
        self._map: TensorMap | None = None
        self._probes_left = _PROBES
        self._starts = {tensor.offset for tensor in tensors if tensor.strides is None}
        self._sketches: dict[int, tuple[str, ...]] = {}
        """Keys of tensors that are new to the store, by offset."""
        self._sketches_left = MOST_SKETCHES if sketch is None else 0
        self._known: set[Digest] = set()
        """Manifests of candidates that names or forms led to."""
        self._has_parent = False
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

    def open(self) -> None:
        """Find the models to guess from now, and not when the first guess is asked for."""
        with self._lock:
            self._opened()

    def likely(self, offset: int, nbytes: int) -> Digest | None:
        """Return what `guess` will probably yield first for a chunk; told without reading any."""
        with self._lock:
            candidates, tensors = self._opened()
            tensor = tensors.at(offset, nbytes)
            if tensor is None or self._is_useless():
                return None
            places = (
                find(tensor, offset, nbytes)
                for candidate in candidates
                for find in (candidate.chunk_like, self._under_other_names(candidate).likely)
            )
            return next((digest for digest in places if digest is not None), None)

    @property
    def useful_count(self) -> int:
        """Of how many chunks the guess has become the base."""
        return self._useful_count

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
        is_probe = len(candidates) > 1 and self._probes_left > 0 and len(raw) >= SAMPLE_BYTES
        guesses = ((candidate, candidate.chunk_like(tensor, offset, len(raw))) for candidate in candidates)
        named = ((candidate, digest) for candidate, digest in guesses if digest is not None)
        found = list(islice(named, None if is_probe else 1))
        found = found or list(islice(self._guesses_by_samples(candidates, tensor, offset, raw), 1))
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

    def _guesses_by_samples(
        self, candidates: Iterable[Candidate], tensor: PlacedTensor, offset: int, raw: memoryview
    ) -> Iterator[tuple[Candidate, Digest]]:
        for candidate in candidates:
            digest = self._under_other_names(candidate).chunk_like(tensor, offset, len(raw), lambda: raw)
            if digest is not None:
                yield candidate, digest

    def _under_other_names(self, candidate: Candidate) -> Renamed:
        renamed = self._renamed.get(candidate)
        if renamed is None:
            renamed = self._renamed[candidate] = Renamed(self._tensors, candidate, self._resembles, self._patience)
        return renamed

    def _resembles(self, chunk: Chunk, raw: memoryview, dtype: str) -> bool:
        return resembles(self._objects, chunk, raw, dtype)

    def sketch_at(self, offset: int) -> tuple[str, ...]:
        """Return the keys of the tensor that begins at an offset, where `guess` found any."""
        return self._sketches.get(offset, ())

    def adopt_sketch(self, offset: int, keys: tuple[str, ...]) -> None:
        """Take keys of a tensor for `register` that were found elsewhere."""
        self._sketches[offset] = keys

    def register(self, manifest_digest: Digest) -> None:
        """Make the file known to its family, unless it is but a version of what is known."""
        if not self._has_parent:
            file_model(self._objects.backend, self._tensors, self._sketches, manifest_digest)

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
        most = _MOST_CANDIDATES if len(self._tensors) <= _MANY_TENSORS else 1
        relatives = self._relatives()[:most]
        if self._objects.backend.is_remote:
            self._objects.catalog.locations.expect(relatives)
        for digest in relatives:
            candidate = self._read(digest)
            if candidate is not None:
                self._known.add(digest)
                yield candidate

    def _relatives(self) -> list[Digest]:
        """Return the models of the family; only the nearest where sketches lead to none of these."""
        sketches: Sketches = {} if self._sketch_all is None else self._sketch_all()
        keys = family_keys(self._tensors), form_keys(self._tensors), tuple(chain.from_iterable(sketches.values()))
        by_names, by_forms, by_numbers = find_each(self._objects.backend, keys)
        family = by_names or by_forms
        return family if not by_numbers or set(by_numbers).intersection(family) else by_numbers[:1]

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
            candidate.cost_bytes += SAMPLE_BYTES
        for candidate, digest in found:
            sampled_bytes, depth = sample(self._objects, Chunk(len(raw), digest), raw, dtype)
            candidate.cost_bytes += sampled_bytes + sampled_bytes * depth // _WORTH_A_LEVEL - SAMPLE_BYTES
        found.sort(key=lambda pair: pair[0].cost_bytes)
        self._probes_left -= 1
        if not self._probes_left and self._candidates:
            self._candidates.sort(key=lambda candidate: candidate.cost_bytes)


def file_model(backend: Backend, tensors: Sequence[PlacedTensor], sketches: Sketches, manifest_digest: Digest) -> None:
    """File a model in the table of families: under its names, its forms, and what is known of its numbers.

    Of the sketches it is that of the first tensor, which helps most, and one that is chosen by its content alone.
    """
    form = form_keys(tensors)
    if form:
        of_numbers = sketches[min(sketches)] + min(sketches.values(), key=min) if sketches else ()
        register(backend, dict.fromkeys(family_keys(tensors) + form + of_numbers), manifest_digest)
