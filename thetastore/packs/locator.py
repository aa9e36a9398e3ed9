"""Locators: for one manifest, its bytes and the places of all that it needs, in one file (docs/format/locator.md).

Whoever reads some tensors from far away gets everything by it that he has to know, in one request, and then asks for
all ranges at once. It is a hint: what it says of bytes is proven by digests, and where it is wrong, or out of date, the
index is asked. Chunks stand in the order of the manifest, so their digests need not be said again; 37 bytes a chunk are
left, of which 36 are the manifest's own.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import zstandard

from thetastore.backends import Backend
from thetastore.digest import Digest, Kind, checksum_of, digest_of
from thetastore.errors import MalformedError
from thetastore.manifest import Manifest, parse_manifest, parse_page
from thetastore.packs.index import Place
from thetastore.packs.locations import Located
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble, checksum64, preamble
from thetastore.packs.records import HEAD_BYTES, MAX_BASES, MAX_RECORD_BYTES
from thetastore.packs.writer import sealed_name

MAGIC = b"\xa7thloc\n\0"
DIRECTORY = "locators"
MAX_LOCATOR_BYTES = 64 << 20
"""A model of more than a terabyte; there is none for longer ones."""
_MAX_RATIO = 16
"""What a reader unpacks, by what was sent. Digests are noise, so a real one has about 2."""
_HEAD = struct.Struct("<QQ32s16s")  # file bytes, raw bytes of the body, manifest, XXH3-128 of the body
_BODY_AT = PREAMBLE_BYTES + _HEAD.size + 8
_COUNTS = struct.Struct("<IIIIII")  # manifest bytes, bytes of pages, objects besides chunks, packs, runs, links
_ROW_BYTES = 4 + 4 + 8 + 1
_LEVEL = 6


class Locator(NamedTuple):
    """What a locator says."""

    manifest: bytes
    """Proven by its digest."""
    pages: Mapping[Digest, bytes]
    """Proven by their digests."""
    objects: Mapping[Digest, Located]
    """All chunks, their bases, and the bases of these."""
    runs: frozenset[str]
    """Ids of the index runs that the places were taken from. While all of them are there, so are the packs."""

    @property
    def kept_bytes(self) -> int:
        """About how much memory it takes."""
        return len(self.manifest) + sum(map(len, self.pages.values())) + 400 * len(self.objects)

    def names(self, place: Place) -> bool:
        """Tell whether it says of any object that it is in the pack of this place."""
        return any(located.place.file_name == place.file_name for located in self.objects.values())


def locator_name(manifest_digest: Digest) -> str:
    """Return the file name of a manifest's locator."""
    return f"{DIRECTORY}/{manifest_digest}"


def encode_locator(
    manifest: bytes, pages: Sequence[bytes], objects: Mapping[Digest, Located], runs: Iterable[str]
) -> bytes:
    """Return a locator's bytes.

    Args:
        manifest: the root's bytes.
        pages: the pages' bytes, in the order of the root.
        objects: where all chunks are, all their bases, and the bases of these.
        runs: ids of the index runs that say so.

    Raises:
        MalformedError: it would be too long, or could be packed so well that readers would take it for a trap.
    """
    chunks = list(_chunks(parse_manifest(manifest), pages))
    order = dict.fromkeys(chunks)
    extras = [digest for digest in objects if digest not in order]
    numbers = {digest: number for number, digest in enumerate((*order, *extras))}
    packs: dict[str, int] = {}
    columns = array("I"), array("I"), array("q"), array("B"), array("I")
    end = 0
    for digest in numbers:
        (name, offset, nbytes), bases = objects[digest]
        row = packs.setdefault(name, len(packs)), nbytes, offset - end, len(bases)
        for column, value in zip(columns, row, strict=False):
            column.append(value)
        columns[4].extend(numbers[base] for base in bases)
        end = offset + nbytes
    pack_ids = [bytes.fromhex(name[len("packs/") : -len(".pack")]) for name in packs]
    run_ids = sorted(bytes.fromhex(run) for run in runs)
    counts = len(manifest), sum(map(len, pages)), len(extras), len(packs), len(run_ids), len(columns[4])
    raw = b"".join((_COUNTS.pack(*counts), manifest, *pages, *extras, *pack_ids, *run_ids, *map(bytes, columns)))
    body = zstandard.ZstdCompressor(level=_LEVEL).compress(raw)
    file_bytes = _BODY_AT + len(body)
    if file_bytes > MAX_LOCATOR_BYTES or len(raw) > _MAX_RATIO * file_bytes:
        raise MalformedError(f"a locator of {file_bytes} bytes for {len(raw)} is beyond what readers take")
    head = _HEAD.pack(file_bytes, len(raw), digest_of(manifest, Kind.MANIFEST), checksum_of(body))
    return preamble(MAGIC) + head + checksum64(head) + body


def _chunks(manifest: Manifest, pages: Iterable[bytes]) -> Iterator[Digest]:
    """Yield the digests of a file's chunks in order, as often as they come."""
    yield from (chunk.digest for chunk in manifest.chunks)
    for ref, page in zip(manifest.pages, pages, strict=True):
        yield from (chunk.digest for chunk in parse_page(page, ref))


def read_locator(backend: Backend, manifest_digest: Digest, first_bytes: int) -> Locator:
    """Read the locator of a manifest: in one request, if it is no longer than `first_bytes`.

    Raises:
        FileNotFoundError: there is none.
        MalformedError, UnsupportedError: it breaks a rule of the format, or is another manifest's.
    """
    name = locator_name(manifest_digest)
    stored = backend.read(name, 0, first_bytes)
    check_preamble(stored[:PREAMBLE_BYTES], MAGIC, name)
    file_bytes = _HEAD.unpack(_checked_head(stored, name))[0]
    if not _BODY_AT < file_bytes <= MAX_LOCATOR_BYTES:
        raise MalformedError(f"'{name}' is malformed: it says that it has {file_bytes} bytes")
    if len(stored) < file_bytes:
        out = memoryview(bytearray(file_bytes))
        out[: len(stored)] = stored
        backend.open(name).read_into(len(stored), out[len(stored) :])
        return parse_locator(out, manifest_digest)
    return parse_locator(memoryview(stored), manifest_digest)


def parse_locator(stored: memoryview, manifest_digest: Digest) -> Locator:
    """Return what a locator says.

    Raises:
        MalformedError, UnsupportedError: it breaks a rule of the format, or is another manifest's.
    """
    name = locator_name(manifest_digest)
    check_preamble(stored[:PREAMBLE_BYTES], MAGIC, name)
    file_bytes, raw_bytes, digest, checksum = _HEAD.unpack(_checked_head(stored, name))
    body = stored[_BODY_AT:]
    if file_bytes != len(stored) or digest != manifest_digest or checksum_of(body) != checksum:
        raise MalformedError(f"'{name}' is malformed: its length, manifest or checksum is another")
    return Body(_unpacked(body, raw_bytes, name), name).parse(manifest_digest)


def _checked_head(stored: bytes | memoryview, name: str) -> bytes:
    head = bytes(stored[PREAMBLE_BYTES : _BODY_AT - 8])
    if len(stored) < _BODY_AT or checksum64(head) != stored[_BODY_AT - 8 : _BODY_AT]:
        raise MalformedError(f"'{name}' is malformed: its head does not have its checksum")
    return head


def _unpacked(body: memoryview, raw_bytes: int, name: str) -> memoryview:
    if raw_bytes > _MAX_RATIO * len(body) + _MAX_RATIO * _BODY_AT:
        raise MalformedError(f"'{name}' is malformed: {len(body)} bytes are to be {raw_bytes}")
    try:
        if zstandard.frame_content_size(body) != raw_bytes:
            raise MalformedError(f"'{name}' is malformed: its frame has another length")
        raw = zstandard.ZstdDecompressor().decompress(body, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedError(f"'{name}' is malformed: it cannot be unpacked: {error}") from error
    return memoryview(raw)


class Body:
    """The unpacked body of a locator, taken apart."""

    def __init__(self, raw: memoryview, name: str) -> None:
        self._raw = raw
        self._name = name
        self._at = 0

    def parse(self, manifest_digest: Digest) -> Locator:
        """Return what it says. Raises as `parse_locator` does."""
        counts = _COUNTS.unpack(self._take(_COUNTS.size))
        manifest_bytes, page_bytes, extra_count, pack_count, run_count, link_count = counts
        manifest = bytes(self._take(manifest_bytes))
        if digest_of(manifest, Kind.MANIFEST) != manifest_digest:
            raise self._malformed("its manifest has another digest")
        root = parse_manifest(manifest)
        pages = self._pages(root, page_bytes)
        digests = list(dict.fromkeys(_chunks(root, [pages[ref.digest] for ref in root.pages])))
        digests += self._digests(extra_count)
        packs = [sealed_name(id) for id in self._ids(pack_count)]
        runs = frozenset(self._ids(run_count))
        columns = [self._column(code, len(digests)) for code in "IIqB"]
        links = self._column("I", link_count)
        if self._at != len(self._raw) or sum(columns[3]) != link_count:
            raise self._malformed("bytes are left over, or bases do not add up")
        return Locator(manifest, pages, dict(self._rows(digests, packs, columns, links)), runs)

    def _take(self, nbytes: int) -> memoryview:
        start, self._at = self._at, self._at + nbytes
        if self._at > len(self._raw):
            raise self._malformed(f"it is cut short: it needs {self._at} bytes")
        return self._raw[start : self._at]

    def _digests(self, count: int) -> Iterator[Digest]:
        found = self._take(32 * count)
        return (Digest(found[at : at + 32]) for at in range(0, 32 * count, 32))

    def _ids(self, count: int) -> list[str]:
        found = self._take(16 * count)
        return [found[at : at + 16].hex() for at in range(0, 16 * count, 16)]

    def _column(self, code: str, count: int) -> array[int]:
        column = array(code)
        column.frombytes(self._take(column.itemsize * count))
        return column

    def _pages(self, root: Manifest, page_bytes: int) -> dict[Digest, bytes]:
        """Return the pages; one that comes twice in a root comes twice here."""
        end = self._at + page_bytes
        pages = {}
        for ref in root.pages:
            page = bytes(self._take(12 + 36 * ref.chunk_count))
            if digest_of(page, Kind.PAGE) != ref.digest:
                raise self._malformed("a page has another digest")
            pages[ref.digest] = page
        if self._at != end:
            raise self._malformed("the pages have another length")
        return pages

    def _rows(
        self, digests: list[Digest], packs: list[str], columns: list[array[int]], links: array[int]
    ) -> Iterator[tuple[Digest, Located]]:
        end = at = 0
        for digest, pack, nbytes, gap, base_count in zip(digests, *columns, strict=True):
            offset = end + gap
            end = offset + nbytes
            numbers = links[at : at + base_count]
            at += base_count
            if (
                pack >= len(packs)
                or not HEAD_BYTES <= nbytes <= MAX_RECORD_BYTES
                or not PREAMBLE_BYTES <= offset < 1 << 62
            ):
                raise self._malformed(f"object '{digest}' is at no place that can be")
            if base_count > MAX_BASES or any(number >= len(digests) for number in numbers):
                raise self._malformed(f"object '{digest}' has bases that cannot be")
            yield digest, Located(Place(packs[pack], offset, nbytes), tuple(digests[number] for number in numbers))

    def _malformed(self, words: str) -> MalformedError:
        return MalformedError(f"'{self._name}' is malformed: {words}")
