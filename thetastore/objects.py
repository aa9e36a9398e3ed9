"""Objects by digest: bytes go in and come back proven, however they are stored.

Every byte that leaves here was hashed after it was decoded, so what files, indexes and codecs say need
only be believed as far as it keeps a read cheap and bounded (see `representations`). Where several places
are known for a digest, each is tried; where none serves, the store is listed again once more, since another
process may have written or merged packs since.

Reading is thread-safe, and so is `prepare`, which does the work of writing: hashing, coding. `add` and
`seal` belong to one thread.
"""

from __future__ import annotations

import _thread
import errno
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from thetastore.backends import Backend
from thetastore.digest import Buffer, Digest, Kind, checksum_of, digest_of
from thetastore.errors import BackendError, ObjectCorruptError, ThetaError, UnsupportedError
from thetastore.packs.catalog import Catalog
from thetastore.packs.index import Place
from thetastore.packs.locations import Located
from thetastore.packs.reader import Packs
from thetastore.packs.records import Entry
from thetastore.packs.upkeep import Upkeep
from thetastore.packs.whereabouts import Whereabouts
from thetastore.packs.writer import PackWriter, Row
from thetastore.pool import briefly
from thetastore.representations.choice import Choice, choose, plain
from thetastore.representations.reading import Representations
from thetastore.representations.suspects import acquit, list_suspects, suspect

if TYPE_CHECKING:
    from thetastore.representations.anchors import Anchor
    from thetastore.representations.copying import Copying
    from thetastore.representations.updating import Proposal
    from thetastore.sessions import Session

_SMALL = 8
"""An update that takes less than this part of a chunk is taken without looking for something better: whoever proposes
it knows how the chunk was made."""
_COPIES_FROM_BYTES = 16 << 10
"""Shorter chunks have no anchors; the modules and numpy are not imported for them."""


class Prepared(NamedTuple):
    """An object hashed and, unless the store had it, coded; `Objects.add` stores it."""

    digest: Digest
    entry: Entry | None
    """None where the store has the object."""
    stored: Buffer
    """May be the caller's own memory: it must not change before `add`."""
    anchors: Sequence[Anchor] = ()
    """What is to be remembered of it once it is stored."""
    is_better: bool = False
    """Whether the store has the object, and this is a smaller representation of it."""


class Objects:
    """The objects of one store. A context manager: leaving it closes it."""

    def __init__(self, backend: Backend, *, pack_bytes: int = 256 << 20) -> None:
        self.backend = backend
        self.packs = Packs(backend)
        """The pack files that are open at the moment."""
        self.catalog = Catalog(backend, self.packs)
        """What the store was found to hold."""
        self._upkeep = Upkeep(backend, self.catalog, self.packs, pack_bytes)
        self.pack_bytes = pack_bytes
        """At most so long is a pack, unless a single record is longer."""
        self._writers: list[PackWriter] = []
        self._added: dict[Digest, tuple[PackWriter, Row, tuple[Digest, ...]]] = {}
        self.whereabouts = Whereabouts(backend, self.catalog, self.packs, self._own)
        """Where objects are, and what is announced of them."""
        self.representations = Representations(self.packs, self.catalog, backend, self._own_place)
        """Reads what is stored."""
        self.added_bytes = 0
        """Stored bytes of all records that were added through this."""
        self._copying: Copying | None = None
        self._suspects: set[Digest] | None = None
        self._counts_unsealed = True
        self._session: Session | None = None
        self._lock = _thread.allocate_lock()

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def contains(self, digest: Digest) -> bool:
        """Tell whether the store held an object, and its bases, when it was first asked, or was given it since."""
        if digest in self._added or self.catalog.is_located(digest):
            return True
        if not self.catalog.contains(digest):
            return False
        snapshot = self.catalog.snapshot()
        # Bases are written before their deltas, so they can only be gone where a pack is.
        if snapshot.lost and not self.representations.has_bases(digest):
            return False
        is_in_doubt = snapshot.incoming and not self._counts_unsealed
        if is_in_doubt and not any(place.file_name in snapshot.packs for place in snapshot.find(digest)):
            return False
        return digest not in self._suspected() or self._is_readable(digest)

    def contains_manifest(self, digest: Digest) -> bool:
        """Tell the same of a manifest; of a far store, a locator is enough to tell whoever does not rely on it."""
        if self.backend.is_remote and self.catalog.believes_locators:
            self.catalog.locate(digest)
        return self.contains(digest)

    def count_only_durable(self) -> None:
        """Take for there, from now on, only what is durable or was added here; not what others are about to seal."""
        self._counts_unsealed = False
        self.catalog.rely()

    def _suspected(self) -> set[Digest]:
        if self._suspects is None:
            self._suspects = set() if self.backend.is_remote else list_suspects(self.backend)
        return self._suspects

    def _is_readable(self, digest: Digest) -> bool:
        """Read an object that somebody could not read; clear it where that was a mistake, or was mended."""
        try:
            kind = self.entry(digest).kind
            if kind in set(Kind):
                self.get(Kind(kind), digest)
        except UnsupportedError:
            pass  # not ours to judge
        except ThetaError:
            return False
        self._suspected().discard(digest)
        acquit(self.backend, digest)
        return True

    def begin(self) -> bool:
        """Become a writer: what the store shows from now on may be relied on, as a base too, until `seal`. Thread-safe.

        A writer's pack in the making, empty or not, tells others that it is alive, and that it may lean on what they
        would like to remove (docs/format/store.md, "Retiring"). So the pack comes first, looking at the store after.

        Returns:
            Whether the store can be written to.
        """
        if self._writers:
            return True
        with self._lock:
            if not self._writers:
                try:
                    writer = self._new_writer()
                except BackendError:
                    return False  # whatever has to be stored will say why it cannot
                self.catalog.rely()
                if not self.backend.is_remote:
                    self.catalog.forget()
                elif self._session is None:  # nobody sees what a writer of a far store has in the making
                    self._begin_session()
                self._writers.append(writer)
        return True

    def begin_session(self) -> None:
        """Have collectors keep what the store shows from now on, until `end_session`; see `thetastore.sessions`.

        Raises:
            BackendError: the store cannot be written to.
        """
        with self._lock:
            if self._session is None:
                self._begin_session()

    def _begin_session(self) -> None:
        from thetastore.sessions import Session

        self._session = Session(self.backend)
        self.catalog.rely()
        self.catalog.forget()

    def keep_alive(self) -> None:
        """Have collectors see that the session, if there is one, goes on: for whoever stores nothing for hours.

        Raises:
            BackendError: the store cannot be written to.
        """
        if self._session is not None:
            self._session.keep_alive()

    def is_vouched_for(self) -> bool:
        """Tell, after a ref or a pin was written, whether what it needs was kept all the time since the session began.

        If not, the session begins anew, and the caller has to look whether everything is there.

        Raises:
            BackendError: the place does not answer.
        """
        if self._session is None or self._session.was_honoured():
            return True
        self._begin_session()
        # What was stored in this session may be what was taken.
        self._added = {digest: added for digest, added in self._added.items() if not added[0].is_sealed}
        return False

    def seen_alive_s(self) -> int | None:
        """Return when the session gave the last sign of life, in seconds since 1970 by the place's clock, rounded down.

        It is 0, so that nobody builds on it, if the session has been revoked; None if there is none, or if the place
        does not tell when files were written.

        Raises:
            BackendError: the place does not answer.
        """
        if self._session is None:
            return None
        try:
            return int(self._session.seen_s())
        except FileNotFoundError:
            return 0
        except BackendError as error:
            if error.errno == errno.ENOTSUP:
                return None
            raise

    def end_session(self) -> None:
        """End the session, if there is one: refs or pins name what has to be kept by now.

        Raises:
            BackendError: the place does not answer.
        """
        session, self._session = self._session, None
        if session is not None:
            session.end()

    def _new_writer(self) -> PackWriter:
        writer = PackWriter.new(self.backend)
        self.catalog.own(writer.id)
        return writer

    def prepare(
        self,
        kind: Kind,
        raw: Buffer,
        dtype: str | None = None,
        bases: Iterable[Digest] = (),
        alone: Choice | None = None,
        update: Proposal | None = None,
        columns: int = 0,
    ) -> Prepared:
        """Hash an object and code it for `add`, unless the store has it. Thread-safe.

        The result may refer to `raw`, which must not change before it was added.

        Args:
            kind: What the object is.
            raw: Its bytes.
            dtype: Element type, if they are a tensor's.
            bases: Chunks to take a difference against, the best guess first; not asked for where the store has
                the object. A guess that is wrong, gone or damaged costs some time and nothing else.
            alone: The object's representation without a base, where it is known from elsewhere.
            update: How a chunk may be made from another one. Asked even where the store has the object: it may have
                been stored without that knowledge, by a `git status`.
            columns: Elements of a row, if it is a part of a matrix; else 0.
        """
        digest = digest_of(raw, kind)
        is_writer = self.begin()
        has = self.contains(digest)
        if has:
            if self._copying is not None and dtype is not None:
                self._copying.hope()
            better = None if update is None or not is_writer else self._better(digest, raw, dtype, update)
            if better is None:
                return Prepared(digest, None, b"")
            coded = better
        elif kind is Kind.CHUNK and is_writer:
            coded = self._chosen(raw, dtype, bases, alone, update, columns)
        else:
            coded = plain(raw, dtype)
        raw_bytes, stored_bytes = memoryview(raw).nbytes, memoryview(coded.stored).nbytes
        checksum = checksum_of(coded.stored)
        entry = Entry(
            kind, digest, coded.codec, coded.params, raw_bytes, stored_bytes, coded.bases, coded.depth, checksum
        )
        return Prepared(digest, entry, coded.stored, coded.anchors, has)

    def _chosen(
        self,
        raw: Buffer,
        dtype: str | None,
        bases: Iterable[Digest],
        alone: Choice | None,
        update: Proposal | None,
        columns: int,
    ) -> Choice:
        raw_bytes = memoryview(raw).nbytes
        updated = self._updated(raw, dtype, update)
        if updated is not None and memoryview(updated.stored).nbytes <= raw_bytes // _SMALL:
            return updated
        copying = self._opened_copying() if dtype is not None and raw_bytes >= _COPIES_FROM_BYTES else None
        other = choose(self.representations, raw, dtype, bases, alone, copying, columns)
        return other if updated is None else min(updated, other, key=lambda one: memoryview(one.stored).nbytes)

    def _better(self, digest: Digest, raw: Buffer, dtype: str | None, update: Proposal) -> Choice | None:
        """Return an update that takes less than half of what is stored of an object; it must not stand on itself."""
        try:
            entry = self.entry(digest)
            found = None if entry.codec == "update" else self._updated(raw, dtype, update)
            if found is None or 2 * memoryview(found.stored).nbytes > entry.stored_bytes:
                return None
            standing = list(found.bases)
            for base in standing:  # it grows; depth falls from a record to its bases, so it ends
                standing += self.entry(base).bases
        except (ThetaError, FileNotFoundError):
            return None
        return None if digest in standing else found

    def _updated(self, raw: Buffer, dtype: str | None, update: Proposal | None) -> Choice | None:
        if update is None or dtype is None:
            return None
        from thetastore.representations.updating import choose_update

        return choose_update(self.representations, memoryview(raw), dtype, update)

    def share_anchors(self, target: Objects, chunks: Container[Digest]) -> None:
        """Let `target` find copies in chunks that it was given from here. It is no error if that fails."""
        self._opened_copying().share(target._opened_copying(), chunks)

    def _opened_copying(self) -> Copying:
        with self._lock:
            if self._copying is None:
                from thetastore.representations.copying import Copying

                self._copying = Copying(self.backend, self.representations)
            return self._copying

    def add(self, prepared: Prepared) -> Digest:
        """Store a prepared object, unless the store has it; other processes can read it when this returns.

        It is durable once `seal` has returned.

        Raises:
            BackendError: it was not stored: the disk is full or failing.
        """
        if prepared.entry is not None:
            if prepared.is_better:
                self._append(prepared.entry, prepared.stored)
            else:
                self.add_representation(prepared.entry, prepared.stored)
            if prepared.anchors:
                self._opened_copying().remember(prepared.digest, prepared.anchors)
        return prepared.digest

    def add_representation(self, entry: Entry, stored: Buffer) -> None:
        """Store a representation as it is, unless the store has the object. See `add`.

        If it has bases, what is known of them must have been learned after `begin`.
        """
        self.begin()
        if not self.contains(entry.digest):
            self._append(entry, stored)

    def _append(self, entry: Entry, stored: Buffer) -> None:
        if not self._writers or not self._has_room(entry.stored_bytes):
            # A full pack is sealed at the end with the others: its write-back goes on meanwhile. One for a far store is
            # sent now: it takes room on this machine, and what has arrived need not be sent again.
            if self._writers and self.backend.is_remote:
                self._upkeep.seal_early(self._writers[-1])
                self._writers.pop()
            self._writers.append(self._new_writer())
        self.keep_alive()
        writer = self._writers[-1]
        self._added[entry.digest] = writer, writer.append(entry, stored), entry.bases
        self.added_bytes += entry.stored_bytes

    def _has_room(self, nbytes: int) -> bool:
        writer = self._writers[-1]
        return writer.has_room_for(nbytes, (1 << 62) if writer.is_empty else self.pack_bytes)

    def put(self, kind: Kind, raw: Buffer, dtype: str | None = None, bases: Iterable[Digest] = ()) -> Digest:
        """Prepare and add an object; return its digest."""
        return self.add(self.prepare(kind, raw, dtype, bases))

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
        if self.backend.is_remote and kind is not Kind.CHUNK:
            found = self._located_raw(kind, digest)
            if found is not None:
                return _put_into(found, out)
        try:
            return self.representations.get(kind, digest, out)
        except ObjectCorruptError:
            if not self.backend.is_remote and digest not in self._suspected():
                suspect(self.backend, digest)
                self._suspected().add(digest)
            raise

    def _located_raw(self, kind: Kind, digest: Digest) -> bytes | None:
        """Return a manifest or page that a locator has."""
        if kind is Kind.MANIFEST:
            self.catalog.locate(digest)
        return self.catalog.locations.raw(kind, digest)

    def entry(self, digest: Digest) -> Entry:
        """Return what is stored for an object. Raises as `get` does."""
        return self.representations.entry(digest)

    def standing_alone(self, digest: Digest) -> Iterator[tuple[Place, Entry]]:
        """Yield the representations of an object that need no base, and where their records lie."""
        return self.representations.standing_alone(digest)

    def representation(self, digest: Digest) -> tuple[Entry, memoryview]:
        """Return what is stored for an object, and its stored bytes in new memory, their checksum checked.

        Raises as `get` does; nothing is decoded, so nothing is proven about raw bytes.
        """
        for kind in (Kind.MANIFEST, Kind.PAGE) if self.backend.is_remote else ():
            raw = self.catalog.locations.raw(kind, digest)
            if raw is not None:
                entry, stored = _coded(kind, digest, raw)
                return entry, memoryview(stored)
        return self.representations.stored(digest)

    def code_alone(self, digest: Digest) -> tuple[Entry, Buffer] | None:
        """Return a record of a chunk that stands on nothing, whatever is stored of it; None where it cannot be read."""
        try:
            raw = self.representations.get(Kind.CHUNK, digest)
        except ThetaError:
            return None
        return _coded(Kind.CHUNK, digest, raw)

    def seal(self) -> None:
        """Make everything that was added durable and indexed; do the upkeep of the store.

        Raises:
            BackendError: not everything could be made durable. What was added stays readable, and the next
                seal, by any process, finishes the work.
        """
        self._discard_empty()
        try:
            self._upkeep.seal(self._writers)
        finally:
            self._writers = [writer for writer in self._writers if not writer.is_sealed]
        if self._copying is not None:
            self._copying.flush()
        if self.catalog.snapshot().notes:
            from thetastore.packs.retirement import sweep

            sweep(self.backend, self.catalog, self.packs, self._upkeep, self.code_alone)

    @property
    def is_writing(self) -> bool:
        """Whether something was added that the next seal makes durable."""
        return any(not writer.is_empty for writer in self._writers)

    def _discard_empty(self) -> None:
        """End a writer that has written nothing; a first pack is empty only where there is no second."""
        if len(self._writers) == 1 and self._writers[0].is_empty:
            self._writers.pop().discard()

    def rebuild_index(self) -> int:
        """Make the index anew from the packs alone; return how many records it lists.

        Raises:
            BackendError: `EAGAIN` while another process merges.
        """
        return self._upkeep.rebuild_index()

    def close(self) -> None:
        """Seal what was added, if anything was."""
        self._discard_empty()
        if self._writers:
            self.seal()
        self.packs.keep(frozenset())
        self.end_session()

    def abandon(self) -> None:
        """Let go of what was added and is not sealed, and of the session, without waiting for a place far away."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.close()
        self.packs.keep(frozenset())
        briefly(self.end_session)

    def _own_place(self, digest: Digest) -> Place | None:
        own = self._own(digest)
        return None if own is None else own.place

    def _own(self, digest: Digest) -> Located | None:
        added = self._added.get(digest)
        if added is None:
            return None
        writer, row, bases = added
        return Located(Place(writer.file_name, row.offset, row.nbytes), bases)


def _put_into(raw: bytes, out: memoryview | None) -> memoryview:
    if out is None:
        return memoryview(bytearray(raw))
    out[:] = raw
    return out


def _coded(kind: Kind, digest: Digest, raw: Buffer) -> tuple[Entry, Buffer]:
    """Return a record of an object that stands on nothing."""
    codec, params, stored = plain(raw, None)[:3]
    lengths = memoryview(raw).nbytes, memoryview(stored).nbytes
    return Entry(kind, digest, codec, params, *lengths, (), 0, checksum_of(stored)), stored
