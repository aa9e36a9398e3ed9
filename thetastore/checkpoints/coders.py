"""Chunks of a file on their way into the store: coded by copies of this process, where it may have them.

What copies learn stays theirs: that a guess was of no use, where a candidate lies. What they find out for others comes
back with the chunk: its record, the anchors to remember, the sketch of the tensor that begins with it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from thetastore.bases.finding import Bases
from thetastore.checkpoints.cuts import INLINE_WORK_BYTES, Piece
from thetastore.chunking import MAX_GRID_CHUNK_BYTES
from thetastore.digest import Buffer, Digest, Kind
from thetastore.forks import Answer, Forks, Promise
from thetastore.objects import Objects, Prepared
from thetastore.packs.records import Entry

if TYPE_CHECKING:
    from typing import Self

FORK_FOR_BYTES = 8 << 20
"""Less is coded before a copy of the process is of use: forking takes some milliseconds."""
_MOST_COPIES = 3
"""One process reads and hashes 600 MB/s, and codes what nobody else has time for; a copy codes 200 to 300 MB/s."""


class Coders:
    """Hashes and codes the chunks of one file, with copies of this process. A context manager: leaving it ends them."""

    def __init__(self, objects: Objects, bases: Bases, file_bytes: int, processors: int) -> None:
        self._objects = objects
        self._bases = bases
        self._file_bytes = file_bytes
        self._copies = min(processors - 1, _MOST_COPIES)
        self._forks: Forks | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._forks is not None:
            self._forks.end()

    def map(
        self, prepare: Callable[[Piece], tuple[Piece, Prepared]], pieces: Iterator[Piece]
    ) -> Iterator[tuple[Piece, Prepared]]:
        """Yield the chunks in order, hashed and coded: by copies, and by `prepare` where they have enough to do."""
        flying: deque[tuple[Piece, Promise | Prepared]] = deque()
        for piece in pieces:
            promise = self._submit(piece)
            if promise is None:
                prepared = prepare(piece)[1]
                self._fork_after(piece, prepared)
            flying.append((piece, promise or prepared))
            while flying and (self._forks is None or len(flying) >= self._forks.window or _is_there(flying[0][1])):
                yield self._settled(prepare, *flying.popleft())
        while flying:
            yield self._settled(prepare, *flying.popleft())

    def _fork_after(self, piece: Piece, prepared: Prepared) -> None:
        """Fork after the first chunk that the store has not. What all need is had before: numpy, and whom to ask."""
        is_worth_it = _is_long(piece) and self._file_bytes - piece.offset >= FORK_FOR_BYTES
        if self._forks is None and prepared.entry is not None and is_worth_it:
            import numpy  # noqa: F401

            self._bases.open()  # which may ask a `git cat-file`, whose pipes are for one
            self._forks = Forks(self._copies, self._work, MAX_GRID_CHUNK_BYTES)

    def _submit(self, piece: Piece) -> Promise | None:
        if self._forks is None or not _is_long(piece) or piece.update is not None:
            return None
        return self._forks.submit(json.dumps([piece.offset, piece.dtype, piece.columns]).encode(), piece.raw)

    def _settled(
        self, prepare: Callable[[Piece], tuple[Piece, Prepared]], piece: Piece, found: Promise | Prepared
    ) -> tuple[Piece, Prepared]:
        if isinstance(found, Prepared):
            return piece, found
        answer = found.result()
        return prepare(piece) if answer is None else (piece, self._unpacked(piece, answer))

    def _work(self, head: bytes, raw: memoryview) -> tuple[bytes, Buffer]:
        """Prepare a chunk; in a copy."""
        offset, dtype, columns = json.loads(head)
        bases = self._bases.guess(offset, raw, dtype)
        prepared = self._objects.prepare(Kind.CHUNK, raw, dtype, bases, columns=columns)
        self._bases.learn(prepared)
        answer = [
            prepared.digest.hex(),
            None if prepared.entry is None else _fields_of(prepared.entry),
            prepared.anchors,
            self._bases.sketch_at(offset),
        ]
        return json.dumps(answer).encode(), prepared.stored

    def _unpacked(self, piece: Piece, answer: Answer) -> Prepared:
        digest, fields, anchors, sketch = json.loads(answer.head)
        if sketch:
            self._bases.adopt_sketch(piece.offset, tuple(sketch))
        if anchors:
            from thetastore.representations.anchors import Anchor

            anchors = tuple(Anchor(*anchor) for anchor in anchors)
        digest = Digest(bytes.fromhex(digest))
        return Prepared(digest, None if fields is None else _entry(digest, fields), answer.raw, anchors)


def _fields_of(entry: Entry) -> list[object]:
    bases = [base.hex() for base in entry.bases]
    lengths = (entry.raw_bytes, entry.stored_bytes)
    return [entry.kind, entry.codec, entry.params.hex(), *lengths, bases, entry.depth, entry.checksum.hex()]


def _entry(digest: Digest, fields: list[Any]) -> Entry:
    kind, codec, params, raw_bytes, stored_bytes, bases, depth, checksum = fields
    found = tuple(Digest(bytes.fromhex(base)) for base in bases)
    lengths = (raw_bytes, stored_bytes)
    return Entry(kind, digest, codec, bytes.fromhex(params), *lengths, found, depth, bytes.fromhex(checksum))


def _is_long(piece: Piece) -> bool:
    return len(piece.raw) > INLINE_WORK_BYTES


def _is_there(found: Promise | Prepared) -> bool:
    return isinstance(found, Prepared) or found.is_there()
