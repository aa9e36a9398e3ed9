"""The models of a store: put a version, list, tag, delete; each is an entry of a ref (`thetastore.refs`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from typing import NamedTuple

from thetastore.checkpoints.ingest import Source
from thetastore.digest import Digest
from thetastore.errors import MalformedError, NoSuchModelError, ObjectMissingError
from thetastore.ref_entries import Draft, Entry, RefFile
from thetastore.refs import Refs
from thetastore.store import Store
from thetastore.versions.complete import refuse_incomplete
from thetastore.versions.names import (
    MODELS,
    TAGS,
    VERSION_OF_TAG,
    ModelName,
    number_of,
    parse_name,
    resolve,
    tags_of,
    version_of_tag,
    version_text,
)
from thetastore.versions.sources import NewFile


class Put(NamedTuple):
    """What became of files that were put."""

    entry: Entry
    is_new: bool
    """Whether this is a new version, and not the newest one, which has the very same files."""


class Listed(NamedTuple):
    """A model in a listing."""

    name: str
    latest: Entry
    version_count: int
    """How many of its versions are wanted still."""


class Versions:
    """The models of one store, by name. For one thread."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.refs = Refs(store.backend)

    def put_files(
        self,
        name: str,
        files: Iterable[NewFile],
        draft: Draft,
        base: Entry | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Put:
        """Store files as the next version of a model.

        Args:
            name: of the model.
            files: all that the version is to have.
            draft: message, author and metadata; its files do not matter.
            base: another version to take differences from; None for the newest one of this model.
            report: called with the bytes that were read so far, and those of all files.

        Raises:
            MalformedError: the name is none, or a file names others that are not given; nothing is stored then.
            OSError: a file cannot be read.
            BackendError: the store cannot be written; there is no new version then.
        """
        known = self._latest(name)
        stored = []
        wanted = list(files)
        refuse_incomplete(wanted)
        counted = _Counted(sum(os.path.getsize(file.source) for file in wanted if file.source != "-"), report)
        with self.session():
            for file in wanted:
                with _opened(file.source) as stream:
                    source = counted.over(stream) if report else stream
                    stored.append(self.store_file(file.path, source, base_in(base or known, file.path)))
            return self.append_files(name, tuple(stored), draft)

    def put_stream(self, name: str, path: str, source: Source, draft: Draft, base: Entry | None = None) -> Put:
        """Store one file, which comes from anywhere, as the next version. See `put_files`."""
        known = base or self._latest(name)
        with self.session():
            return self.append_files(name, (self.store_file(path, source, base_in(known, path)),), draft)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Have collectors keep what is stored until an entry names it: around all that leads to an `append`."""
        self.store.objects.begin_session()
        try:
            yield
        finally:
            self.store.objects.end_session()

    def store_file(self, path: str, source: Source, base: Digest | None = None) -> RefFile:
        """Store a file for an entry that is yet to be written; `base` is a manifest to take differences from."""
        ingested = self.store.put_file(source, base)
        return RefFile(path, ingested.manifest.file_bytes, ingested.manifest_digest)

    def append_files(self, name: str, files: tuple[RefFile, ...], draft: Draft) -> Put:
        """Make stored files the next version of a model, unless the newest one has the very same."""
        ref = f"{MODELS}/{name}"
        latest = self.refs.latest(ref)
        if latest is not None and not latest.is_tombstone and latest.files == tuple(sorted(files)):
            return Put(latest, False)
        return Put(self.append(ref, lambda _: draft._replace(files=files), latest), True)

    def append(self, ref: str, content: Callable[[Entry | None], Draft], known: Entry | None = None) -> Entry:
        """Make what was stored durable, and add an entry; see `Refs.append`.

        Raises:
            ObjectMissingError: a collector took this process for dead, and something that the entry needs is gone.
        """
        self.store.seal()
        entry = self.refs.append(ref, content, known)
        if not self.store.objects.is_vouched_for():
            self._check_complete(entry)
        return entry

    def _check_complete(self, entry: Entry) -> None:
        for _, digest in self.store.missing_objects(file.manifest_digest for file in entry.files):
            raise ObjectMissingError(str(digest), self.store.url)

    def _latest(self, name: str) -> Entry | None:
        parse_name(name)
        return self.refs.latest(f"{MODELS}/{name}")

    def models(self, below: str = "") -> list[Listed]:
        """Return the models whose names begin with these parts, in the order of their names."""
        numbers = self.refs.numbers(f"{MODELS}/{below}" if below else MODELS)
        entries = self.store.pool.map_bounded(self.refs.latest, numbers, lambda _: not self.store.backend.is_remote)
        return [
            Listed(ref.removeprefix(f"{MODELS}/"), entry, entry.number - entry.oldest + 1)
            for ref, entry in zip(numbers, entries, strict=True)
            if entry is not None and not entry.is_tombstone
        ]

    def log(self, wanted: ModelName) -> Iterator[Entry]:
        """Yield the versions of a model that are wanted still, from this one on backwards.

        Raises:
            NoSuchModelError: as `resolve`.
        """
        entry = resolve(self.store, wanted)
        yield entry
        for number in range(entry.number - 1, entry.oldest - 1, -1):
            before = self.refs.read(f"{MODELS}/{wanted.name}", number)
            if not before.is_tombstone:
                yield before

    def tags(self, name: str) -> dict[str, int]:
        """Return the tags of a model with the numbers of their versions."""
        return {tag: version_of_tag(entry) for tag, entry in tags_of(self.refs, name).items()}

    def tag(self, wanted: ModelName, tag: str, draft: Draft, is_forced: bool = False) -> Entry:
        """Give a version a name; return the version's entry.

        Args:
            wanted: the version.
            tag: the name.
            draft: message and author of the tag.
            is_forced: whether a tag that names another version is moved.

        Raises:
            NoSuchModelError: there is no such version.
            MalformedError: the tag looks like a version, or names another one.
            ObjectMissingError: the version was let go of, and its weights were collected.
        """
        if number_of(tag) is not None:
            raise MalformedError(f"'{tag}' cannot be a tag: it means a version by its number")
        parse_name(f"{wanted.name}@{tag}")
        with self.session():
            entry = resolve(self.store, wanted)
            latest = self.refs.latest(entry.name)
            if latest is not None and entry.number < latest.oldest:  # let go of: is it all there still?
                self._check_complete(entry)
            self.append(f"{TAGS}/{wanted.name}/{tag}", self._tag_content(entry, wanted.name, tag, draft, is_forced))
        return entry

    def _tag_content(
        self, entry: Entry, name: str, tag: str, draft: Draft, is_forced: bool
    ) -> Callable[[Entry | None], Draft]:
        def content(before: Entry | None) -> Draft:
            if before is not None and not before.is_tombstone and not is_forced:
                there = version_of_tag(before)
                if there != entry.number:
                    raise MalformedError(f"the tag '{tag}' names {name}@{version_text(there)} already")
            number = before.number + 1 if before else 1
            metadata = {VERSION_OF_TAG: str(entry.number)}
            return draft._replace(files=entry.files, metadata=metadata, oldest=number)

        return content

    def delete_tag(self, name: str, tag: str) -> None:
        """Take a tag away; its versions stay, unless the model let go of them.

        Raises:
            NoSuchModelError: there is none.
        """
        if tag not in tags_of(self.refs, name):
            raise NoSuchModelError(f"'{name}' has no tag '{tag}'")
        self.refs.append(f"{TAGS}/{name}/{tag}", lambda _: Draft((), is_tombstone=True))

    def delete(self, name: str, draft: Draft) -> Entry:
        """Delete a model: its files go with the next collection, but for versions that tags name.

        Raises:
            NoSuchModelError: there is none.
        """
        resolve(self.store, ModelName(name))
        return self.refs.append(f"{MODELS}/{name}", lambda _: draft._replace(files=(), is_tombstone=True))


def base_in(entry: Entry | None, path: str) -> Digest | None:
    """Return the file of a version to take differences from: the one of this path, else the largest of its suffix."""
    files = entry.files if entry else ()
    for file in files:
        if file.path == path:
            return file.manifest_digest
    suffix = path.rpartition(".")[2]
    alike = [file for file in files if file.path.rpartition(".")[2] == suffix]
    return max(alike, key=lambda file: file.file_bytes).manifest_digest if alike else None


class _Counted:
    """Files of which is told how much was read."""

    def __init__(self, total_bytes: int, report: Callable[[int, int], None] | None) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._report = report
        self._stream: FileIO | None = None

    def over(self, stream: FileIO) -> _Counted:
        self._stream = stream
        return self

    def readinto(self, view: memoryview, /) -> int | None:
        assert self._stream is not None, "it reads a file"
        count = self._stream.readinto(view)
        self._done_bytes += count or 0
        if self._report:
            self._report(self._done_bytes, max(self._total_bytes, self._done_bytes))
        return count


@contextmanager
def _opened(source: str) -> Iterator[FileIO]:
    is_input = source == "-"
    with FileIO(sys.stdin.fileno() if is_input else source, "rb", closefd=not is_input) as stream:
        yield stream
