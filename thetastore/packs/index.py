"""Index runs: immutable tables digest -> place, found by bisection over mapped memory.

Digests are ordered as little-endian integers, so that the most significant word of each is a machine
word of the map: `bisect` then runs in C over a strided view, 0.9 us in 100,000 digests, and nothing
is copied or imported (numpy would cost the filter 70 ms). Order among uniform digests serves only
to find them, so any order would do. See docs/format/index.md.
"""

from __future__ import annotations

import struct
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from thetastore.backends import Backend
from thetastore.digest import Buffer, Digest, checksum_of
from thetastore.errors import MalformedError
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble, checksum64, preamble
from thetastore.packs.records import HEAD_BYTES, MAX_RECORD_BYTES
from thetastore.packs.writer import Row, SealedPack, new_id, sealed_name

assert sys.byteorder == "little", "the words of a run are read in place"

RUN_MAGIC = b"\xa7thrun\n\0"
RUN_END = b"\xa7thrend\n"
_PLACE = struct.Struct("<IIQ")  # pack number, record bytes, offset
_PACK = struct.Struct("<16sQQ")  # id, file bytes, record count
_TRAILER = struct.Struct("<QQ16s16s16s")  # digests, packs, XXH3-128 of digests and places, of the packs, of the fences
DIGEST_BYTES = 32
PLACE_BYTES = _PLACE.size
PACK_BYTES = _PACK.size
TRAILER_BYTES = _TRAILER.size + 16
FENCE_ROWS = 1 << 14
"""Between two fences a digest stands where its value says, to within 64 rows (one standard deviation)."""


class Place(NamedTuple):
    """Where a record lies."""

    file_name: str
    offset: int
    nbytes: int


class PackInfo(NamedTuple):
    """A pack that a run covers."""

    id: str
    file_bytes: int
    record_count: int


class End(NamedTuple):
    """What the trailer of a run says."""

    digest_count: int
    pack_count: int
    body_checksum: bytes
    packs_checksum: bytes
    fences_checksum: bytes

    @property
    def body_end(self) -> int:
        """Offset of the list of packs."""
        return PREAMBLE_BYTES + self.digest_count * (32 + _PLACE.size)

    @property
    def fence_count(self) -> int:
        """Number of fences."""
        return -(-self.digest_count // FENCE_ROWS)

    @property
    def fences_at(self) -> int:
        """Offset of the fences."""
        return self.body_end + self.pack_count * _PACK.size


def read_end(suffix: memoryview, file_bytes: int, name: str) -> End:
    """Return what the trailer at the end of a run says.

    Raises:
        MalformedError: it is none, or does not fit the length of the file.
    """
    trailer = suffix[-TRAILER_BYTES:]
    if file_bytes < PREAMBLE_BYTES + TRAILER_BYTES or trailer[-8:] != RUN_END:
        raise MalformedError(f"'{name}' is malformed: it does not end as an index run does")
    if checksum64(trailer[: _TRAILER.size]) != trailer[_TRAILER.size : -8]:
        raise MalformedError(f"'{name}' is malformed: its trailer does not have its checksum")
    end = End(*_TRAILER.unpack_from(trailer))
    if end.fences_at + 8 * end.fence_count + TRAILER_BYTES != file_bytes:
        raise MalformedError(f"'{name}' is malformed: {file_bytes} bytes do not fit {end.digest_count} digests")
    return end


def check_packs(table: memoryview, end: End, name: str) -> memoryview:
    """Return the list of packs that a run covers, as it stands there.

    Raises:
        MalformedError: the list does not have its checksum.
    """
    if checksum_of(table) != end.packs_checksum:
        raise MalformedError(f"'{name}' is malformed: its pack table does not have its checksum")
    return table


def parse_packs(table: memoryview) -> tuple[PackInfo, ...]:
    """Return the packs in a list of them."""
    return tuple(PackInfo(id.hex(), size, count) for id, size, count in _PACK.iter_unpack(table))


class Run:
    """One index run, as it lies in the backend's memory. Immutable; thread-safe."""

    is_far = False
    """Whether it is long and far away, so that single ranges of it are read (`far_index`)."""

    def __init__(self, view: memoryview, name: str) -> None:
        """Check everything but the digests and places, which `is_intact` does.

        Raises:
            MalformedError, UnsupportedError: the preamble, the trailer, the pack table, or the length.
        """
        self.name = name
        self.nbytes = len(view)
        check_preamble(view[:PREAMBLE_BYTES], RUN_MAGIC, name)
        end = read_end(view, len(view), name)
        self.count, self.body_checksum, self._body_end = end.digest_count, end.body_checksum, end.body_end
        fences = view[end.fences_at : end.fences_at + 8 * end.fence_count]
        if checksum_of(fences) != end.fences_checksum:
            raise MalformedError(f"'{name}' is malformed: its fences do not have their checksum")
        self.pack_table = check_packs(view[end.body_end : end.fences_at], end, name)
        """The list of packs, as it stands in the run."""
        self.packs = parse_packs(self.pack_table)
        self._file_names = [sealed_name(pack.id) for pack in self.packs]
        self._view = view
        self._places_at = PREAMBLE_BYTES + self.count * 32
        self.words = view[PREAMBLE_BYTES : self._places_at].cast("Q")[3::4]
        """The most significant 64 bits of every digest, ascending; a view of the file."""
        self._is_intact: bool | None = None

    def is_intact(self) -> bool:
        """Tell whether digests and places have their checksum; reads all of the run, once."""
        if self._is_intact is None:
            self._is_intact = checksum_of(self._view[PREAMBLE_BYTES : self._body_end]) == self.body_checksum
        return self._is_intact

    def digests(self, first: int, stop: int) -> memoryview:
        """Return the digests of some rows, as they stand in the run."""
        return self._view[PREAMBLE_BYTES + DIGEST_BYTES * first : PREAMBLE_BYTES + DIGEST_BYTES * stop]

    def places(self, first: int, stop: int) -> memoryview:
        """Return the places of some rows, as they stand in the run."""
        return self._view[self._places_at + PLACE_BYTES * first : self._places_at + PLACE_BYTES * stop]

    def find(self, digest: bytes, word: int) -> Sequence[Place]:
        """Return the places of a digest; `word` is its most significant 64 bits (`word_of`)."""
        at = bisect_left(self.words, word)
        if at >= self.count or self.words[at] != word:
            return ()
        places = []
        while at < self.count and self.words[at] == word:
            start = PREAMBLE_BYTES + at * 32
            if self._view[start : start + 32] == digest:
                place = self._place(at)
                if place is not None:
                    places.append(place)
            at += 1
        return places

    def rows(self) -> Iterator[tuple[int, Row]]:
        """Yield (pack number, row) for all digests, in order; places that cannot be are left out."""
        for at in range(self.count):
            place = self._place(at)
            if place is not None:
                start = PREAMBLE_BYTES + at * 32
                number = _PLACE.unpack_from(self._view, self._places_at + at * _PLACE.size)[0]
                yield number, Row(Digest(self._view[start : start + 32]), place.offset, place.nbytes)

    def _place(self, at: int) -> Place | None:
        number, nbytes, offset = parse_place(self._view, self._places_at + at * PLACE_BYTES)
        if number >= len(self.packs) or not can_be(nbytes, offset, self.packs[number]):
            return None
        return Place(self._file_names[number], offset, nbytes)


def parse_place(view: memoryview, at: int) -> tuple[int, int, int]:
    """Return the number of the pack, the bytes of the record and its offset, of the place at an offset in a view."""
    fields: tuple[int, int, int] = _PLACE.unpack_from(view, at)
    return fields


def can_be(nbytes: int, offset: int, pack: PackInfo) -> bool:
    """Tell whether a record may be at a place of a pack."""
    return HEAD_BYTES <= nbytes <= MAX_RECORD_BYTES and offset + nbytes <= pack.file_bytes


def word_of(digest: bytes) -> int:
    """Return the most significant 64 bits of a digest as runs order them."""
    return int.from_bytes(digest[24:], "little")


def write_run(backend: Backend, packs: Sequence[SealedPack]) -> str:
    """Create a run that covers these packs; return its file name."""
    return create_run(backend, encode_run(packs))


def create_run(backend: Backend, stored: Buffer) -> str:
    """Create a run; return its file name."""
    name = run_name()
    backend.create(name, stored)
    return name


def run_name() -> str:
    """Return a file name for a new run."""
    return f"index/{new_id()}.run"


def encode_run(packs: Sequence[SealedPack]) -> bytes:
    """Return the bytes of a run that covers these packs."""
    lines = sorted(
        (row.digest[::-1], number, row.offset, row.nbytes, row.digest)
        for number, pack in enumerate(packs)
        for row in pack.rows
    )
    digests = b"".join([line[4] for line in lines])
    places = b"".join([_PLACE.pack(number, nbytes, offset) for _, number, offset, nbytes, _ in lines])
    body = digests + places
    table = b"".join([_PACK.pack(bytes.fromhex(pack.id), pack.file_bytes, len(pack.rows)) for pack in packs])
    return preamble(RUN_MAGIC) + body + encode_end(table, len(lines), checksum_of(body), fences_of(memoryview(digests)))


def encode_end(table: bytes, count: int, body_checksum: bytes, fences: bytes) -> bytes:
    """Return what follows the digests and places of a run; `table` is its list of packs."""
    checksums = body_checksum, checksum_of(table), checksum_of(fences)
    trailer = _TRAILER.pack(count, len(table) // PACK_BYTES, *checksums)
    return b"".join((table, fences, trailer, checksum64(trailer), RUN_END))


def fences_of(digests: memoryview) -> bytes:
    """Return the most significant words of every `FENCE_ROWS`-th digest, the first included."""
    return b"".join([bytes(digests[at + 24 : at + 32]) for at in range(0, len(digests), 32 * FENCE_ROWS)])
