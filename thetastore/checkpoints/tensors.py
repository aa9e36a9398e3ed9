"""One tensor of a file, or a part of it, without the rest: only the chunks that overlap it are read.

Every byte that leaves here is of a chunk whose digest was checked; where a whole tensor was read, its own digest is
checked too. Reading is thread-safe.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from thetastore.buffers import Buffers
from thetastore.checkpoints.ahead import ahead
from thetastore.checkpoints.pieces import Pieces
from thetastore.checkpoints.rebuild import INLINE_WORK_BYTES, PlacedChunk
from thetastore.chunking import MAX_GRID_CHUNK_BYTES
from thetastore.digest import Digest, Kind, new_hasher
from thetastore.dtypes import DTYPES
from thetastore.errors import NoSuchTensorError, ObjectCorruptError, ObjectMissingError, OutOfRangeError
from thetastore.layout import Tensor as LaidTensor
from thetastore.manifest import Chunk, Manifest, Tensor, parse_page
from thetastore.objects import Objects
from thetastore.pool import Pool
from thetastore.selection import reach_bytes

_KEPT_BYTES = 64 << 20
"""Decoded chunks kept while a strided tensor is gathered: its tiles come back to the same ones."""
_KEPT_PAGES = 16
_FIRST_BYTES = 16 << 20
"""So much of each tensor is fetched from far away together with others; the rest when it is read."""
_PLAIN_BYTES = 64 << 10
"""Longer memory comes from numpy, which does not clear it first and asks for huge pages."""


class StoredAt(NamedTuple):
    """Where the bytes lie that a codec made of a chunk, and needs no others to undo."""

    store_url: str
    file_name: str
    """In the store."""
    offset: int
    nbytes: int
    codec: str


class TensorReader:
    """Reads the tensors of one file. Thread-safe; for the life of the store that made it."""

    def __init__(
        self,
        objects: Objects,
        pool: Pool,
        manifest: Manifest,
        manifest_digest: Digest,
        in_pieces: Mapping[str, Pieces] | None = None,
    ) -> None:
        self.manifest = manifest
        self.manifest_digest = manifest_digest
        self._objects = objects
        self._pool = pool
        self._tensors = {tensor.name: tensor for tensor in manifest.tensors}
        self._in_pieces = in_pieces or {}
        self._chunk_list = _ChunkList(objects, manifest)
        self._buffers = Buffers(MAX_GRID_CHUNK_BYTES)

    def tensor(self, name: str) -> Tensor:
        """Return what the manifest says of a tensor.

        Raises:
            NoSuchTensorError: the file has none of this name.
        """
        try:
            return self._tensors[name]
        except KeyError:
            raise NoSuchTensorError(name, tuple(self._tensors)) from None

    @property
    def objects(self) -> Objects:
        """Where its chunks are."""
        return self._objects

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def holding(self, tensors: Iterable[Tensor], in_pieces: Mapping[str, Pieces] | None = None) -> TensorReader:
        """Return what reads tensors that another file says lie in this one, or in pieces in any.

        Of those without a digest, only their chunks prove the bytes.
        """
        manifest = self.manifest._replace(tensors=tuple(sorted(tensors)))
        return TensorReader(self._objects, self._pool, manifest, self.manifest_digest, in_pieces)

    def places(self, names: Iterable[str]) -> Iterator[tuple[TensorReader, Tensor]]:
        """Yield where in which files the bytes of tensors lie; of those that the file has."""
        for name in names:
            if name in self._in_pieces:
                for piece in self._in_pieces[name]:
                    yield from piece.reader.places([piece.name])
            elif name in self:
                yield self, self.tensor(name)

    def digest(self, name: str) -> Digest:
        """Return the digest of a tensor's bytes in C order; one that no manifest has is read for it.

        Raises as `read` does.
        """
        tensor = self.tensor(name)
        if tensor.digest:
            return tensor.digest
        hasher = new_hasher()
        for piece in self._pieces(tensor):
            hasher.update(piece)
        return Digest(hasher.digest())

    def mark(self, name: str) -> Digest:
        """Return a digest of what manifests say of a tensor's bytes: if it is equal, they are; nothing else is read.

        Raises:
            NoSuchTensorError, ObjectMissingError, ObjectCorruptError: as `read`, of pages.
        """
        tensor = self.tensor(name)
        if tensor.digest:
            return tensor.digest
        hasher = new_hasher()
        for piece in self._in_pieces.get(name, ()):
            hasher.update(f"{piece.at} {piece.shape} {piece.reader.mark(piece.name)}\n".encode())
        for offset, chunk in self.chunks(name):
            start, stop = max(tensor.offset, offset), min(tensor.offset + tensor.raw_bytes, offset + chunk.raw_bytes)
            hasher.update(f"{start - offset} {stop - start} {chunk.digest}\n".encode())
        return Digest(hasher.digest())

    def read(self, name: str, out: memoryview | None = None) -> memoryview:
        """Return all bytes of a tensor in C order, proven by its digest.

        Args:
            name: of the tensor.
            out: where to put them, of exactly their length; None for new memory. After an error its content is
                undefined. Beside it a few chunks are in memory; of a strided tensor, as much again.

        Raises:
            NoSuchTensorError: the file has no such tensor.
            ObjectMissingError: a chunk or page is not in the store; names the tensor.
            ObjectCorruptError: a chunk, or the tensor, does not have its digest; names the tensor.
        """
        tensor = self.tensor(name)
        target = _target(tensor.raw_bytes, out)
        chunks = self.chunks(name) if tensor.strides is None else ()
        if len(chunks) == 1 and chunks[0][0] == tensor.offset and chunks[0].chunk.raw_bytes == tensor.raw_bytes:
            for placed in ahead(self._objects, chunks, _digest_of):
                self._decode(tensor, placed, target)
            self._check(tensor, chunks[0].chunk.digest)
            return target
        hasher = new_hasher()
        done = 0
        for done_now in self._fill(tensor, 0, tensor.raw_bytes, target, max(_KEPT_BYTES, tensor.raw_bytes)):
            hasher.update(target[done:done_now])
            done = done_now
        self._check(tensor, Digest(hasher.digest()))
        return target

    def read_range(self, name: str, start: int, stop: int, out: memoryview | None = None) -> memoryview:
        """Return the bytes `[start, stop)` of a tensor's bytes in C order; only the chunks needed are read.

        Args:
            name: of the tensor.
            start: first byte.
            stop: end.
            out: as in `read`.

        Raises:
            OutOfRangeError: the tensor does not have these bytes.
            NoSuchTensorError, ObjectMissingError, ObjectCorruptError: as `read`.
        """
        tensor = self.tensor(name)
        if not 0 <= start <= stop <= tensor.raw_bytes:
            raise OutOfRangeError(f"bytes {start} to {stop} of tensor '{name}', which has {tensor.raw_bytes}")
        target = _target(stop - start, out)
        for _ in self._fill(tensor, start, stop, target, _KEPT_BYTES):
            pass
        return target

    def pieces(self, name: str) -> Iterator[tuple[int, memoryview]]:
        """Yield (byte offset in C order, bytes) for the whole tensor in order, in bounded memory.

        A view is valid until the next is asked for. The tensor's digest is checked at the end: whoever passes
        pieces on before that must be able to take them back.

        Raises as `read` does.
        """
        tensor = self.tensor(name)
        hasher = new_hasher()
        offset = 0
        for piece in self._pieces(tensor):
            hasher.update(piece)
            yield offset, piece
            offset += piece.nbytes
        self._check(tensor, Digest(hasher.digest()))

    def read_file(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)` of the file, tensors' or not; the digests of their chunks are checked.

        Raises:
            OutOfRangeError: the file does not have these bytes.
            ObjectMissingError, ObjectCorruptError: as `read`.
        """
        if not 0 <= start <= stop <= self.manifest.file_bytes:
            raise OutOfRangeError(f"bytes {start} to {stop} of a file that has {self.manifest.file_bytes}")
        whole = Tensor("", "uint8", (self.manifest.file_bytes,), 0, None, self.manifest.file_digest)
        target = new_memory(stop - start)
        for _ in self._fill(whole, start, stop, target, 0):
            pass
        return bytes(target)

    def chunks(self, name: str) -> tuple[PlacedChunk, ...]:
        """Return the chunks that hold bytes of a tensor, in the order of the file, with their offsets in the file.

        They may hold other bytes too. Two tensors whose chunks have equal digests at equal places are equal.
        Of a strided tensor: all chunks between its first and its last element; of one in pieces: none.

        Raises:
            NoSuchTensorError, ObjectMissingError, ObjectCorruptError: as `read`, of pages.
        """
        tensor = self.tensor(name)
        if name in self._in_pieces:
            return ()
        return tuple(self._placed(tensor, tensor.offset, tensor.offset + reach_bytes(tensor)))

    def expect_stored_alone(self, names: Iterable[str]) -> None:
        """Announce that `stored_alone` will be asked of the chunks of these tensors. Only a hint."""
        self._objects.whereabouts.expect_heads([one.chunk.digest for name in names for one in self.chunks(name)])

    def stored_alone(self, digest: Digest) -> Iterator[StoredAt]:
        """Yield where the store has a chunk in a form that can be read without any other."""
        url = self._objects.backend.url
        for place, entry in self._objects.standing_alone(digest):
            offset = place.offset + place.nbytes - entry.stored_bytes
            yield StoredAt(url, place.file_name, offset, entry.stored_bytes, entry.codec)

    def _placed(self, tensor: Tensor, start: int, stop: int) -> Iterator[PlacedChunk]:
        try:
            yield from self._chunk_list.between(start, stop)
        except (ObjectMissingError, ObjectCorruptError) as error:
            error.tensor = tensor.name
            raise

    def _first_chunks(self, name: str) -> Iterator[Digest]:
        for reader, tensor in self.places([name]):
            end = tensor.offset + min(reach_bytes(tensor), _FIRST_BYTES)
            yield from (placed.chunk.digest for placed in reader._placed(tensor, tensor.offset, end))

    def _announced(self, tensor: Tensor, start: int, stop: int) -> Iterator[PlacedChunk]:
        """Yield chunks that are about to be read: from a store far away they come together."""
        return ahead(self._objects, self._placed(tensor, start, stop), _digest_of)

    def _fill(self, tensor: Tensor, start: int, stop: int, target: memoryview, kept_bytes: int) -> Iterator[int]:
        """Put bytes `[start, stop)` of a tensor into `target`; yield how many are there, now and then."""
        if tensor.name in self._in_pieces:
            yield from self._in_pieces[tensor.name].fill(start, stop, target)
            return
        if tensor.strides is not None:
            done = 0
            for block in self._gathered(tensor, start, stop, kept_bytes):
                target[done : done + len(block)] = block
                done += len(block)
                yield done
            return
        first, last = tensor.offset + start, tensor.offset + stop

        def place(placed: PlacedChunk) -> int:
            begin, end = max(placed.offset, first), min(placed.offset + placed.chunk.raw_bytes, last)
            part = target[begin - first : end - first]
            if part.nbytes == placed.chunk.raw_bytes:
                self._decode(tensor, placed, part)
            else:
                raw = self._buffers.take(placed.chunk.raw_bytes)
                self._decode(tensor, placed, raw)
                part[:] = raw[begin - placed.offset : end - placed.offset]
                self._buffers.give(raw)
            return end - first

        yield from self._pool.map_bounded(place, self._announced(tensor, first, last), _is_small)

    def _pieces(self, tensor: Tensor) -> Iterator[memoryview]:
        if tensor.name in self._in_pieces:
            yield from self._in_pieces[tensor.name].blocks(0, tensor.raw_bytes)
            return
        if tensor.strides is not None:
            yield from self._gathered(tensor, 0, tensor.raw_bytes, _KEPT_BYTES)
            return
        first, last = tensor.offset, tensor.offset + tensor.raw_bytes

        def decoded(placed: PlacedChunk) -> tuple[int, memoryview]:
            raw = self._buffers.take(placed.chunk.raw_bytes)
            self._decode(tensor, placed, raw)
            return placed.offset, raw

        for offset, raw in self._pool.map_bounded(decoded, self._announced(tensor, first, last), _is_small):
            yield raw[max(first - offset, 0) : last - offset]
            self._buffers.give(raw)

    def _gathered(self, tensor: Tensor, start: int, stop: int, kept_bytes: int) -> Iterator[memoryview]:
        """Yield the bytes `[start, stop)` of a strided tensor."""
        from thetastore.strided import iter_c_order

        if start == stop:
            return
        part, skipped = _narrowed(tensor.placed(), start, stop)
        file = _FileOfChunks(self, tensor, kept_bytes)
        at = start - skipped
        for block in iter_c_order(file, part):
            piece = memoryview(block)[max(start - at, 0) : max(stop - at, 0)]
            at += len(block)
            if piece:
                yield piece

    def _decode(self, tensor: Tensor, placed: PlacedChunk, out: memoryview) -> None:
        try:
            self._objects.get(Kind.CHUNK, placed.chunk.digest, out)
        except (ObjectMissingError, ObjectCorruptError) as error:
            error.tensor = tensor.name
            raise

    def _check(self, tensor: Tensor, digest: Digest) -> None:
        if tensor.digest and digest != tensor.digest:
            reason = f"tensor '{tensor.name}' does not have the digest that it names"
            raise ObjectCorruptError(str(self.manifest_digest), "the manifest", reason)


def in_turn(wanted: Iterable[tuple[TensorReader, str]]) -> Iterator[tuple[TensorReader, str]]:
    """Yield names of tensors as they are given, their chunks announced: for reading several from far away.

    Of long tensors, `read` announces the rest, piece by piece.

    Args:
        wanted: names, each with the reader of its file; all of one store.
    """
    rest = iter(wanted)
    first = next(rest, None)
    if first is None:
        return
    objects = first[0]._objects
    if not objects.backend.is_remote:
        yield first
        yield from rest
        return

    def chunks() -> Iterator[tuple[tuple[TensorReader, str] | None, Digest | None]]:
        for one in chain((first,), rest):
            yield from ((None, digest) for digest in one[0]._first_chunks(one[1]))
            yield one, None

    yield from (one for one, _ in ahead(objects, chunks(), lambda item: item[1]) if one is not None)


class _ChunkList:
    """The chunks of a file by their place. A page is read when it is first needed; a few are kept."""

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self._objects = objects
        self._manifest = manifest
        self._page_starts = list(accumulate((page.raw_bytes for page in manifest.pages), initial=0))
        self._runs: OrderedDict[int, tuple[list[int], Sequence[Chunk]]] = OrderedDict()

    def between(self, start: int, stop: int) -> Iterator[PlacedChunk]:
        """Yield the chunks that hold any of the bytes `[start, stop)` of the file, in order."""
        if start >= stop:
            return
        number = max(bisect_right(self._page_starts, start) - 1, 0)
        while True:
            starts, chunks = self._run(number)
            for at in range(bisect_right(starts, start) - 1, len(chunks)):
                if starts[at] >= stop:
                    return
                yield PlacedChunk(starts[at], chunks[at])
            start = starts[-1]
            if start >= stop:
                return
            number += 1

    def _run(self, number: int) -> tuple[list[int], Sequence[Chunk]]:
        """Return the chunks of a page, or of the root, and where each begins and the last one ends."""
        run = self._runs.get(number)
        if run is None:
            chunks: Sequence[Chunk] = self._manifest.chunks
            if self._manifest.pages:
                page = self._manifest.pages[number]
                chunks = parse_page(self._objects.get(Kind.PAGE, page.digest), page)
            starts = list(accumulate((chunk.raw_bytes for chunk in chunks), initial=self._page_starts[number]))
            run = self._runs[number] = starts, chunks
            while len(self._runs) > _KEPT_PAGES:
                try:
                    self._runs.popitem(last=False)
                except KeyError:  # another thread was faster
                    break
        return run


class _FileOfChunks:
    """The whole file as a `RandomAccess` for what gathers strided tensors; the chunks last read are kept."""

    def __init__(self, reader: TensorReader, tensor: Tensor, kept_bytes: int) -> None:
        self.size = reader.manifest.file_bytes
        self._reader = reader
        self._tensor = tensor
        self._left_bytes = kept_bytes
        self._kept: OrderedDict[int, memoryview] = OrderedDict()

    def read_at(self, offset: int, nbytes: int) -> bytes:
        """Return the bytes `[offset, offset + nbytes)` of the file."""
        stop = min(offset + nbytes, self.size)
        parts = [
            self._chunk(placed)[max(offset - placed.offset, 0) : stop - placed.offset]
            for placed in self._reader._placed(self._tensor, offset, stop)
        ]
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def _chunk(self, placed: PlacedChunk) -> memoryview:
        raw = self._kept.get(placed.offset)
        if raw is not None:
            self._kept.move_to_end(placed.offset)
            return raw
        raw = self._reader._buffers.take(placed.chunk.raw_bytes)
        self._reader._decode(self._tensor, placed, raw)
        self._kept[placed.offset] = raw
        self._left_bytes -= raw.nbytes
        while self._left_bytes < 0 and len(self._kept) > 1:
            self._left_bytes += self._kept.popitem(last=False)[1].nbytes
        return raw


def new_memory(nbytes: int) -> memoryview:
    """Return writable bytes of any content."""
    if nbytes < _PLAIN_BYTES:
        return memoryview(bytearray(nbytes))
    import numpy

    return numpy.empty(nbytes, "u1").data


def _target(nbytes: int, out: memoryview | None) -> memoryview:
    if out is None:
        return new_memory(nbytes)
    if out.nbytes != nbytes or out.readonly or not out.c_contiguous:
        raise ValueError(f"'out' must be {nbytes} writable contiguous bytes; it is {out.nbytes} bytes")
    return out.cast("B") if out.format != "B" or out.ndim != 1 else out


def _digest_of(placed: PlacedChunk) -> Digest:
    return placed.chunk.digest


def _is_small(placed: PlacedChunk) -> bool:
    return placed.chunk.raw_bytes <= INLINE_WORK_BYTES


def _narrowed(tensor: LaidTensor, start: int, stop: int) -> tuple[LaidTensor, int]:
    """Return the smallest run of leading indices that holds bytes `[start, stop)`, and what it has before `start`."""
    assert tensor.strides is not None
    item_bytes = DTYPES[tensor.dtype].bits // 8
    skipped, length = start, stop - start
    for axis, (count, step) in enumerate(zip(tensor.shape, tensor.strides, strict=True)):
        index_bytes = tensor.raw_bytes // count if count else 0
        if not index_bytes or not length:
            break
        first, end = skipped // index_bytes, -(-(skipped + length) // index_bytes)
        skipped -= first * index_bytes
        shape = (*tensor.shape[:axis], end - first, *tensor.shape[axis + 1 :])
        tensor = tensor._replace(shape=shape, offset=tensor.offset + first * step * item_bytes)
        if end - first > 1:
            break
    return tensor, skipped
