"""What files need, in the order in which it is copied, with what a copy has to know to choose representations."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from thetastore.bases.candidates import Candidate, PlacedTensor, TensorMap
from thetastore.bases.families import family_keys
from thetastore.bases.finding import MOST_SKETCHES, Bases, Sketches, file_model
from thetastore.chunking import columns_of
from thetastore.digest import Digest, Kind
from thetastore.manifest import Chunk, Manifest, parse_manifest, parse_page
from thetastore.objects import Objects
from thetastore.selection import Ranges, Wants, wanted_of

GetObject = Callable[[Kind, Digest], memoryview]


class ShippedFile:
    """One file of a shipment. Nothing is looked up before it is asked for."""

    def __init__(self, manifest: Manifest, here: Objects | None, target: Objects) -> None:
        """Ship a file to `target`; `here` is a near store that holds it, or will when all of it has come."""
        self.manifest = manifest
        self._here = here
        self._target = target
        self._map: TensorMap | None = None
        self._bases: Bases | None = None

    @property
    def bases(self) -> Bases:
        """What guesses bases, in the target, for its chunks."""
        if self._bases is None:
            is_at_hand = self._here is not None and self._here is not self._target
            self._bases = Bases(self._target, self.manifest.tensors, None, self._sketches if is_at_hand else None)
        return self._bases

    def tensor_at(self, offset: int, raw_bytes: int) -> PlacedTensor | None:
        """Return the tensor that a chunk is a part of."""
        if self._map is None:
            self._map = TensorMap(self.manifest.tensors)
        return self._map.at(offset, raw_bytes)

    def register(self, manifest_digest: Digest) -> None:
        """Make it known to its family in the target, once it is there."""
        file_model(self._target.backend, self.manifest.tensors, self._sketches(), manifest_digest)

    def _sketches(self) -> Sketches:
        return {} if self._here is None else Candidate(self._here, self.manifest).sketches(MOST_SKETCHES)


class Piece(NamedTuple):
    """An object of a shipment: a chunk, or with no bytes a page or manifest."""

    digest: Digest
    file: ShippedFile
    offset: int = 0
    """Of a chunk in the file."""
    raw_bytes: int = 0

    @property
    def elements(self) -> tuple[str | None, int]:
        """Their type and how many a row has, of a chunk of a tensor; else None and 0."""
        tensor = self.file.tensor_at(self.offset, self.raw_bytes) if self.raw_bytes else None
        return (None, 0) if tensor is None else (tensor.dtype, columns_of(tensor.shape))


class Shipment:
    """The objects of some files. Iterating yields them, each manifest and page after what it lists."""

    def __init__(
        self,
        get: GetObject,
        source: Objects,
        target: Objects,
        manifest_digests: Iterable[Digest],
        wants: Wants | None = None,
    ) -> None:
        """Ship the files of these manifests, which `get` returns, and their pages, from `source` to `target`.

        Of each file go all chunks, or only those that hold tensors that `wants` tells of.
        """
        self.families: dict[tuple[str, ...], tuple[Digest, ShippedFile]] = {}
        """Of what was yielded so far: the first file of each family."""
        self._get = get
        self._source = source
        self._target = target
        self._here = next((store for store in (source, target) if not store.backend.is_remote), None)
        self._wants = wants
        self._manifest_digests = tuple(dict.fromkeys(manifest_digests))
        self._words: array[int] | None = None

    def __iter__(self) -> Iterator[Piece]:
        seen: set[Digest] = set()
        for manifest_digest in self._manifest_digests:
            manifest = parse_manifest(self._get(Kind.MANIFEST, manifest_digest))
            file = ShippedFile(manifest, self._here, self._target)
            ranges = None if self._wants is None else wanted_of(manifest_digest, manifest, self._wants)
            yield from _chunks(file, manifest.chunks, 0, ranges)
            offset = 0
            for page in manifest.pages:
                is_wanted = ranges is None or ranges.overlap(offset, offset + page.raw_bytes)
                # Files share pages; of a page in two files, other parts may be wanted.
                if is_wanted and (ranges is not None or page.digest not in seen):
                    seen.add(page.digest)
                    chunks = parse_page(self._get(Kind.PAGE, page.digest), page)
                    yield from _chunks(file, chunks, offset, ranges)
                    yield Piece(page.digest, file)
                offset += page.raw_bytes
            if ranges is None:
                self.families.setdefault(family_keys(manifest.tensors), (manifest_digest, file))
            yield Piece(manifest_digest, file)

    def wants(self, digest: Digest) -> bool:
        """Tell whether an object is among those yielded at any time.

        The first call reads all manifests once more; 8 bytes an object are kept.
        """
        if self._words is None:
            import numpy

            every = Shipment(self._get, self._source, self._target, self._manifest_digests, self._wants)
            self._words = array("Q", (_word(piece.digest) for piece in every))
            numpy.frombuffer(self._words, dtype=numpy.uint64).sort()
        at = bisect_left(self._words, _word(digest))
        return at < len(self._words) and self._words[at] == _word(digest)


def _chunks(file: ShippedFile, chunks: Iterable[Chunk], offset: int, ranges: Ranges | None) -> Iterator[Piece]:
    for chunk in chunks:
        if ranges is None or ranges.overlap(offset, offset + chunk.raw_bytes):
            yield Piece(chunk.digest, file, offset, chunk.raw_bytes)
        offset += chunk.raw_bytes


def _word(digest: Digest) -> int:
    return int.from_bytes(digest[:8], "little")
