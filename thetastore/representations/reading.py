"""Representations read: an object from whichever place serves, decoded with its bases, and proven.

A base is an object like any other: it is found by its digest, at any of its places. Hashing it would take a sixth of
the time to read a delta, so at first only the object itself is proven; if it is wrong, its bases are read again and
proven one by one, from other places where there are some. What a hostile store may cost is bounded twice. Depth
falls from a record to those of its bases, so there is no cycle and never more than `MAX_DEPTH` levels; and an object
may ask for no more bytes of bases, those of bases and failed attempts included, than `records.most_base_bytes` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from thetastore import codecs
from thetastore.backends import Backend
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import (
    FileUnreadableError,
    MalformedError,
    ObjectCorruptError,
    ObjectMissingError,
    ThetaError,
    UnsupportedError,
)
from thetastore.packs.catalog import Catalog
from thetastore.packs.index import Place
from thetastore.packs.reader import Packs
from thetastore.packs.records import (
    HEAD_BYTES,
    MAX_DEPTH,
    MAX_HEAD_BYTES,
    Entry,
    base_cost_bytes,
    decode_head,
    most_base_bytes,
)
from thetastore.representations.short import read_short

_MOST_LISTINGS = 8
"""How often a missing object's store is listed while it keeps changing."""
_MOST_HEADS = 1024
"""Looked at to tell whether an object has its bases. A hostile store may name 16 bases on each of 8 levels."""
_SPARE_BUFFERS = 16
_BUFFER_BYTES = (1 << 20) + (64 << 10) + MAX_HEAD_BYTES
"""Holds every record of a chunk on the grid. Buffers are at least this long, so that any will do; what is not
touched of one takes no memory."""
_MOST_KEPT_BYTES = 4 << 20

_IN_PLACE = "difference"
"""This codec may find its one base where its result goes."""
_NOT_FROM_THERE = (FileNotFoundError, ObjectCorruptError, FileUnreadableError)
"""What one place of an object says that another need not."""
_TOO_MUCH = "more bytes of bases are asked for than any writer would ask for"

_Allocate = Callable[[int], memoryview]
T = TypeVar("T")


class Decoded(NamedTuple):
    """An object's bytes, and what it took to read them."""

    raw: memoryview
    depth: int
    """`MAX_DEPTH` of what lies in a retired pack, so that it becomes nobody's base."""
    read_bytes: int
    """Stored bytes of its record and of those of all its bases."""
    root_bytes: int
    """Stored bytes of the longest record that was decoded without a base."""


class _Effort:
    """What reading one object took so far, and may still take."""

    __slots__ = ("has_read_bases", "left_bytes", "proves_bases", "read_bytes", "root_bytes")

    def __init__(self, proves_bases: bool) -> None:
        self.proves_bases = proves_bases
        self.has_read_bases = False
        self.left_bytes: int | None = None
        """Of bases; None until the object's own record was read."""
        self.read_bytes = 0
        self.root_bytes = 0

    def allows(self, place: Place) -> bool:
        """Tell whether the record at a place may be read at all."""
        return self.left_bytes is None or place.nbytes <= MAX_HEAD_BYTES + self.left_bytes

    def charge(self, entry: Entry) -> bool:
        """Count a record that is about to be decoded; tell whether there was enough left for it."""
        self.read_bytes += entry.stored_bytes
        if not entry.bases:
            self.root_bytes = max(self.root_bytes, entry.stored_bytes)  # not that of what updates share
        if self.left_bytes is None:
            self.left_bytes = most_base_bytes(entry.raw_bytes)
        else:
            self.has_read_bases = True
            self.left_bytes -= base_cost_bytes(entry.raw_bytes)
        return self.left_bytes >= 0


class Representations:
    """Reads what a store's packs hold. Thread-safe."""

    def __init__(
        self, packs: Packs, catalog: Catalog, backend: Backend, own_place: Callable[[Digest], Place | None]
    ) -> None:
        """Read from the packs of a catalog.

        Args:
            packs: The pack files.
            catalog: What they hold.
            backend: Where they are: its URL is for messages, and of a far one locators are asked first.
            own_place: Tells the place of what this process wrote itself, which the catalog leaves out.
        """
        self._packs = packs
        self._catalog = catalog
        self._url = backend.url
        self._is_near = not backend.is_remote
        self._own_place = own_place
        self._buffers: list[bytearray] = []

    def get(self, kind: Kind, digest: Digest, out: memoryview | None = None) -> memoryview:
        """Return an object's bytes, proven by its digest; see `Objects.get`."""
        if self._is_near:
            raw = self._short(kind, digest, out)
            if raw is not None:
                return raw
        return self._at_any_place(digest, lambda place: self.get_at(place, kind, digest, out))

    def _short(self, kind: Kind, digest: Digest, out: memoryview | None) -> memoryview | None:
        """Return the object if what is found first is a short record that stands alone, and is right."""
        place = self._own_place(digest) or self._catalog.snapshot().first(digest)
        try:
            return None if place is None else read_short(self._packs, place, kind, digest, out)
        except (FileNotFoundError, MalformedError, UnsupportedError, FileUnreadableError):
            return None

    def get_at(self, place: Place, kind: Kind, digest: Digest, out: memoryview | None = None) -> memoryview:
        """Return an object's bytes from the representation at one place.

        Raises:
            FileNotFoundError: the pack is gone.
            ObjectCorruptError, UnsupportedError: as `get`.
        """
        return self._proven_at(place, kind, digest, _new_memory if out is None else lambda _: out).raw

    def decode(self, digest: Digest, raw_bytes: int) -> Decoded:
        """Return a chunk of a known length, in memory to be handed back with `give`, and what reading it takes.

        Raises as `get` does.
        """
        out = self.take(raw_bytes)
        try:
            return self._at_any_place(digest, lambda place: self._proven_at(place, Kind.CHUNK, digest, lambda _: out))
        except ThetaError:
            self.give(out)
            raise

    def give(self, view: memoryview) -> None:
        """Take back memory that came from `decode` or `take`; the view must not be used again."""
        buffer = view.obj
        assert isinstance(buffer, bytearray)
        if len(self._buffers) < _SPARE_BUFFERS and len(buffer) <= _MOST_KEPT_BYTES:
            self._buffers.append(buffer)

    def prove(self, entry: Entry, stored: memoryview, origin: str) -> None:
        """Refuse a record that comes from elsewhere and does not give its object; its bases are read from here.

        Raises:
            ObjectCorruptError: it gives other bytes or none; the message names `origin`.
            UnsupportedError: a newer version or a plug-in is needed to tell.
        """
        place = Place(origin, 0, HEAD_BYTES + len(stored))
        effort = _Effort(True)
        if not effort.charge(entry):
            raise _corrupt(entry, place, _TOO_MUCH)
        out = self.take(entry.raw_bytes)
        try:
            self._decode(entry, stored, place, out, effort)
            if digest_of(out, Kind(entry.kind)) != entry.digest:
                raise _explained(entry, stored, place, None)
        finally:
            self.give(out)

    def entry(self, digest: Digest) -> Entry:
        """Return what is stored for an object. Raises as `get` does."""
        return self._at_any_place(digest, lambda place: self._read_entry(place, digest))

    def shallowest(self, digest: Digest, with_retired: bool = False) -> Entry:
        """Return the representation that stands on the fewest bases, of those to stay if any. Raises as `get` does."""
        entry = self.entry(digest)
        for place in self._catalog.snapshot().find(digest) if entry.depth else ():
            if self._is_retired(place) and not with_retired:
                break
            try:
                entry = min(entry, self._read_entry(place, digest), key=lambda other: other.depth)
            except _NOT_FROM_THERE:
                continue
        return entry

    def standing_alone(self, digest: Digest) -> Iterator[tuple[Place, Entry]]:
        """Yield sealed representations of an object that need no base; those in packs about to go come last."""
        snapshot = self._catalog.snapshot()
        for place in sorted(set(snapshot.find(digest)), key=lambda place: (self._is_retired(place), place)):
            if place.file_name not in snapshot.packs:
                continue
            try:
                entry = self._read_entry(place, digest)
            except _NOT_FROM_THERE:
                continue
            if not entry.bases:
                yield place, entry

    def has_bases(self, digest: Digest) -> bool:
        """Tell whether some representation of an object has its bases, and they theirs, as far as heads tell."""
        return self._has_bases(digest, MAX_DEPTH + 1, [_MOST_HEADS])

    def _has_bases(self, digest: Digest, below: int, heads_left: list[int]) -> bool:
        """Tell the same of representations of a depth `below`, looking at so many heads in all."""
        own = self._own_place(digest)
        for place in [own] if own is not None else self._catalog.snapshot().find(digest):
            heads_left[0] -= 1
            if heads_left[0] < 0:
                return False
            try:
                entry = self._read_entry(place, digest)
            except _NOT_FROM_THERE:
                continue
            if entry.depth < below and all(self._has_bases(base, entry.depth, heads_left) for base in entry.bases):
                return True
        return False

    def stored(self, digest: Digest) -> tuple[Entry, memoryview]:
        """Return what is stored for an object, and its stored bytes in new memory, their checksum checked.

        Raises as `get` does; nothing is decoded, so nothing is proven about raw bytes.
        """
        return self._at_any_place(digest, lambda place: self._checked(place, digest))

    def _at_any_place(self, digest: Digest, act: Callable[[Place], T]) -> T:
        failure: ThetaError | None = None
        for place in self._places(digest):
            try:
                return act(place)
            except FileNotFoundError:
                pass  # merged into another pack since it was listed
            except (ObjectCorruptError, UnsupportedError, FileUnreadableError) as error:
                failure = failure or _without_frames(error)
        if failure is not None:
            raise failure
        for name, problem in self._catalog.snapshot().problems:
            if isinstance(problem, UnsupportedError | FileUnreadableError):
                raise problem
            raise ObjectCorruptError(str(digest), name, f"nothing can be read ({problem}), and no other file has it")
        raise ObjectMissingError(str(digest), self._url)

    def _places(self, digest: Digest) -> Iterator[Place]:
        """Yield the places known for a digest; then those that listing the store again brings."""
        own = self._own_place(digest)
        if own is not None:
            yield own
        located = self._catalog.locations.find(digest)
        if located is not None:
            yield located.place
            self._catalog.locations.distrust(located.place)
        for _ in range(_MOST_LISTINGS):
            generation = self._catalog.generation
            yield from self._catalog.snapshot().find(digest)
            # A base that was looked for in between, or another thread, may have listed what is new for us too.
            if not self._catalog.refresh(thorough=True) and self._catalog.generation == generation:
                return

    def _is_retired(self, place: Place) -> bool:
        return self._catalog.is_retired(place.file_name)

    def _proven_at(self, place: Place, kind: Kind, digest: Digest, allocate: _Allocate) -> Decoded:
        """Decode the object at a place and prove it; its bases only if that fails, to find which of them is wrong."""
        for proves_bases in (False, True):
            effort = _Effort(proves_bases)
            try:
                entry, raw = self._decode_at(place, kind, digest, allocate, effort, MAX_DEPTH + 1)
                depth = MAX_DEPTH if self._is_retired(place) else entry.depth  # nothing may lean on what will go
                return Decoded(raw, depth, effort.read_bytes, effort.root_bytes)
            except ObjectCorruptError:
                if proves_bases or not effort.has_read_bases:
                    raise
        raise AssertionError("the second time, it is returned or raised")

    def _decode_at(
        self, place: Place, kind: Kind, digest: Digest, allocate: _Allocate, effort: _Effort, below: int
    ) -> tuple[Entry, memoryview]:
        """Decode the object at a place, whose depth must be `below`; the recursion goes through its bases."""
        if not effort.allows(place):
            raise ObjectCorruptError(str(digest), place.file_name, _TOO_MUCH)
        record = self.take(place.nbytes)
        try:
            entry, stored = self._read(place, digest, record)
            if entry.kind != kind:
                raise _corrupt(entry, place, f"is of kind {entry.kind}, expected {kind.name.lower()}")
            if entry.depth >= below:
                raise _corrupt(entry, place, f"is a base of depth {entry.depth}, not below {below}")
            if not effort.charge(entry):
                raise _corrupt(entry, place, _TOO_MUCH)
            out = allocate(entry.raw_bytes)
            if out.nbytes != entry.raw_bytes:
                raise _corrupt(entry, place, f"has {entry.raw_bytes} raw bytes, expected {out.nbytes}")
            self._decode(entry, stored, place, out, effort)
            is_base = below <= MAX_DEPTH
            if (not is_base or effort.proves_bases) and digest_of(out, kind) != digest:
                raise _explained(entry, stored, place, None)
            return entry, out
        finally:
            self.give(record)

    def _decode(self, entry: Entry, stored: memoryview, place: Place, out: memoryview, effort: _Effort) -> None:
        """Decode a record into `out`, its bases first."""
        bases: list[memoryview] = []
        try:
            if entry.bases:
                _check_known(entry.codec)  # before bases are read for nothing
            if entry.codec == _IN_PLACE and len(entry.bases) == 1:
                base = self._decode_base(entry, place, entry.bases[0], lambda _: out, effort)
                codecs.decode(entry.codec, entry.params, stored, out, (base,))
                return
            bases.extend(self._decode_base(entry, place, digest, self.take, effort) for digest in entry.bases)
            codecs.decode(entry.codec, entry.params, stored, out, bases)
        except (MalformedError, UnsupportedError) as error:
            raise _explained(entry, stored, place, error) from error
        finally:
            for view in bases:
                self.give(view)

    def _decode_base(
        self, entry: Entry, place: Place, base: Digest, allocate: _Allocate, effort: _Effort
    ) -> memoryview:
        """Return the bytes of a base of the record at `place`, in memory that `allocate` gave."""
        try:
            return self._at_any_place(
                base, lambda at: self._decode_at(at, Kind.CHUNK, base, allocate, effort, entry.depth)[1]
            )
        except (ObjectMissingError, ObjectCorruptError) as error:
            raise _corrupt(entry, place, f"its base cannot be had: {error}") from error

    def _read(self, place: Place, digest: Digest, record: memoryview) -> tuple[Entry, memoryview]:
        """Read the record at a place into `record`; return its entry and, inside `record`, its stored bytes."""
        try:
            got_bytes = self._packs.get(place.file_name).read_into(place.offset, record)
            entry, head_bytes = decode_head(record[:got_bytes], place.file_name, place.offset)
        except MalformedError as error:
            raise ObjectCorruptError(str(digest), place.file_name, f"cannot be read: {error}") from error
        if entry.digest != digest:
            raise ObjectCorruptError(str(digest), place.file_name, f"at {place.offset} is object '{entry.digest}'")
        if head_bytes + entry.stored_bytes != place.nbytes or got_bytes != record.nbytes:
            raise _corrupt(entry, place, f"the record at {place.offset} is cut off or has another length")
        return entry, record[head_bytes:]

    def _read_entry(self, place: Place, digest: Digest) -> Entry:
        known = self._catalog.heads.get(place)
        if known is not None and known.digest == digest:
            return known
        head = memoryview(bytearray(min(place.nbytes, MAX_HEAD_BYTES)))
        return self._read(place, digest, head)[0]

    def _checked(self, place: Place, digest: Digest) -> tuple[Entry, memoryview]:
        entry, stored = self._read(place, digest, memoryview(bytearray(place.nbytes)))
        if checksum_of(stored) != entry.checksum:
            raise _corrupt(entry, place, "the stored bytes do not have their checksum")
        return entry, stored

    def take(self, nbytes: int) -> memoryview:
        """Return memory for `give` to take back, used before where possible: touching new memory costs 1 ms a MB."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(max(nbytes, _BUFFER_BYTES))
        if len(buffer) < nbytes:
            buffer = bytearray(nbytes)
        return memoryview(buffer)[:nbytes]


def _new_memory(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))


def _without_frames(error: ThetaError) -> ThetaError:
    """Return an error that keeps no memory: frames that it came through hold what was decoded into, 128 MiB at most."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


def _check_known(codec: str) -> None:
    if codec not in codecs.CODEC_NAMES:
        raise UnsupportedError(f"codec '{codec}' is unknown: upgrade")


def _explained(entry: Entry, stored: memoryview, place: Place, error: ThetaError | None) -> ThetaError:
    """Say why stored bytes gave no object: the checksum tells damage from what is unknown or was never right."""
    if checksum_of(stored) != entry.checksum:
        return _corrupt(entry, place, "the stored bytes do not have their checksum")
    if isinstance(error, UnsupportedError):
        return UnsupportedError(f"object '{entry.digest}' in '{place.file_name}' cannot be read: {error}")
    return _corrupt(entry, place, "the bytes have another digest" if error is None else f"does not decode: {error}")


def _corrupt(entry: Entry, place: Place, reason: str) -> ObjectCorruptError:
    return ObjectCorruptError(str(entry.digest), place.file_name, reason)
