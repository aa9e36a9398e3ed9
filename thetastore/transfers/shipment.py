"""What files need, in the order in which it is copied, with what a copy has to know to choose representations."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from thetastore.bases.families import family_keys
from thetastore.bases.finding import Bases, TensorMap
from thetastore.digest import Digest, Kind
from thetastore.manifest import Chunk, Manifest, parse_manifest, parse_page
from thetastore.objects import Objects
from thetastore.selection import Ranges, Wants

GetObject = Callable[[Kind, Digest], memoryview]


class Shipment:
    """The objects of some files. Iterating yields them, each manifest and page after what it lists."""

    def __init__(
        self, get: GetObject, target: Objects, manifest_digests: Iterable[Digest], wants: Wants | None = None
    ) -> None:
        """Ship the files of these manifests, which `get` returns, and their pages, to `target`.

        Of each file go all chunks, or only those that hold tensors that `wants` tells of.
        """
        self.families: dict[tuple[str, ...], Digest] = {}
        """Of what was yielded so far: the first manifest under its keys in the family table."""
        self._get = get
        self._target = target
        self._wants = wants
        self._manifest_digests = tuple(dict.fromkeys(manifest_digests))
        self._manifest: Manifest | None = None
        self._map: TensorMap | None = None
        self._bases: Bases | None = None
        self._offset = 0
        self._raw_bytes = 0
        self._words: array[int] | None = None

    def __iter__(self) -> Iterator[Digest]:
        seen: set[Digest] = set()
        for manifest_digest in self._manifest_digests:
            manifest = parse_manifest(self._get(Kind.MANIFEST, manifest_digest))
            self._manifest, self._map, self._bases, self._offset, self._raw_bytes = manifest, None, None, 0, 0
            ranges = None if self._wants is None else Ranges(manifest.tensors, self._wants)
            yield from self._chunks(manifest.chunks, ranges)
            for page in manifest.pages:
                is_wanted = ranges is None or ranges.overlap(self._offset, self._offset + page.raw_bytes)
                # Files share pages; of a page in two files, other parts may be wanted.
                if not is_wanted or (ranges is None and page.digest in seen):
                    self._offset += page.raw_bytes
                    continue
                seen.add(page.digest)
                yield from self._chunks(parse_page(self._get(Kind.PAGE, page.digest), page), ranges)
                yield page.digest
            if ranges is None:
                self.families.setdefault(family_keys(manifest.tensors), manifest_digest)
            yield manifest_digest

    def _chunks(self, chunks: Iterable[Chunk], ranges: Ranges | None) -> Iterator[Digest]:
        for chunk in chunks:
            self._raw_bytes = chunk.raw_bytes
            if ranges is None or ranges.overlap(self._offset, self._offset + chunk.raw_bytes):
                yield chunk.digest
            self._offset += chunk.raw_bytes

    def dtype(self) -> str | None:
        """Return the element type of the chunk that was yielded last; None where it is of no tensor."""
        if self._map is None:
            self._map = TensorMap(self._manifest.tensors if self._manifest is not None else ())
        tensor = self._map.at(self._offset, self._raw_bytes)
        return None if tensor is None else tensor.dtype

    def bases(self) -> Bases:
        """Return what guesses bases, in the target, for the chunks of the file whose object was yielded last."""
        if self._bases is None:
            self._bases = Bases(self._target, self._manifest.tensors if self._manifest is not None else ())
        return self._bases

    def guess(self, raw: memoryview) -> Iterator[Digest]:
        """Yield chunks of the target of which the chunk that was yielded last may be a difference."""
        return self.bases().guess(self._offset, raw, self.dtype())

    def wants(self, digest: Digest) -> bool:
        """Tell whether an object is among those yielded at any time.

        The first call reads all manifests once more; 8 bytes an object are kept.
        """
        if self._words is None:
            import numpy

            every = Shipment(self._get, self._target, self._manifest_digests, self._wants)
            self._words = array("Q", map(_word, every))
            numpy.frombuffer(self._words, dtype=numpy.uint64).sort()
        at = bisect_left(self._words, _word(digest))
        return at < len(self._words) and self._words[at] == _word(digest)


def _word(digest: Digest) -> int:
    return int.from_bytes(digest[:8], "little")
