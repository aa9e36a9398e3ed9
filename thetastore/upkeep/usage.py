"""Where the bytes of a store are: by file, by tensor, by codec, and in objects that are held only as base.

Only manifests, their pages and the heads of records are read; no chunk is. What is counted:

* logical: bytes of the files, each as often as it is named; what a directory without any sharing would take.
* unique: raw bytes of distinct chunks that one row of a table needs and no other does.
* shared: raw bytes of distinct chunks that other rows need as well. A row's unique and shared bytes together are
  its distinct chunks; in totals, whose rows are the versions of files, they are all distinct chunks.
* stored: what the records of a row's chunks, pages and manifests take in packs, heads included, each once. A base that
  none of them names is not in it.
* added: the part of stored that no row before this one has. Its sum over a table is the total.
* by base: the stored part of differences and copies, by the row that first names what they were taken from (the first
  base, of copies from several); so it says what would grow if that row's weights were not there.
* held only as base: objects that no manifest under consideration names, but that are needed to decode one that
  is, through however many differences. If the manifests are those of one revision, the base may well be a chunk of
  another one.

Memory: some 300 bytes an object, and 4 for each time that a manifest names one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from sys import intern
from typing import NamedTuple

from thetastore.bases.candidates import TensorMap
from thetastore.digest import Digest, Kind
from thetastore.errors import ObjectCorruptError, ObjectMissingError
from thetastore.manifest import Chunk, Manifest, parse_manifest, parse_page
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.packs.records import HEAD_BYTES, Entry


class File(NamedTuple):
    """One version of a file."""

    manifest_digest: Digest
    file_bytes: int


class Group(NamedTuple):
    """What one row of a table is about: the versions of a file, the files of a commit."""

    name: str
    files: Sequence[File]
    """Without repetitions, unless repetitions are to count in the logical bytes."""


class Row(NamedTuple):
    """What a group takes; see the module for the words."""

    name: str
    tensor: str | None
    """Name of the tensor, in a table of tensors; None for bytes that are of no tensor, or of several."""
    file_count: int
    logical_bytes: int
    unique_bytes: int
    shared_bytes: int
    stored_bytes: int
    added_bytes: int


class Amount(NamedTuple):
    """Some objects."""

    object_count: int
    raw_bytes: int
    stored_bytes: int
    """Their records, heads included."""


class Totals(NamedTuple):
    """All files together; the rows between which bytes are shared are the distinct manifests."""

    file_count: int
    """Distinct manifests."""
    logical_bytes: int
    unique_bytes: int
    shared_bytes: int
    stored_bytes: int
    missing_object_count: int
    """Objects that are not in the store or cannot be read; they are in all figures but stored and added."""


class Contents(NamedTuple):
    """What is in a store's packs."""

    manifests: list[File]
    """Those that can be read."""
    everything: Amount
    """All distinct objects, by the representation that a reader tries first."""
    duplicate_bytes: int
    """Records of objects that have another one."""
    pack_bytes: int
    """The pack files, whole."""


class Usage:
    """Counts the bytes of files that are added to it. For one thread."""

    def __init__(self, objects: Objects) -> None:
        """Count in a store as it is now."""
        objects.catalog.refresh()
        self._objects = objects
        self._numbers: dict[Digest, int] = {}
        self._raw_bytes = array("Q")
        self._stored_bytes = array("Q")
        self._codecs: list[str] = []
        self._bases: dict[int, tuple[Digest, ...]] = {}
        self._named: set[int] = set()
        self._missing: set[int] = set()
        self._chunks: dict[Digest, array[int]] = {}
        """The chunks of each manifest, in the order of the file."""
        self._frames: dict[Digest, array[int]] = {}
        """Each manifest with its pages."""

    def scan(self) -> Contents:
        """Read the tables of all packs: faster than asking for each object, and finds every manifest.

        Raises:
            MalformedError, UnsupportedError: a pack cannot be read at all.
        """
        snapshot = self._objects.catalog.snapshot()
        manifests: list[Digest] = []
        duplicates: list[tuple[Digest, int]] = []
        pack_bytes = 0
        for name in sorted(snapshot.packs | snapshot.incoming):
            try:
                pack = self._objects.packs.get(name)
                records = records_of(pack) if name in snapshot.packs else list(pack.records())
            except FileNotFoundError:
                continue  # merged since it was listed, and found where it went
            pack_bytes += pack.size()
            for record in records:
                if record.entry.digest in self._numbers:
                    duplicates.append((record.entry.digest, record.nbytes))
                    continue
                self._note(record.entry)
                if record.entry.kind == Kind.MANIFEST:
                    manifests.append(record.entry.digest)
        duplicate_bytes = sum(nbytes for _, nbytes in duplicates)
        for digest in dict.fromkeys(digest for digest, _ in duplicates):
            before = self._stored_bytes[self._numbers[digest]]
            self._note(self._objects.entry(digest))
            duplicate_bytes += before - self._stored_bytes[self._numbers[digest]]
        files = [File(digest, size) for digest in manifests if (size := self._file_bytes(digest)) is not None]
        return Contents(files, self._amount(range(len(self._codecs))), duplicate_bytes, pack_bytes)

    def _file_bytes(self, digest: Digest) -> int | None:
        manifest = self._manifest(digest)
        return None if manifest is None else manifest.file_bytes

    def rows(self, groups: Iterable[Group]) -> list[Row]:
        """Return a row for each group, in their order, which is the order of `added_bytes`."""
        table = _Table(self._raw_bytes, self._stored_bytes)
        for group in groups:
            chunks: set[int] = set()
            frames: set[int] = set()
            for file in group.files:
                self._read(file.manifest_digest)
                chunks.update(self._chunks[file.manifest_digest])
                frames.update(self._frames[file.manifest_digest])
            logical_bytes = sum(file.file_bytes for file in group.files)
            table.add(group.name, None, len(group.files), logical_bytes, chunks, frames)
        return table.finished()

    def tensor_rows(self, groups: Iterable[Group]) -> list[Row]:
        """Return a row for each tensor of each group, and one for what is of no tensor, or of several.

        A chunk belongs to the longest tensor that it lies in. `logical_bytes` are the chunks' raw bytes, each as often
        as the group's files have it. Manifests and pages are in no row.
        """
        table = _Table(self._raw_bytes, self._stored_bytes)
        for group in groups:
            pieces: dict[str | None, list[int]] = {}
            for file in group.files:
                self._read(file.manifest_digest)
                for tensor, number in self._by_tensor(file.manifest_digest):
                    pieces.setdefault(tensor, []).append(number)
            for tensor in sorted(pieces, key=lambda name: (name is None, name or "")):
                numbers = pieces[tensor]
                logical_bytes = sum(self._raw_bytes[number] for number in numbers)
                table.add(group.name, tensor, len(group.files), logical_bytes, set(numbers), set())
        return table.finished()

    def totals(self, files: Iterable[File]) -> Totals:
        """Return the sums over files, whose versions are the rows; repetitions count in the logical bytes."""
        every = list(files)
        rows = self.rows(Group("", [file]) for file in dict.fromkeys(every))
        distinct = {number for file in every for number in self._chunks[file.manifest_digest]}
        unique_bytes = sum(row.unique_bytes for row in rows)
        self._held()  # looks bases up: one that is not there is missing too
        return Totals(
            len(rows),
            sum(file.file_bytes for file in every),
            unique_bytes,
            sum(self._raw_bytes[number] for number in distinct) - unique_bytes,
            sum(row.added_bytes for row in rows),
            len(self._missing),
        )

    def held_only_as_base(self) -> Amount:
        """Return the objects that no manifest seen so far names and that an object which one names needs."""
        return self._amount(self._held())

    def codecs(self) -> list[tuple[str, Amount]]:
        """Return what each codec stores of all that was named so far, or is held as a base: the most bytes first."""
        by_codec: dict[str, list[int]] = {}
        for number in (self._named | self._held()) - self._missing:
            by_codec.setdefault(self._codecs[number], []).append(number)
        amounts = [(codec, self._amount(numbers)) for codec, numbers in by_codec.items()]
        return sorted(amounts, key=lambda pair: (-pair[1].stored_bytes, pair[0]))

    def by_base(self, groups: Iterable[Group]) -> list[tuple[str | None, Amount]]:
        """Return what leans on each group: the most bytes first; under None, on what is held only as base."""
        owners: dict[int, str] = {}
        for group in groups:
            for file in group.files:
                self._read(file.manifest_digest)
                for number in self._chunks[file.manifest_digest]:
                    owners.setdefault(number, group.name)
        leaning: dict[str | None, list[int]] = {}
        for number in (self._named | self._held()) - self._missing:
            bases = self._bases.get(number)
            if bases:
                leaning.setdefault(owners.get(self._number(bases[0])), []).append(number)
        amounts = [(name, self._amount(numbers)) for name, numbers in leaning.items()]
        return sorted(amounts, key=lambda pair: (-pair[1].stored_bytes, pair[0] or ""))

    def unreached(self) -> Amount:
        """Return the objects known from `scan` that no manifest seen so far names and no difference needs."""
        return self._amount(set(range(len(self._codecs))) - self._named - self._held())

    def _held(self) -> set[int]:
        held: set[int] = set()
        waiting = list(self._named)
        while waiting:
            for base in self._bases.get(waiting.pop(), ()):
                number = self._number(base)
                if number not in self._named and number not in held:
                    held.add(number)
                    waiting.append(number)
        return held

    def _amount(self, numbers: Iterable[int]) -> Amount:
        counted = list(numbers)
        raw_bytes = sum(self._raw_bytes[number] for number in counted)
        return Amount(len(counted), raw_bytes, sum(self._stored_bytes[number] for number in counted))

    def _read(self, digest: Digest) -> None:
        """Note what a manifest names, once."""
        if digest in self._chunks:
            return
        chunks = self._chunks[digest] = array("I")
        frames = self._frames[digest] = array("I", [self._number(digest)])
        manifest = self._manifest(digest)
        for page_digest, _, listed in self._pieces(manifest) if manifest is not None else ():
            if page_digest is not None:
                frames.append(self._number(page_digest))
            chunks.extend(self._number(chunk.digest, chunk.raw_bytes) for chunk in listed)
        self._named.update(chunks, frames)

    def _by_tensor(self, digest: Digest) -> Iterator[tuple[str | None, int]]:
        manifest = self._manifest(digest)
        if manifest is None:
            return
        tensors = TensorMap(manifest.tensors)
        for _, offset, listed in self._pieces(manifest):
            for chunk in listed:
                tensor = tensors.at(offset, chunk.raw_bytes)
                yield (None if tensor is None else tensor.name), self._number(chunk.digest)
                offset += chunk.raw_bytes

    def _pieces(self, manifest: Manifest) -> Iterator[tuple[Digest | None, int, tuple[Chunk, ...]]]:
        """Yield (page, offset in the file, chunks); of a page that cannot be read, no chunks."""
        yield None, 0, manifest.chunks
        offset = 0
        for page in manifest.pages:
            raw = self._get(Kind.PAGE, page.digest)
            yield page.digest, offset, parse_page(raw, page) if raw is not None else ()
            offset += page.raw_bytes

    def _manifest(self, digest: Digest) -> Manifest | None:
        raw = self._get(Kind.MANIFEST, digest)
        return None if raw is None else parse_manifest(raw)

    def _get(self, kind: Kind, digest: Digest) -> memoryview | None:
        """Return a manifest or page; None, and note it as missing, where it cannot be had."""
        number = self._number(digest)
        if number in self._missing:
            return None
        try:
            return self._objects.get(kind, digest)
        except (ObjectMissingError, ObjectCorruptError):
            self._missing.add(number)
            self._stored_bytes[number] = 0
            return None

    def _number(self, digest: Digest, raw_bytes: int = 0) -> int:
        """Return an object's number; of a new one, look up what is stored for it."""
        number = self._numbers.get(digest)
        if number is not None:
            return number
        try:
            if self._objects.contains(digest):  # a miss would list the store again for each object
                return self._note(self._objects.entry(digest))
        except (ObjectMissingError, ObjectCorruptError):
            pass
        number = self._append(digest, raw_bytes, 0, "")
        self._missing.add(number)
        return number

    def _note(self, entry: Entry) -> int:
        stored_bytes = HEAD_BYTES + len(entry.params) + 32 * len(entry.bases) + entry.stored_bytes
        number = self._numbers.get(entry.digest)
        if number is None:
            number = self._append(entry.digest, entry.raw_bytes, stored_bytes, entry.codec)
        else:
            self._stored_bytes[number], self._codecs[number] = stored_bytes, entry.codec
            self._bases.pop(number, None)
        if entry.bases:
            self._bases[number] = entry.bases
        return number

    def _append(self, digest: Digest, raw_bytes: int, stored_bytes: int, codec: str) -> int:
        number = self._numbers[digest] = len(self._codecs)
        self._raw_bytes.append(raw_bytes)
        self._stored_bytes.append(stored_bytes)
        self._codecs.append(intern(codec))
        return number


_SEVERAL = -1


class _Table:
    """Rows in the making: a chunk is unique to the first row that has it until another one comes with it."""

    def __init__(self, raw_bytes: array[int], stored_bytes: array[int]) -> None:
        self._raw_bytes = raw_bytes
        self._stored_bytes = stored_bytes
        self._owners: dict[int, int] = {}
        self._framed: set[int] = set()
        self._rows: list[tuple[str, str | None, int, int]] = []
        self._unique: list[int] = []
        self._distinct: list[int] = []
        self._stored: list[int] = []
        self._added: list[int] = []

    def add(
        self, name: str, tensor: str | None, file_count: int, logical_bytes: int, chunks: set[int], frames: set[int]
    ) -> None:
        """Append a row for distinct chunks, and distinct manifests and pages."""
        row = len(self._rows)
        self._rows.append((name, tensor, file_count, logical_bytes))
        new = (chunks - self._owners.keys()) | (frames - self._framed - self._owners.keys())
        self._added.append(sum(self._stored_bytes[number] for number in new))
        self._stored.append(sum(self._stored_bytes[number] for number in chunks | frames))
        self._distinct.append(sum(self._raw_bytes[number] for number in chunks))
        self._unique.append(0)
        self._framed |= frames
        for number in chunks:
            owner = self._owners.setdefault(number, row)
            if owner == row:
                self._unique[row] += self._raw_bytes[number]
            elif owner != _SEVERAL:
                self._unique[owner] -= self._raw_bytes[number]
                self._owners[number] = _SEVERAL

    def finished(self) -> list[Row]:
        """Return all rows."""
        return [
            Row(*head, unique, distinct - unique, stored, added)
            for head, unique, distinct, stored, added in zip(
                self._rows, self._unique, self._distinct, self._stored, self._added, strict=True
            )
        ]
