"""Which of a family's models each is best stored as a difference from, when all of them are known.

Adding a model has to choose among what was there before; repacking can look at all. A few chunks of every model are
compared with those of every other one, by the differences of their first 64 KiB, and the models are joined to a tree,
nearest first, no deeper than a limit (Prim's algorithm). The root is the model from which all of that costs the least.

Source: R. C. Prim, "Shortest connection networks and some generalizations" (1957), with a limit of depth, which makes
it a heuristic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from thetastore import codecs
from thetastore.bases.candidates import SAMPLE_BYTES, Candidate, beginning, read_manifest, resembles
from thetastore.bases.families import family_keys, form_keys, nbytes_of
from thetastore.bases.finding import MOST_SKETCHES
from thetastore.bases.renamed import Renamed
from thetastore.digest import Digest
from thetastore.manifest import Chunk, Manifest, Tensor
from thetastore.objects import Objects

SAMPLES = 4
"""Chunks that are compared of each pair of models."""
MOST_MODELS = 48
"""Compared with each other: 48 are 4,512 comparisons of 0.2 ms. A larger family is taken in parts with one root."""
_HOPELESS = 0.95
"""A difference that takes so much of a sample coded by itself is none."""
_NEARLY = 0.98
"""The oldest model is the root unless another one saves more than this leaves."""


class Leaning(NamedTuple):
    """A model, and those that its chunks may be differences from."""

    manifest_digest: Digest
    nearest: tuple[Digest, ...]
    """Manifests that come before this one in the order, the nearest first; empty for a root."""


def lineage(objects: Objects, manifest_digests: Sequence[Digest], most_depth: int, most_near: int) -> Iterator[Leaning]:
    """Yield all models, each after those that it leans on.

    Memory: 64 KiB for each sample of a part of a family, 13 MB.

    Args:
        objects: where they are; what cannot be read leans on nothing.
        manifest_digests: the models, the oldest first.
        most_depth: of a model below its root.
        most_near: how many models each may lean on.
    """
    for family in _families(objects, manifest_digests):
        root: Digest | None = None
        for start in range(0, len(family), MOST_MODELS - 1):
            part = family[start : start + MOST_MODELS - 1]
            if root is not None:
                part = [root, *part]
            for leaning in _Part(objects, part, most_depth, most_near).leanings(root):
                if leaning.manifest_digest != root:
                    yield leaning
                root = root or leaning.manifest_digest


def _families(objects: Objects, manifest_digests: Iterable[Digest]) -> list[list[Digest]]:
    """Join models that share a key; those without one are alone."""
    by_key: dict[str, list[Digest]] = {}
    family_of: dict[Digest, list[Digest]] = {}
    for digest in manifest_digests:
        manifest = read_manifest(objects, digest)
        own = family_of.setdefault(digest, [digest])
        for key in _keys(objects, manifest) if manifest is not None else ():
            other = by_key.setdefault(key, own)
            other = family_of[other[0]]
            if other is not own:
                other += own
                for member in own:
                    family_of[member] = other
                own = other
    return list({id(family): family for family in family_of.values()}.values())


def _keys(objects: Objects, manifest: Manifest) -> tuple[str, ...]:
    """Return what relatives share one of: names, forms, or numbers."""
    keys = family_keys(manifest.tensors) + form_keys(manifest.tensors)
    sketches = Candidate(objects, manifest).sketches(MOST_SKETCHES) if keys else {}
    return keys + tuple(chain.from_iterable(sketches.values()))


class _Part:
    """Some models of a family, and how far they are from each other."""

    def __init__(self, objects: Objects, digests: Sequence[Digest], most_depth: int, most_near: int) -> None:
        self._objects = objects
        self._digests = digests
        self._most_depth = most_depth
        self._most_near = most_near
        self._samples = [self._sampled(digest) for digest in digests] if len(digests) > 1 else []
        self._alone: dict[int, int] = {}
        self._distances: dict[tuple[int, int], int] = {}

    def leanings(self, root: Digest | None) -> list[Leaning]:
        """Return the models in the order of the tree; `root` is the first one, if it is given."""
        if len(self._digests) == 1:
            return [Leaning(self._digests[0], ())]
        trees = [self._tree(0)]
        if root is None:
            trees += [self._tree(start) for start in range(1, len(self._digests))]
        best = min(trees, key=lambda tree: tree[0])
        chosen = trees[0] if best[0] >= _NEARLY * trees[0][0] else best
        return [self._leaning(order, parent) for order, parent in chosen[1]]

    def _leaning(self, order: list[int], parent: int | None) -> Leaning:
        """Say what the last one of an order leans on: its parent in the tree, then others that are near."""
        own = order[-1]
        near: list[int] = []
        if parent is not None:
            others = sorted((other for other in order[:-1] if other != parent), key=lambda o: self._distance(own, o))
            near = [parent, *others][: self._most_near]
        return Leaning(self._digests[own], tuple(self._digests[other] for other in near))

    def _tree(self, root: int) -> tuple[float, list[tuple[list[int], int | None]]]:
        """Return what a tree takes, and (all up to and with the next model, its parent) in its order."""
        depths = {root: 0}
        total = float(self._alone_bytes(root))
        steps: list[tuple[list[int], int | None]] = [([root], None)]
        while len(depths) < len(self._digests):
            distance, new, parent = min(
                (self._distance(new, parent), new, parent)
                for new in range(len(self._digests))
                if new not in depths
                for parent, depth in depths.items()
                if depth < self._most_depth
            )
            is_far = distance >= _HOPELESS * self._alone_bytes(new) and self._alone_bytes(new) > 0
            depths[new] = 0 if is_far else depths[parent] + 1
            total += self._alone_bytes(new) if is_far else distance
            steps.append(([*steps[-1][0], new], None if is_far else parent))
        return total, steps

    def _distance(self, new: int, base: int) -> int:
        """Return what samples of one model take as differences from those of another."""
        pair = (min(new, base), max(new, base))
        found = self._distances.get(pair)
        if found is None:
            found = self._distances[pair] = sum(map(_difference_bytes, self._samples[new], self._samples[base]))
        return found

    def _alone_bytes(self, number: int) -> int:
        if number not in self._alone:
            self._alone[number] = sum(map(_alone_bytes, self._samples[number]))
        return self._alone[number]

    def _sampled(self, digest: Digest) -> list[tuple[memoryview, str]]:
        """Return the beginnings of the same few chunks as of every other model; empty where there is none."""
        manifest = read_manifest(self._objects, digest)
        first = read_manifest(self._objects, self._digests[0])
        if manifest is None or first is None:
            return [(memoryview(b""), "uint8")] * SAMPLES
        model, like = Candidate(self._objects, manifest), Candidate(self._objects, first)
        renamed = Renamed(first.tensors, model, partial(resembles, self._objects))
        return [(self._sample(model, renamed, like, tensor), tensor.dtype) for tensor in _spread(first.tensors)]

    def _sample(self, model: Candidate, renamed: Renamed, like: Candidate, tensor: Tensor) -> memoryview:
        """Return the beginning of a model's chunk that is where a tensor is in `like`; nothing if there is none."""
        place = like.chunk_at(tensor.offset)
        if place is None:
            return memoryview(b"")
        digest = model.chunk_like(tensor, tensor.offset, place.raw_bytes)
        if digest is None:
            read = partial(beginning, self._objects, place)
            digest = renamed.chunk_like(tensor, tensor.offset, place.raw_bytes, read)
        return memoryview(b"") if digest is None else beginning(self._objects, Chunk(place.raw_bytes, digest))


def _alone_bytes(sample: tuple[memoryview, str]) -> int:
    """Return what a sample takes by itself; as a difference of what is not there does, where there is none."""
    return memoryview(codecs.encode(*sample).stored).nbytes if sample[0] else SAMPLE_BYTES


def _difference_bytes(own: tuple[memoryview, str], base: tuple[memoryview, str]) -> int:
    if own == base:
        return 0
    if len(own[0]) != len(base[0]):
        return SAMPLE_BYTES
    coded = codecs.encode_difference(own[0], base[0], own[1])
    return len(own[0]) if coded is None else memoryview(coded.stored).nbytes


def _spread(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return a few tensors of some size, evenly spread; the largest ones where there are none."""
    placed = [tensor for tensor in tensors if tensor.strides is None]
    some = [tensor for tensor in placed if nbytes_of(tensor) >= SAMPLE_BYTES]
    some = some or sorted(placed, key=nbytes_of)[-SAMPLES:]
    step = max(1, len(some) // SAMPLES)
    return some[step // 2 :: step][:SAMPLES]
