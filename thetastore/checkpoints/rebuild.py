"""A manifest in, the file's bytes out: every chunk, tensor and the file itself are checked against their digests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from thetastore.buffers import Buffers
from thetastore.checkpoints.ahead import ahead
from thetastore.chunking import MAX_GRID_CHUNK_BYTES
from thetastore.digest import Digest, Kind, digest_of, new_hasher
from thetastore.errors import ObjectCorruptError, ObjectMissingError
from thetastore.manifest import Chunk, Manifest, parse_page
from thetastore.objects import Objects
from thetastore.open_file import OpenFile
from thetastore.pool import Pool
from thetastore.tensor_digests import TensorDigests

INLINE_WORK_BYTES = 32 << 10
"""Chunks up to this length are decoded in the caller's thread, and files up to this length in one piece."""


class PlacedChunk(NamedTuple):
    """A chunk and where it lies in the file."""

    offset: int
    chunk: Chunk


def iter_chunks(objects: Objects, manifest: Manifest) -> Iterator[PlacedChunk]:
    """Yield the chunks of a file in order; pages are read one by one.

    Raises:
        ObjectMissingError, ObjectCorruptError: a page is not there or damaged.
    """
    offset = 0
    for chunk in manifest.chunks:
        yield PlacedChunk(offset, chunk)
        offset += chunk.raw_bytes
    for page in manifest.pages:
        for chunk in parse_page(objects.get(Kind.PAGE, page.digest), page):
            yield PlacedChunk(offset, chunk)
            offset += chunk.raw_bytes


def read_file(objects: Objects, pool: Pool, manifest: Manifest, manifest_digest: Digest) -> Iterator[memoryview]:
    """Yield the bytes of a file in order, each piece verified; a view is valid until the next one is asked for.

    The digests of the file and of its tensors are only known, and checked, at the end: whoever passes pieces
    on before that must be able to take them back. Tensors that do not lie in C order are not checked here.
    """
    if manifest.file_bytes <= INLINE_WORK_BYTES and not objects.backend.is_remote:
        yield _short_file(objects, manifest, manifest_digest)
        return
    reading = _Reading(objects, pool, manifest, manifest_digest, None)
    yield from reading.pieces()
    reading.check()


def write_file(
    objects: Objects,
    pool: Pool,
    manifest: Manifest,
    manifest_digest: Digest,
    descriptor: int,
    report: Callable[[int], None] | None = None,
) -> None:
    """Write a file into an empty open file, and verify everything that its manifest says.

    Args:
        objects: where the chunks are.
        pool: threads for decoding and writing.
        manifest: what to write.
        manifest_digest: its name, for messages.
        descriptor: open for reading and writing, written at absolute offsets; holds part of the file, or all
            of it unverified, if this raises.
        report: called with the bytes of each piece that was written.

    Raises:
        ObjectMissingError: a chunk or page is not in the store; names the tensor.
        ObjectCorruptError: something does not have its digest; names the tensor.
        OSError: the descriptor cannot be written: disk full.
    """
    reading = _Reading(objects, pool, manifest, manifest_digest, OpenFile(descriptor, manifest.file_bytes))
    for piece in reading.pieces():
        if report is not None:
            report(len(piece))
    reading.check()


def _short_file(objects: Objects, manifest: Manifest, manifest_digest: Digest) -> memoryview:
    """Return a short file whole, checked as `read_file` says: a thousand of them are a checkout of small adapters."""
    file = memoryview(bytearray(manifest.file_bytes))
    digests: dict[tuple[int, int], Digest] = {}
    for placed in iter_chunks(objects, manifest):
        end = placed.offset + placed.chunk.raw_bytes
        _get_chunk(objects, manifest, placed, file[placed.offset : end])
        digests[placed.offset, end] = placed.chunk.digest
    if digest_of(file) != manifest.file_digest:
        raise _not_its_file(manifest_digest)
    for tensor in manifest.tensors:
        start, end = tensor.offset, tensor.offset + tensor.raw_bytes
        if tensor.strides is None and (digests.get((start, end)) or digest_of(file[start:end])) != tensor.digest:
            raise _not_its_tensor(manifest_digest, tensor.name)
    return file


def _get_chunk(objects: Objects, manifest: Manifest, placed: PlacedChunk, out: memoryview) -> None:
    """Decode one chunk; an error names the tensor that it is of."""
    try:
        objects.get(Kind.CHUNK, placed.chunk.digest, out)
    except (ObjectMissingError, ObjectCorruptError) as error:
        error.tensor = _tensor_at(manifest, placed)
        raise


def _tensor_at(manifest: Manifest, placed: PlacedChunk) -> str | None:
    """Return the name of a tensor that has bytes in a chunk."""
    end = placed.offset + placed.chunk.raw_bytes
    for tensor in manifest.tensors:
        if tensor.offset < end and placed.offset < tensor.offset + max(tensor.placed().raw_bytes, 1):
            return tensor.name
    return None


class _Reading:
    """One pass over a manifest's chunks, which are written to `target` where it is given."""

    def __init__(
        self, objects: Objects, pool: Pool, manifest: Manifest, manifest_digest: Digest, target: OpenFile | None
    ) -> None:
        self._objects = objects
        self._pool = pool
        self._manifest = manifest
        self._manifest_digest = manifest_digest
        self._target = target
        self._buffers = Buffers(MAX_GRID_CHUNK_BYTES)
        self._file_hasher = new_hasher()
        self._placed = tuple(tensor.placed() for tensor in manifest.tensors)
        self._tensor_digests = TensorDigests(self._placed)

    def pieces(self) -> Iterator[memoryview]:
        """Yield the decoded and verified chunks in order, each valid until the next."""
        chunks = ahead(self._objects, iter_chunks(self._objects, self._manifest), lambda placed: placed.chunk.digest)
        for placed, raw in self._pool.map_bounded(self._decoded, chunks, _is_small):
            self._file_hasher.update(raw)
            self._tensor_digests.feed(placed.offset, raw)
            self._tensor_digests.adopt(placed.offset, len(raw), placed.chunk.digest)
            yield raw
            self._buffers.give(raw)

    def check(self) -> None:
        """Compare the digests of the file and its tensors, once all pieces went by."""
        if self._file_hasher.digest() != self._manifest.file_digest:
            raise _not_its_file(self._manifest_digest)
        if self._target is None and any(tensor.strides is not None for tensor in self._placed):
            return
        digests = self._tensor_digests.finish(self._target)
        for tensor, digest in zip(self._manifest.tensors, digests, strict=True):
            if tensor.digest != digest:
                raise _not_its_tensor(self._manifest_digest, tensor.name)

    def _decoded(self, placed: PlacedChunk) -> tuple[PlacedChunk, memoryview]:
        """Decode one chunk, and write it to the target; runs in a thread."""
        raw = self._buffers.take(placed.chunk.raw_bytes)
        _get_chunk(self._objects, self._manifest, placed, raw)
        if self._target is not None:
            self._target.write_at(placed.offset, raw)
        return placed, raw


def _not_its_file(manifest_digest: Digest) -> ObjectCorruptError:
    return _wrong(manifest_digest, "its chunks do not make up the file that it names")


def _not_its_tensor(manifest_digest: Digest, name: str) -> ObjectCorruptError:
    return _wrong(manifest_digest, f"tensor '{name}' does not have the digest that it names")


def _wrong(manifest_digest: Digest, reason: str) -> ObjectCorruptError:
    return ObjectCorruptError(str(manifest_digest), "the manifest", reason)


def _is_small(placed: PlacedChunk) -> bool:
    return placed.chunk.raw_bytes <= INLINE_WORK_BYTES
