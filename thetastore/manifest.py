"""The description of one file, as a value and as bytes: `docs/format/manifest.md`."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from thetastore.chunking import MAX_CHUNK_BYTES
from thetastore.digest import Buffer, Digest
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError, NotThisFormat, UnsupportedError
from thetastore.layout import MAX_DIMENSIONS, MAX_FILE_BYTES, MAX_TENSORS, check_amplification, check_tensor
from thetastore.layout import Tensor as PlacedTensor

VERSION = 1
OLDEST_VERSION = 0
"""The draft; it differs in nothing but the number. Git histories name manifests of it for ever."""
INLINE_CHUNKS = 512
PAGE_MIN_CHUNKS = 128
PAGE_MAX_CHUNKS = 2048
PAGE_MODULUS = 512
MAX_PAGES = 1 << 18
"""Enough for 80 TB, in a root of 11 MB. What a root claims is held in memory, and costs a forger nothing."""
MAX_SMALL_CHUNKS = 4 << 20
MEAN_CHUNK_BYTES = 4 << 10
"""Beyond so many chunks, whatever their length, they must have so many bytes each: spans and the gaps between them
can be short, but no format has a million of them. Else a list of 1-byte chunks would keep a reader busy for hours."""

_PAGED = 1
_STRIDED = 1
_ROOT = struct.Struct("<4sHHQ32sHBBII")
_CHUNK = struct.Struct("<I32s")
_PAGE_REF = struct.Struct("<QI32s")
_PAGE = struct.Struct("<4sHHI")
_TENSOR = struct.Struct("<HBBBQ32s")


class Tensor(NamedTuple):
    """A named tensor of a file: where it lies, and the digest of its bytes in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Byte offset in the file of the element at index (0, ..., 0)."""
    strides: tuple[int, ...] | None
    """Step of each axis in elements; None where the tensor is contiguous in C order."""
    digest: Digest
    """Empty, and in no manifest, where another file says that the tensor is there: `checkpoints.joining`."""

    @property
    def raw_bytes(self) -> int:
        """Bytes of the tensor in C order, however it lies in the file."""
        return self.placed().raw_bytes

    def placed(self) -> PlacedTensor:
        """Return the same without the digest."""
        return PlacedTensor(self.name, self.dtype, self.shape, self.offset, self.strides)


class Chunk(NamedTuple):
    """A piece of a file."""

    raw_bytes: int
    digest: Digest


class PageRef(NamedTuple):
    """A page of the chunk list."""

    raw_bytes: int
    """Bytes of the file that the page's chunks make up."""
    chunk_count: int
    digest: Digest


class Manifest(NamedTuple):
    """The root: everything of a file but, where they are in pages, its chunks."""

    format: str
    layout_version: int
    file_bytes: int
    file_digest: Digest
    tensors: tuple[Tensor, ...]
    """In the order of their names."""
    chunks: tuple[Chunk, ...]
    """In the order of the file; empty where `pages` is not."""
    pages: tuple[PageRef, ...] = ()
    version: int = VERSION
    """Of the manifest's own format. It is part of the bytes, and so of the digest."""

    @property
    def chunk_count(self) -> int:
        """Number of chunks of the file, in pages or not."""
        return len(self.chunks) or sum(page.chunk_count for page in self.pages)


def paginate(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Cut a chunk list into pages where its digests say so; a short list gives none."""
    if len(chunks) <= INLINE_CHUNKS:
        return
    start = 0
    for end, chunk in enumerate(chunks, 1):
        marked = int.from_bytes(chunk.digest[:2], "little") % PAGE_MODULUS == 0
        if (marked and end - start >= PAGE_MIN_CHUNKS) or end - start == PAGE_MAX_CHUNKS or end == len(chunks):
            yield chunks[start:end]
            start = end


def encode_page(chunks: Sequence[Chunk], version: int = VERSION) -> bytes:
    """Return the bytes of a page; its version is that of its root."""
    return _PAGE.pack(b"THMP", version, 0, len(chunks)) + b"".join(_CHUNK.pack(*chunk) for chunk in chunks)


def parse_page(raw: Buffer, ref: PageRef) -> tuple[Chunk, ...]:
    """Return the chunks of a page.

    Raises:
        MalformedError: the bytes are not a page, or not the one that `ref` describes.
        UnsupportedError: a newer version.
    """
    reader = _Reader(raw, "manifest page")
    magic, version, reserved, count = reader.unpack(_PAGE)
    _check_head(magic == b"THMP", version, 0, "manifest page")
    if reserved:
        raise MalformedError("a manifest page sets reserved bytes")
    chunks = _checked_chunks(reader.records(_CHUNK, count), ref.raw_bytes)
    reader.expect_end()
    if count != ref.chunk_count:
        raise MalformedError(f"a manifest page has {count} chunks, its root says {ref.chunk_count}")
    return chunks


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of the root."""
    name = manifest.format.encode("ascii")
    entries: Iterable[bytes] = (_PAGE_REF.pack(*page) for page in manifest.pages)
    if not manifest.pages:
        entries = (_CHUNK.pack(*chunk) for chunk in manifest.chunks)
    head = _ROOT.pack(
        b"THMR",
        manifest.version,
        _PAGED if manifest.pages else 0,
        manifest.file_bytes,
        manifest.file_digest,
        manifest.layout_version,
        len(name),
        0,
        len(manifest.tensors),
        len(manifest.pages or manifest.chunks),
    )
    return b"".join([head, name, *entries, *map(_encode_tensor, manifest.tensors)])


def parse_manifest(raw: Buffer) -> Manifest:
    """Return the manifest that a root's bytes describe; every rule of the format is checked.

    Raises:
        MalformedError: a rule is broken.
        UnsupportedError: a newer version.
    """
    reader = _Reader(raw, "manifest")
    magic, version, flags, file_bytes, file_digest, layout_version, name_bytes, reserved, tensor_count, entry_count = (
        reader.unpack(_ROOT)
    )
    _check_head(magic == b"THMR", version, flags & ~_PAGED, "manifest")
    if reserved:
        raise MalformedError("a manifest sets a reserved byte")
    if tensor_count > MAX_TENSORS or file_bytes > MAX_FILE_BYTES:
        raise MalformedError(f"a manifest of {tensor_count} tensors and {file_bytes} bytes is beyond the limits")
    format_name = reader.take(name_bytes).decode("ascii", "replace")
    if not re.fullmatch(r"[a-z0-9-]{1,32}", format_name):
        raise MalformedError(f"'{format_name}' is not the name of a format")
    chunks: tuple[Chunk, ...] = ()
    pages: tuple[PageRef, ...] = ()
    if flags & _PAGED:
        if entry_count > MAX_PAGES:
            raise MalformedError(f"a manifest has {entry_count} pages, the limit is {MAX_PAGES}")
        pages = _checked_pages(reader.records(_PAGE_REF, entry_count), file_bytes)
    else:
        if entry_count > INLINE_CHUNKS:
            raise MalformedError(f"a manifest lists {entry_count} chunks outside of pages, at most {INLINE_CHUNKS} may")
        chunks = _checked_chunks(reader.records(_CHUNK, entry_count), file_bytes)
    tensors = _checked_table([_parse_tensor(reader, file_bytes) for _ in range(tensor_count)], file_bytes)
    reader.expect_end()
    return Manifest(format_name, layout_version, file_bytes, Digest(file_digest), tensors, chunks, pages, version)


class _Reader:
    """Takes bytes from a buffer, and says so when there are not enough."""

    def __init__(self, raw: Buffer, what: str) -> None:
        self._raw = bytes(raw)
        self._what = what
        self._position = 0

    def take(self, nbytes: int) -> bytes:
        start, self._position = self._position, self._position + nbytes
        if self._position > len(self._raw):
            raise MalformedError(f"a {self._what} of {len(self._raw)} bytes is cut short: it needs {self._position}")
        return self._raw[start : self._position]

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self.take(form.size))

    def records(self, form: struct.Struct, count: int) -> Iterator[tuple[Any, ...]]:
        return form.iter_unpack(self.take(form.size * count))

    def expect_end(self) -> None:
        if self._position != len(self._raw):
            raise MalformedError(f"a {self._what} has {len(self._raw) - self._position} bytes too many")


def _check_head(is_magic: bool, version: int, unknown_flags: int, what: str) -> None:
    if not is_magic:
        raise MalformedError(f"this is not a {what}: other magic")
    if not OLDEST_VERSION <= version <= VERSION or unknown_flags:
        raise _newer(f"a {what} of version {version}" + (f" with flags {unknown_flags:#x}" if unknown_flags else ""))


def _newer(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what}: this thetastore reads version {VERSION}, and a newer one is needed (pip install --upgrade thetastore)"
    )


def _checked_chunks(records: Iterable[tuple[Any, ...]], raw_bytes: int) -> tuple[Chunk, ...]:
    chunks = tuple(Chunk(length, Digest(digest)) for length, digest in records)
    if any(not 0 < chunk.raw_bytes <= MAX_CHUNK_BYTES for chunk in chunks):
        raise MalformedError(f"a chunk is empty or longer than {MAX_CHUNK_BYTES} bytes")
    total = sum(chunk.raw_bytes for chunk in chunks)
    if total != raw_bytes:
        raise MalformedError(f"the chunks have {total} bytes together, expected {raw_bytes}")
    return chunks


def _checked_pages(records: Iterable[tuple[Any, ...]], file_bytes: int) -> tuple[PageRef, ...]:
    pages = tuple(PageRef(covered, count, Digest(digest)) for covered, count, digest in records)
    if not pages or any(not 0 < page.chunk_count <= PAGE_MAX_CHUNKS for page in pages):
        raise MalformedError(f"a page has no chunks or more than {PAGE_MAX_CHUNKS}")
    total = sum(page.raw_bytes for page in pages)
    if total != file_bytes:
        raise MalformedError(f"the pages cover {total} bytes, the file has {file_bytes}")
    count = sum(page.chunk_count for page in pages)
    if count > MAX_SMALL_CHUNKS + file_bytes // MEAN_CHUNK_BYTES:
        raise MalformedError(f"the pages claim {count} chunks for {file_bytes} bytes: no file is cut so small")
    return pages


def _encode_tensor(tensor: Tensor) -> bytes:
    name, dtype = tensor.name.encode(), tensor.dtype.encode("ascii")
    axes = tensor.shape + (tensor.strides or ())
    flags = 0 if tensor.strides is None else _STRIDED
    head = _TENSOR.pack(len(name), len(dtype), len(tensor.shape), flags, tensor.offset, tensor.digest)
    return head + struct.pack(f"<{len(axes)}Q", *axes) + dtype + name


def _parse_tensor(reader: _Reader, file_bytes: int) -> Tensor:
    name_bytes, dtype_bytes, dimensions, flags, offset, digest = reader.unpack(_TENSOR)
    if flags & ~_STRIDED:
        raise _newer(f"a tensor with flags {flags:#x}")
    if dimensions > MAX_DIMENSIONS:
        raise MalformedError(f"a tensor of {dimensions} dimensions is beyond the limit of {MAX_DIMENSIONS}")
    axes_form = struct.Struct(f"<{dimensions}Q")
    shape = reader.unpack(axes_form)
    strides = reader.unpack(axes_form) if flags & _STRIDED else None
    dtype = reader.take(dtype_bytes).decode("ascii", "replace")
    if dtype not in DTYPES and re.fullmatch(r"[a-z0-9_]{1,32}", dtype):
        raise _newer(f"a tensor of the element type '{dtype}'")
    try:
        name = reader.take(name_bytes).decode()
        check_tensor(PlacedTensor(name, dtype, shape, offset, strides), file_bytes)
    except (UnicodeDecodeError, NotThisFormat) as error:
        raise MalformedError(f"a tensor of a manifest is not valid: {error}") from None
    return Tensor(name, dtype, shape, offset, strides, Digest(digest))


def _checked_table(tensors: list[Tensor], file_bytes: int) -> tuple[Tensor, ...]:
    for before, after in itertools.pairwise(tensors):
        if before.name >= after.name:
            raise MalformedError(f"tensors are out of order: '{after.name}' after '{before.name}'")
    try:
        check_amplification((tensor.placed() for tensor in tensors), file_bytes)
    except NotThisFormat as error:
        raise MalformedError(f"the tensors of a manifest are a trap: {error}") from None
    return tuple(tensors)
