"""The facade: files in and out of a store by their manifests' digests.

A store is a directory, here or far away, with the file `thetastore.json`, which says that it is one and which
version wrote it, beside what `docs/format/store.md` lists.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from thetastore.backends import Backend
from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.urls import SCHEMES, is_url, parse_url
from thetastore.bases.finding import BaseHint
from thetastore.checkpoints.ahead import ahead
from thetastore.checkpoints.ingest import Ingested, Source, Updates, ingest
from thetastore.checkpoints.locating import without_locator, write_locators
from thetastore.checkpoints.rebuild import iter_chunks, read_file, write_file
from thetastore.checkpoints.tensors import TensorReader
from thetastore.descriptor import (
    DESCRIPTOR,
    NEW,
    check_descriptor,
    check_is_still,
    check_nothing_is_under_way,
    create_descriptor,
    read_descriptor,
)
from thetastore.digest import Digest, Kind
from thetastore.errors import (
    BackendError,
    DescriptorMissingError,
    MalformedError,
    ObjectMissingError,
    StoreMissingError,
    ThetaError,
    UnsupportedError,
)
from thetastore.manifest import Manifest, parse_manifest
from thetastore.merge_records import send_records
from thetastore.objects import Objects
from thetastore.pool import Pool, is_interrupt
from thetastore.selection import Wants
from thetastore.sharing import share_directory
from thetastore.transfers.shipment import Piece, Shipment
from thetastore.transfers.transfer import CopyReport, copy_shipment

_LOCAL_PACK_BYTES = 256 << 20
_REMOTE_PACK_BYTES = 64 << 20
"""What a lost connection may cost; whoever wants one chunk does not read more of it for that."""


Opener = Callable[[], "Store"]
"""Opens a store once more, in another process too if it is a directory or far away."""


class Store:
    """A content-addressed store of files. One thread at a time, but for reads through `objects`.

    What `put_file` stored can be read by other processes at once and is durable after `seal` or `close`.
    """

    def __init__(self, backend: Backend) -> None:
        """Use a backend that is known to hold a store; see `open` and `create`."""
        self.backend = backend
        self.url = backend.url
        self.objects = Objects(backend, pack_bytes=_REMOTE_PACK_BYTES if backend.is_remote else _LOCAL_PACK_BYTES)
        self.pool = Pool()
        self.opener: Opener = partial(type(self).at, backend)
        """For work that leaves this thread; picklable where the store was opened by its path or URL."""
        self._without_locator: list[Digest] = []
        self._descriptor = NEW
        self.is_for_many_writers = True
        """Whether several processes may write at once: not where the place replaces files that are there."""

    @classmethod
    def open(
        cls,
        path: str,
        create: bool = False,
        options: Mapping[str, object] | None = None,
        expected: Sequence[Digest] = (),
        is_shared: bool = False,
    ) -> Self:
        """Open the store in a directory, or at a URL.

        Args:
            path: the directory or URL.
            create: make the directory and the store if there is none. A place far away is tried first, with some
                10 MiB: may several processes write to it at once?
            options: credentials, profile, endpoint and the like for a URL: fsspec's `storage_options`.
            expected: manifests of files that will be read at once: from a store far away, what tells where they are
                comes in the same round trip as what says that it is a store.
            is_shared: with `create`, of a directory: let its group write to it and to all that comes into it. One
                that is somebody else's stays as it is.

        Raises:
            StoreMissingError: there is no store, and `create` is not set.
            DescriptorMissingError: there is one, and the file that says so is gone.
            MalformedError: the place holds something else, the URL is none, or it is to be shared as a directory is.
            UnsupportedError: the store was written by a newer version, or a package for the URL is missing.
            BackendError: the place cannot be made, read or reached.
        """
        backend = backend_at(path, options)
        if create and is_shared:
            if backend.is_remote:
                raise MalformedError(f"'{path}' has no group to share it with: its bucket or server says who may write")
            share_directory(backend.url)
        store = cls.at(backend, create, expected)
        store.opener = partial(cls.open, path if is_url(path) else store.url, options=options)
        return store

    @classmethod
    def at(cls, backend: Backend, create: bool = False, expected: Sequence[Digest] = ()) -> Self:
        """Open the store behind a backend; arguments and errors as of `open`."""
        store = cls(backend)
        if expected:
            store.objects.whereabouts.expect_manifests(expected)
        try:
            descriptor = read_descriptor(backend)
            check_descriptor(descriptor, backend.url)
        except FileNotFoundError:
            check_nothing_is_under_way(backend)
            if not create:
                raise _nothing_at(backend) from None
            descriptor = create_descriptor(backend)
        many = descriptor.is_for_many(backend.is_remote)
        if not many:
            backend.look_before_creating()
        store.is_for_many_writers = many
        store._descriptor = descriptor
        return store

    def put_file(self, source: Source, base: BaseHint = None, updates: Updates | None = None) -> Ingested:
        """Store a file's bytes, whatever they are; return the manifest and its digest.

        Memory: some tens of megabytes, however long the file.

        Args:
            source: the bytes, from the start; read to the end.
            base: the manifest of the version before this one, or what finds it, which is asked once, in this
                thread, and only where the file has tensors worth it. Chunks are stored as differences from that
                version, or from the nearest model of the same family, where that is smaller.
            updates: knows how tensors were made from those of another file (`RecipeUpdates`).

        Raises:
            BackendError: the disk is full or failing; nothing that was stored before is lost.
        """
        scratch = self.url if os.path.isdir(self.url) else None
        ingested = ingest(self.objects, self.pool, source, scratch, base, updates)
        if self.backend.is_remote:
            self._without_locator.append(ingested.manifest_digest)
        return ingested

    def get_manifest(self, digest: Digest) -> Manifest:
        """Return a manifest.

        Raises:
            ObjectMissingError: it is not in the store.
            ObjectCorruptError: what is stored for it does not have its digest.
            UnsupportedError: it was written by a newer version.
        """
        return parse_manifest(self.objects.get(Kind.MANIFEST, digest))

    def read_file(self, manifest: Manifest, digest: Digest) -> Iterator[memoryview]:
        """Yield a file's bytes in order; see `rebuild.read_file`."""
        return read_file(self.objects, self.pool, manifest, digest)

    def write_file(
        self, manifest: Manifest, digest: Digest, descriptor: int, report: Callable[[int], None] | None = None
    ) -> None:
        """Write a file into an empty open file and verify all of it; see `rebuild.write_file`."""
        write_file(self.objects, self.pool, manifest, digest, descriptor, report)

    def tensors(self, manifest: Manifest, digest: Digest) -> TensorReader:
        """Return what reads single tensors of a file, and parts of them; thread-safe."""
        return TensorReader(self.objects, self.pool, manifest, digest)

    def iter_objects(self, manifest_digest: Digest, wants: Wants | None = None) -> Iterator[Digest]:
        """Yield the digests of all objects that a file, or some of its tensors, need: manifest, pages, chunks.

        Raises:
            ObjectMissingError, ObjectCorruptError: the manifest or a page cannot be read.
        """
        manifest = self.get_manifest(manifest_digest)
        yield manifest_digest
        if wants is not None:
            shipment = Shipment(self.objects.get, self.objects, self.objects, [manifest_digest], wants)
            yield from (piece.digest for piece in shipment)
            return
        pages = tuple(dict.fromkeys(manifest.pages))  # a hostile file names one of them a hundred thousand times
        for page in pages:
            yield page.digest
        for placed in iter_chunks(self.objects, manifest._replace(pages=pages)):
            yield placed.chunk.digest

    def missing_objects(
        self, manifest_digests: Iterable[Digest], wants: Wants | None = None
    ) -> list[tuple[Digest, Digest]]:
        """Return (manifest, object) for what the store lacks; a missing manifest or page hides what it lists.

        Args:
            manifest_digests: of files.
            wants: tells which of their tensors matter; None if all of the files does.
        """
        missing: list[tuple[Digest, Digest]] = []
        for manifest_digest in manifest_digests:
            if self.backend.is_remote and not self.objects.contains_manifest(manifest_digest):
                missing.append((manifest_digest, manifest_digest))  # to look again, as reading does, takes round trips
                continue
            try:
                needs: Iterable[Digest] = self.iter_objects(manifest_digest, wants)
                if self.backend.is_remote:
                    needs = list(needs)
                    self.objects.whereabouts.look_up(needs)
                missing += ((manifest_digest, digest) for digest in needs if not self.objects.contains(digest))
            except ObjectMissingError as error:
                missing.append((manifest_digest, Digest.parse(error.digest)))
        return missing

    def send_to(
        self,
        target: Store,
        manifest_digests: Iterable[Digest],
        report: Callable[[int, int], None] | None = None,
        wants: Wants | None = None,
        proves: bool = True,
    ) -> CopyReport:
        """Copy to another store what it lacks of some files, or of some of their tensors; durable when this returns.

        Differences are sent with the bases that these files need too, or that are there; others are coded again,
        and what is no difference here may become one there.

        Args:
            target: the other store.
            manifest_digests: the files.
            report: called with the objects and stored bytes copied so far.
            wants: tells of which tensors the chunks are copied; None for whole files.
            proves: whether each record is decoded before the other store takes it; see `copy_shipment`.

        Raises:
            ObjectMissingError: neither store has an object.
            ObjectCorruptError: an object of this store is damaged; it was not sent.
        """
        target.count_only_durable()
        wanted = list(manifest_digests)
        get = partial(self._get_from_either, target)
        shipment = Shipment(get, self.objects, target.objects, wanted, wants)
        lacking: set[Digest] = set()

        def noted() -> Iterator[Piece]:
            for piece in shipment:
                if not target.objects.contains(piece.digest):
                    lacking.add(piece.digest)
                yield piece

        if target.backend.is_remote:
            self._look_ahead(target, shipment)
        announced = ahead(
            self.objects,
            noted(),
            lambda piece: piece.digest if piece.digest in lacking else None,
            lambda base: not target.objects.contains(base) and not shipment.wants(base),
        )
        copied = copy_shipment(self.objects, target.objects, announced, shipment, report, proves)
        target.seal()
        if target.backend.is_remote and wants is None:
            write_locators(target.objects, wanted, get, lacking)
        if lacking and wants is None:
            self.objects.share_anchors(target.objects, lacking)
        for manifest_digest, file in shipment.families.values():
            if manifest_digest in lacking:
                file.register(manifest_digest)
        if not self.backend.is_remote:  # whoever fetches can do without, and a listing takes a round trip
            send_records(self.backend, target.backend, wanted)
        return copied

    def finish_sending(self, target: Store, manifest_digests: Iterable[Digest]) -> int:
        """Do what a push that was broken off left undone for files that are whole in a far store; return for how many.

        What tells where they are, and makes them known to their family, is written when all that was sent is durable.

        Raises:
            ObjectMissingError, ObjectCorruptError: neither store can tell what a file is made of.
            BackendError: the place does not answer.
        """
        unfinished = without_locator(target.backend, manifest_digests) if target.backend.is_remote else []
        get = partial(self._get_from_either, target)
        shipment = Shipment(get, self.objects, target.objects, unfinished)
        target.objects.whereabouts.look_up([piece.digest for piece in shipment])
        count = write_locators(target.objects, unfinished, get)
        for manifest_digest, file in shipment.families.values():
            file.register(manifest_digest)
        return count

    def _look_ahead(self, target: Store, shipment: Shipment) -> None:
        """Find out, in a few round trips, what a far store has of some files, and how deep their bases are there."""
        there = target.objects.whereabouts
        digests = [piece.digest for piece in shipment]
        there.look_up(digests)
        bases: dict[Digest, None] = {}
        for digest in digests:
            try:
                if not target.objects.contains(digest):
                    bases.update(dict.fromkeys(self.objects.entry(digest).bases))
            except ThetaError:
                continue  # whoever copies it is told what is wrong
        there.look_up(bases)
        there.expect_heads(base for base in bases if target.objects.contains(base))

    def _get_from_either(self, other: Store, kind: Kind, digest: Digest) -> memoryview:
        try:
            return self.objects.get(kind, digest)
        except ObjectMissingError:
            return other.objects.get(kind, digest)

    def begin_session(self) -> None:
        """Have collectors keep, until `close`, what the store shows from now on: before a push looks what is there.

        Raises:
            BackendError: the store cannot be written to.
        """
        self.objects.begin_session()

    def lost_meanwhile(self, manifest_digests: Iterable[Digest]) -> list[tuple[Digest, Digest]]:
        """Return (manifest, object) for what a collector may have taken; asked after a ref or a pin was written.

        It is empty but for a writer that slept for longer than a session lasts. Whoever finds something here stores it
        again before it reports success, and asks once more.

        Raises:
            BackendError: the place does not answer.
        """
        return [] if self.objects.is_vouched_for() else self.missing_objects(manifest_digests)

    def count_only_durable(self) -> None:
        """Take for there, from now on, only what is durable, and not what another process is about to make so."""
        self.objects.count_only_durable()

    def seal(self) -> None:
        """Make everything durable and indexed.

        Raises:
            BackendError: not all of it; see `Objects.seal`.
            UnsupportedError: the store was upgraded since it was opened: what was written counts for nothing.
        """
        self._check_version()
        self.objects.seal()
        files, self._without_locator = self._without_locator, []
        write_locators(self.objects, files, self.objects.get)

    def close(self) -> None:
        """Seal, and free threads and files."""
        try:
            if self._without_locator:
                self.seal()
            self._check_version()
            self.objects.close()
        finally:
            self.pool.close()

    def _check_version(self) -> None:
        """Look again what the store is, before anything that was written for it is made to count."""
        if self.objects.is_writing:
            check_is_still(self.backend, self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if is_interrupt(kind) and self.backend.is_remote:
            self.objects.abandon()  # what arrived stays; the rest would keep whoever interrupted waiting
            self.pool.abandon()
        else:
            self.close()


def backend_at(url: str, options: Mapping[str, object] | None) -> Backend:
    """Return the backend for a path, a `file://` URL, or a URL that we, a plug-in or fsspec know."""
    if not is_url(url):
        return DirectoryBackend(url.removeprefix("file://"))
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        from thetastore import plugins
        from thetastore.backends.opening import fsspec_knows

        if plugins.has(plugins.BACKENDS, scheme) or not fsspec_knows(scheme):
            return _opened_by_plugin(scheme, plugins.load(plugins.BACKENDS, scheme, ("file", *SCHEMES)), url)
    from thetastore.backends.opening import open_remote

    return open_remote(parse_url(url), options)


def _opened_by_plugin(scheme: str, open_backend: Any, url: str) -> Backend:
    """Return what a plug-in opens, if it is a backend. What it gives later is proven by digests, as everywhere."""
    try:
        opened = open_backend(url)
    except (ThetaError, OSError):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}"[:500]
        raise UnsupportedError(f"the plug-in for '{scheme}://' failed: {said}") from error
    wanted = {*Backend.__annotations__, *(name for name in vars(Backend) if not name.startswith("_"))}
    lacking = sorted(name for name in wanted if not hasattr(opened, name))
    if lacking:
        raise UnsupportedError(f"what the plug-in for '{scheme}://' opens is no backend: it has no '{lacking[0]}'")
    backend: Backend = opened
    return backend


def _nothing_at(backend: Backend) -> ThetaError:
    """Return the error for a place without a descriptor: a store that lost it needs another command than none."""
    try:
        has_packs = next(iter(backend.list("packs")), None) is not None
    except (BackendError, FileNotFoundError):
        has_packs = False
    if not has_packs:
        return StoreMissingError(f"there is no thetastore at '{backend.url}'")
    return DescriptorMissingError(f"'{backend.url}' has packs, and no {DESCRIPTOR}", f"thetastore mend {backend.url}")
