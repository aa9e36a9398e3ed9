"""A file's bytes in, its manifest out: locate tensors, cut, hash, and store what is new.

One pass over a stream, in bounded memory. The caller's thread reads, hashes what must be hashed in order
(the file, tensors of several chunks) and appends; where that pays, a pool's threads name and code the chunks. A file
whose directory is not at its start is spooled first; a file that turns out not to be what its head promised is
read back from the chunks just stored and kept as opaque bytes, so no content can make this fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, NamedTuple, Protocol

from thetastore.bases.candidates import PlacedTensor, TensorMap
from thetastore.bases.finding import BaseHint, Bases
from thetastore.buffers import Buffers
from thetastore.checkpoints.cuts import INLINE_WORK_BYTES, Piece
from thetastore.chunking import CONTENT_MAX_BYTES, MAX_GRID_CHUNK_BYTES, columns_of, content_cut, grid_lengths
from thetastore.digest import Buffer, Digest, Kind, digest_of, new_hasher
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, SNIFF_BYTES, Format, HeaderFormat, NeedBytes, next_prefix_bytes
from thetastore.formats.registry import candidates
from thetastore.layout import Layout
from thetastore.manifest import Chunk, Manifest, PageRef, Tensor, encode_manifest, encode_page, paginate
from thetastore.objects import Objects, Prepared
from thetastore.open_file import OpenFile
from thetastore.pool import Pool
from thetastore.representations.updating import Proposal
from thetastore.tensor_digests import TensorDigests

OPAQUE = Layout("opaque", 1, 0, (), ())
"""The layout of a file of which nothing is known; its length is found by reading."""

_WORKERS_THAT_PAY = 3
"""With fewer threads, elements are coded in the caller's: that is some dozens of calls of 10 to 100 us, after each of
which a thread has to have the interpreter back, and waking another one takes as long. On 2 processors, two threads took
as long as none for all weights that were tried, and a third more processor time (45 MB of a fine-tune in bfloat16: 158
ms and 222 of processor time, without them 157 and 157; 100 MB that are new, in float32: 232 and 262, 220 and 193)."""

_SPOOL_BYTES = 1 << 20


class Source(Protocol):
    """Where a file's bytes come from: anything with the `readinto` of binary files."""

    def readinto(self, view: memoryview, /) -> int | None:
        """Write up to `len(view)` bytes into `view`; return how many, 0 at the end."""


class Updates(Protocol):
    """Knows how tensors of the file were made from those of another one."""

    def proposal(self, tensor: PlacedTensor, offset: int, nbytes: int) -> Proposal | None:
        """Return how the chunk of a tensor at an offset in the file may be made; None where nothing is known.

        Called in the thread that adds to the store, for chunks in the order of the file.
        """

    def learn(self, prepared: Prepared) -> None:
        """Take note of what became of a chunk for which there was a proposal."""


class Ingested(NamedTuple):
    """A file that is in the store."""

    manifest_digest: Digest
    manifest: Manifest


def ingest(
    objects: Objects,
    pool: Pool,
    source: Source,
    scratch: str | None = None,
    parent: BaseHint = None,
    updates: Updates | None = None,
) -> Ingested:
    """Store a file and return its manifest.

    Args:
        objects: where chunks, pages and the manifest go. They are readable by others when this returns;
            durable after `objects.seal`.
        pool: threads for the coding.
        source: the file's bytes, from the start; read to the end.
        scratch: a directory for spooled files, on a disk with room for the file; None for the system's.
        parent: the manifest of the version before this one, for differences; one that is missing or damaged is none.
        updates: knows how some tensors were made; what it says is kept where it proves to be right, and small.

    Raises:
        BackendError: the store's disk is full or failing.
        OSError: the source or the scratch directory failed.
    """
    stream = _Stream(source, scratch)
    try:
        for candidate in candidates(stream.peek(SNIFF_BYTES)):
            layout = _located(candidate, stream)
            if layout is None:
                continue
            bases = Bases(objects, layout.tensors, parent)
            run = _Run(objects, pool, stream, layout, bases, updates)
            manifest = run.manifest()
            if manifest is not None:
                return _stored(objects, manifest, bases, parent)
            stream.push_back(run.replay())
        bases = Bases(objects, ())
        manifest = _Run(objects, pool, stream, OPAQUE, bases).manifest()
        assert manifest is not None, "an opaque file is whatever was read"
        return _stored(objects, manifest, bases, parent)
    finally:
        stream.close()


def _located(candidate: Format, stream: _Stream) -> Layout | None:
    """Return where a format sees tensors, or None if it declines the file."""
    try:
        if not isinstance(candidate, HeaderFormat):
            return candidate.scan(stream.spooled())
        prefix = stream.peek(SNIFF_BYTES)
        while True:
            try:
                layout = candidate.scan_header(prefix)
            except NeedBytes as need:
                if not len(prefix) < need.nbytes <= MAX_HEADER_BYTES:
                    return None
                prefix = stream.peek(next_prefix_bytes(len(prefix), need.nbytes))
                if len(prefix) < need.nbytes:
                    return None
            else:
                return layout if all(tensor.strides is None for tensor in layout.tensors) else None
    except NotThisFormat:
        return None


def _stored(objects: Objects, manifest: Manifest, bases: Bases, parent: BaseHint) -> Ingested:
    described = _described(manifest)
    # What the draft has described keeps its name: the same bytes are to be the same pointer, and the same version of a
    # model, before and after an upgrade. Far away only the version before is looked at: an answer takes a round trip.
    draft = _described(manifest._replace(version=0, layout_version=0))
    if draft.digest == parent or (not objects.backend.is_remote and objects.contains(draft.digest)):
        described = draft
    for page in described.pages:
        objects.put(Kind.PAGE, page)
    root = objects.prepare(Kind.MANIFEST, described.root)
    objects.add(root)
    if root.entry is not None:
        bases.register(root.digest)
    return Ingested(root.digest, described.manifest)


class _Described(NamedTuple):
    """A manifest in the bytes of its version."""

    manifest: Manifest
    pages: list[bytes]
    root: bytes
    digest: Digest


def _described(manifest: Manifest) -> _Described:
    """Encode a manifest that has all its chunks, in pages where they are many."""
    pages, refs = [], []
    for chunks in paginate(manifest.chunks):
        pages.append(encode_page(chunks, manifest.version))
        digest = digest_of(pages[-1], Kind.PAGE)
        refs.append(PageRef(sum(chunk.raw_bytes for chunk in chunks), len(chunks), digest))
    if refs:
        manifest = manifest._replace(chunks=(), pages=tuple(refs))
    root = encode_manifest(manifest)
    return _Described(manifest, pages, root, digest_of(root, Kind.MANIFEST))


class _Run:
    """One pass over a stream under one layout."""

    def __init__(
        self,
        objects: Objects,
        pool: Pool,
        stream: _Stream,
        layout: Layout,
        bases: Bases,
        updates: Updates | None = None,
    ) -> None:
        self._objects = objects
        self._bases = bases
        self._updates = updates
        self._tensors = TensorMap(() if updates is None else layout.tensors)
        self._pool = pool
        self._stream = stream
        self._layout = layout
        self._buffers = Buffers(MAX_GRID_CHUNK_BYTES)
        self._file_hasher = new_hasher()
        self._tensor_digests = TensorDigests(layout.tensors)
        self._chunks: list[Chunk] = []
        self._offset = 0
        self._tail = memoryview(b"")
        """What was read of a piece that the stream's end cut short."""

    def manifest(self) -> Manifest | None:
        """Store the chunks and describe the file; None if the file is not as long as its layout says."""
        for piece, prepared in self._prepared():
            digest = self._objects.add(prepared)
            self._bases.learn(prepared)
            if self._updates is not None and piece.update is not None:
                self._updates.learn(prepared)
            self._chunks.append(Chunk(len(piece.raw), digest))
            self._tensor_digests.adopt(piece.offset, len(piece.raw), digest)
            self._buffers.give(piece.raw)
        layout = self._layout
        if layout is not OPAQUE and (self._offset != layout.file_bytes or self._tail or self._stream.peek(1)):
            return None
        digests = self._tensor_digests.finish(self._stream.spool)
        tensors = tuple(Tensor(*tensor, digest) for tensor, digest in zip(layout.tensors, digests, strict=True))
        file_digest = Digest(self._file_hasher.digest())
        return Manifest(layout.format, layout.version, self._offset, file_digest, tensors, tuple(self._chunks))

    def replay(self) -> Iterator[Buffer]:
        """Yield everything that was read of the stream again: what was stored, and a piece cut short."""
        for chunk in self._chunks:
            yield self._objects.get(Kind.CHUNK, chunk.digest)
        yield self._tail

    def _prepared(self) -> Iterator[tuple[Piece, Prepared]]:
        """Yield the chunks in order, hashed and coded."""
        if not self._may_fork():
            yield from self._pool.map_bounded(self._prepare, self._pieces(), self._is_inline)
            return
        from thetastore.checkpoints.coders import Coders

        with Coders(self._objects, self._bases, self._layout.file_bytes, self._pool.workers) as coders:
            yield from coders.map(self._prepare, self._pieces())

    def _may_fork(self) -> bool:
        """Tell whether copies of this process may code beside it: of files whose end is known, for a store here."""
        is_here = not self._objects.backend.is_remote
        return self._pool.is_forkable and self._pool.workers > 1 and is_here and self._layout is not OPAQUE

    def _is_inline(self, piece: Piece) -> bool:
        """Tell whether a chunk is worked on in the caller's thread."""
        if len(piece.raw) <= INLINE_WORK_BYTES:
            return True
        return piece.dtype is not None and self._pool.workers < _WORKERS_THAT_PAY

    def _prepare(self, piece: Piece) -> tuple[Piece, Prepared]:
        return piece, self._objects.prepare(
            Kind.CHUNK, piece.raw, piece.dtype, piece.bases, update=piece.update, columns=piece.columns
        )

    def _pieces(self) -> Iterator[Piece]:
        """Cut the stream; hash, in order, what goes by. Ends early where the stream does."""
        for raw, dtype, columns in self._cuts():
            bases, update = self._bases.guess(self._offset, raw, dtype), self._proposal(len(raw))
            piece = Piece(self._offset, raw, dtype, columns, bases, update)
            self._file_hasher.update(raw)
            self._tensor_digests.feed(piece.offset, raw)
            self._offset += len(raw)
            yield piece

    def _proposal(self, nbytes: int) -> Proposal | None:
        """Return how the chunk that comes next may be made from another one."""
        if self._updates is None:
            return None
        tensor = self._tensors.at(self._offset, nbytes)
        return None if tensor is None else self._updates.proposal(tensor, self._offset, nbytes)

    def _cuts(self) -> Iterator[tuple[memoryview, str | None, int]]:
        """Yield chunks, the element type, and how many elements a row has (0 without rows)."""
        for span in self._layout.spans:
            yield from self._gap(span.offset - self._offset)
            columns = columns_of(span.shape)
            for length in grid_lengths(span.dtype, span.shape):
                raw = self._buffers.take(length)
                got = self._stream.fill(raw)
                if got < length:
                    self._tail = raw[:got]
                    return
                yield raw, span.dtype, columns
        yield from self._gap(None if self._layout is OPAQUE else self._layout.file_bytes - self._offset)

    def _gap(self, gap_bytes: int | None) -> Iterator[tuple[memoryview, None, int]]:
        """Cut bytes under no span by their content: `gap_bytes` of them, or for None all that come."""
        window = bytearray(CONTENT_MAX_BYTES if gap_bytes is None else min(gap_bytes, CONTENT_MAX_BYTES))
        held = 0
        unread = gap_bytes
        at_end = False
        while True:
            room = len(window) - held if unread is None else min(len(window) - held, unread)
            got = self._stream.fill(memoryview(window)[held : held + room])
            held += got
            if unread is not None:
                unread -= got
            at_end = at_end or got < room or unread == 0
            if not held:
                return
            cut = content_cut(memoryview(window)[:held], at_end)
            assert cut is not None, "the window holds the longest chunk, or the end"
            yield memoryview(bytes(memoryview(window)[:cut])), None, 0
            window[: held - cut] = window[cut:held]
            held -= cut


class _Stream:
    """A source whose first bytes can be looked at before they are read, and that can be spooled."""

    def __init__(self, source: Source, scratch: str | None) -> None:
        self._source = source
        self._scratch = scratch
        self._prefix = bytearray()
        """Looked at, not yet read."""
        self.spool: OpenFile | None = None
        """The whole file, once it was spooled."""
        self._spool_file: IO[bytes] | None = None

    def push_back(self, pieces: Iterator[Buffer]) -> None:
        """Put pieces that were read before in front of what is still to come."""
        rest = _Concatenation(iter([bytes(self._prefix)]), self._source)
        self._prefix.clear()
        self._source = _Concatenation(pieces, rest)

    def peek(self, nbytes: int) -> bytes:
        """Return the next `nbytes` bytes, fewer only at the end."""
        while len(self._prefix) < nbytes:
            # Grown as bytes arrive: a header's word for its own length allocates nothing.
            piece = memoryview(bytearray(min(nbytes - len(self._prefix), _SPOOL_BYTES)))
            got = self._source.readinto(piece)
            if not got:
                break
            self._prefix += piece[:got]
        return bytes(self._prefix[:nbytes])

    def fill(self, view: memoryview) -> int:
        """Read until `view` is full or the stream ends; return how many bytes were read."""
        done = min(len(self._prefix), len(view))
        view[:done] = self._prefix[:done]
        del self._prefix[:done]
        while done < len(view):
            got = self._source.readinto(view[done:])
            if not got:
                break
            done += got
        return done

    def spooled(self) -> OpenFile:
        """Copy the whole stream into an unlinked file, if that was not done yet, and read from it henceforth."""
        if self.spool is None:
            import tempfile

            file = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 - `close` closes it
            self._spool_file = file
            piece = memoryview(bytearray(_SPOOL_BYTES))
            while got := self.fill(piece):
                rest = piece[:got]
                while rest:
                    rest = rest[file.write(rest) :]
            file.seek(0)
            self._source = file
            self.spool = OpenFile(file.fileno(), os.fstat(file.fileno()).st_size)
        return self.spool

    def close(self) -> None:
        """Free the disk space of the spooled file."""
        if self._spool_file is not None:
            self._spool_file.close()


class _Concatenation:
    """Pieces, then the rest of a source, as one source."""

    def __init__(self, pieces: Iterator[Buffer], rest: Source) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self._rest = rest

    def readinto(self, view: memoryview, /) -> int | None:
        while not self._piece:
            following = next(self._pieces, None)
            if following is None:
                return self._rest.readinto(view)
            self._piece = memoryview(following)
        got = min(len(self._piece), len(view))
        view[:got] = self._piece[:got]
        self._piece = self._piece[got:]
        return got
