"""Objects by digest: bytes go in and come back proven, however they are stored.

Every byte that leaves here was hashed after it was decoded, so what files, indexes and codecs say need
only be believed as far as it keeps a read cheap and bounded. Where several places are known for a
digest, each is tried; where none serves, the store is listed again once more, since another process
may have written or merged packs since.

Reading is thread-safe, and so is `prepare`, which does the work of writing: hashing, coding. `add` and
`seal` belong to one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from thetastore import codecs
from thetastore.backends import Backend
from thetastore.digest import Buffer, Digest, Kind, checksum_of, digest_of
from thetastore.errors import MalformedError, ObjectCorruptError, ObjectMissingError, ThetaError, UnsupportedError
from thetastore.packs.catalog import Catalog
from thetastore.packs.index import Place
from thetastore.packs.reader import Packs
from thetastore.packs.records import MAX_HEAD_BYTES, Entry, decode_head
from thetastore.packs.upkeep import Upkeep
from thetastore.packs.writer import PackWriter, Row

_MOST_LISTINGS = 8
"""How often a missing object's store is listed while it keeps changing."""
_SPARE_BUFFERS = 8

T = TypeVar("T")


class Prepared(NamedTuple):
    """An object hashed and, unless the store had it, coded; `Objects.add` stores it."""

    digest: Digest
    entry: Entry | None
    """None where the store has the object."""
    stored: Buffer
    """May be the caller's own memory: it must not change before `add`."""


class Objects:
    """The objects of one store. A context manager: leaving it closes it."""

    def __init__(self, backend: Backend, *, pack_bytes: int = 256 << 20) -> None:
        self.backend = backend
        self.packs = Packs(backend)
        """The pack files that are open at the moment."""
        self.catalog = Catalog(backend, self.packs)
        """What the store was found to hold."""
        self._upkeep = Upkeep(backend, self.catalog, self.packs, pack_bytes)
        self._pack_bytes = pack_bytes
        self._writers: list[PackWriter] = []
        self._added: dict[Digest, tuple[PackWriter, Row]] = {}
        self._buffers: list[bytearray] = []

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def contains(self, digest: Digest) -> bool:
        """Tell whether the store held an object when it was first asked, or was given it since."""
        return digest in self._added or self.catalog.snapshot().contains(digest)

    def prepare(self, kind: Kind, raw: Buffer, dtype: str | None = None) -> Prepared:
        """Hash an object and code it for `add`, unless the store has it. Thread-safe.

        The result may refer to `raw`, which must not change before it was added.
        """
        digest = digest_of(raw, kind)
        if self.contains(digest):
            return Prepared(digest, None, b"")
        codec, params, stored = codecs.encode(raw, dtype)
        raw_bytes, stored_bytes = memoryview(raw).nbytes, memoryview(stored).nbytes
        entry = Entry(kind, digest, codec, params, raw_bytes, stored_bytes, (), 0, checksum_of(stored))
        return Prepared(digest, entry, stored)

    def add(self, prepared: Prepared) -> Digest:
        """Store a prepared object, unless the store has it; other processes can read it when this returns.

        It is durable once `seal` has returned.

        Raises:
            BackendError: it was not stored: the disk is full or failing.
        """
        if prepared.entry is not None:
            self.add_representation(prepared.entry, prepared.stored)
        return prepared.digest

    def add_representation(self, entry: Entry, stored: Buffer) -> None:
        """Store a representation as it is, unless the store has the object. See `add`."""
        if self.contains(entry.digest):
            return
        if not self._writers or not self._writers[-1].has_room_for(entry.stored_bytes, self._pack_bytes):
            # A full pack is sealed at the end with the others: its write-back goes on meanwhile.
            self._writers.append(PackWriter.new(self.backend))
            self.catalog.own(self._writers[-1].id)
        writer = self._writers[-1]
        self._added[entry.digest] = writer, writer.append(entry, stored)

    def put(self, kind: Kind, raw: Buffer, dtype: str | None = None) -> Digest:
        """Prepare and add an object; return its digest."""
        return self.add(self.prepare(kind, raw, dtype))

    def get(self, kind: Kind, digest: Digest, out: memoryview | None = None) -> memoryview:
        """Return an object's bytes, proven by its digest. Thread-safe.

        Args:
            kind: What the object must be.
            digest: Its name.
            out: Where to decode, of exactly the object's length; None for new memory. After an error its
                content is undefined.

        Raises:
            ObjectMissingError: no place is known for it.
            ObjectCorruptError: what is stored is damaged, or is of another kind or length.
            UnsupportedError: a newer version or a plug-in is needed to read it.
        """
        return self._at_any_place(digest, lambda place: self.get_at(place, kind, digest, out))

    def entry(self, digest: Digest) -> Entry:
        """Return what is stored for an object. Raises as `get` does."""
        return self._at_any_place(digest, lambda place: self._read_entry(place, digest))

    def representation(self, digest: Digest) -> tuple[Entry, memoryview]:
        """Return what is stored for an object, and its stored bytes in new memory, their checksum checked.

        Raises as `get` does; nothing is decoded, so nothing is proven about raw bytes.
        """
        return self._at_any_place(digest, lambda place: self._checked(place, digest))

    def seal(self) -> None:
        """Make everything that was added durable and indexed; do the upkeep of the store.

        Raises:
            BackendError: not everything could be made durable. What was added stays readable, and the next
                seal, by any process, finishes the work.
        """
        try:
            self._upkeep.seal(self._writers)
        finally:
            self._writers = [writer for writer in self._writers if not writer.is_sealed]

    def rebuild_index(self) -> int:
        """Make the index anew from the packs alone; return how many records it lists.

        Raises:
            BackendError: `EAGAIN` while another process merges.
        """
        return self._upkeep.rebuild_index()

    def close(self) -> None:
        """Seal what was added, if anything was."""
        if self._writers:
            self.seal()
        self.packs.keep(frozenset())

    def _at_any_place(self, digest: Digest, act: Callable[[Place], T]) -> T:
        failure: ThetaError | None = None
        for place in self._places(digest):
            try:
                return act(place)
            except FileNotFoundError:
                pass  # merged into another pack since it was listed
            except (ObjectCorruptError, UnsupportedError) as error:
                failure = failure or error
        if failure is not None:
            raise failure
        for name, problem in self.catalog.snapshot().problems:
            if isinstance(problem, UnsupportedError):
                raise problem
            raise ObjectCorruptError(str(digest), name, f"nothing can be read ({problem}), and no other file has it")
        raise ObjectMissingError(str(digest), self.backend.url)

    def _places(self, digest: Digest) -> Iterator[Place]:
        """Yield the places known for a digest; then those that listing the store again brings."""
        added = self._added.get(digest)
        if added is not None:
            writer, row = added
            yield Place(writer.file_name, row.offset, row.nbytes)
        for _ in range(_MOST_LISTINGS):
            yield from self.catalog.snapshot().find(digest)
            if not self.catalog.refresh(thorough=True):
                return

    def get_at(self, place: Place, kind: Kind, digest: Digest, out: memoryview | None = None) -> memoryview:
        """Return an object's bytes from the representation at one place. Thread-safe.

        Raises:
            FileNotFoundError: the pack is gone.
            ObjectCorruptError, UnsupportedError: as `get`.
        """
        buffer = self._take_buffer(place.nbytes)
        try:
            entry, stored = self._read(place, digest, memoryview(buffer)[: place.nbytes])
            out = _checked_out(entry, kind, place, out)
            try:
                codecs.decode(entry.codec, entry.params, stored, out)
                proven = digest_of(out, kind) == digest
            except (MalformedError, UnsupportedError) as error:
                raise _explained(entry, stored, place, error) from error
            if not proven:
                raise _explained(entry, stored, place, None)
            return out
        finally:
            if len(self._buffers) < _SPARE_BUFFERS:
                self._buffers.append(buffer)

    def _read(self, place: Place, digest: Digest, record: memoryview) -> tuple[Entry, memoryview]:
        """Read the record at a place into `record`; return its entry and, inside `record`, its stored bytes."""
        try:
            got_bytes = self.packs.get(place.file_name).read_into(place.offset, record)
            entry, head_bytes = decode_head(record[:got_bytes], place.file_name, place.offset)
        except MalformedError as error:
            raise ObjectCorruptError(str(digest), place.file_name, f"cannot be read: {error}") from error
        if entry.digest != digest:
            raise ObjectCorruptError(str(digest), place.file_name, f"at {place.offset} is object '{entry.digest}'")
        if head_bytes + entry.stored_bytes != place.nbytes or got_bytes != record.nbytes:
            raise _corrupt(entry, place, f"the record at {place.offset} is cut off or has another length")
        return entry, record[head_bytes:]

    def _read_entry(self, place: Place, digest: Digest) -> Entry:
        head = memoryview(bytearray(min(place.nbytes, MAX_HEAD_BYTES)))
        return self._read(place, digest, head)[0]

    def _checked(self, place: Place, digest: Digest) -> tuple[Entry, memoryview]:
        entry, stored = self._read(place, digest, memoryview(bytearray(place.nbytes)))
        if checksum_of(stored) != entry.checksum:
            raise _corrupt(entry, place, "the stored bytes do not have their checksum")
        return entry, stored

    def _take_buffer(self, nbytes: int) -> bytearray:
        """Return memory for a record, used before where possible: touching new memory costs 1 ms a MB."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(nbytes)
        return buffer if len(buffer) >= nbytes else bytearray(nbytes)


def _checked_out(entry: Entry, kind: Kind, place: Place, out: memoryview | None) -> memoryview:
    if entry.kind != kind:
        raise _corrupt(entry, place, f"is of kind {entry.kind}, expected {kind.name.lower()}")
    if entry.bases:
        raise UnsupportedError(f"object '{entry.digest}' is stored as a difference, which this version cannot read")
    if out is None:
        return memoryview(bytearray(entry.raw_bytes))
    if out.nbytes != entry.raw_bytes:
        raise _corrupt(entry, place, f"has {entry.raw_bytes} raw bytes, expected {out.nbytes}")
    return out


def _explained(entry: Entry, stored: memoryview, place: Place, error: ThetaError | None) -> ThetaError:
    """Say why stored bytes gave no object: the checksum tells damage from what is unknown or was never right."""
    if checksum_of(stored) != entry.checksum:
        return _corrupt(entry, place, "the stored bytes do not have their checksum")
    if isinstance(error, UnsupportedError):
        return UnsupportedError(f"object '{entry.digest}' in '{place.file_name}' cannot be read: {error}")
    return _corrupt(entry, place, "the bytes have another digest" if error is None else f"does not decode: {error}")


def _corrupt(entry: Entry, place: Place, reason: str) -> ObjectCorruptError:
    return ObjectCorruptError(str(entry.digest), place.file_name, reason)
