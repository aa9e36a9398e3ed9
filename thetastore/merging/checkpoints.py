"""The sides of a merge: the tensors of a file, wherever it is, read in parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.digest import Buffer, Digest, Kind, new_hasher
from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, SNIFF_BYTES, Format, HeaderFormat, NeedBytes, next_prefix_bytes
from thetastore.formats.registry import candidates
from thetastore.layout import Layout, Tensor
from thetastore.manifest import Manifest
from thetastore.merging import MergeError
from thetastore.merging.three_way import Content, Table
from thetastore.objects import Objects
from thetastore.open_file import OpenFile
from thetastore.store import Store
from thetastore.strided import iter_c_order

_BLOCK_BYTES = 1 << 20


class Segment(NamedTuple):
    """A piece of a file that can be read when it is needed."""

    offset: int
    raw_bytes: int
    read: Callable[[], Buffer]


class Checkpoint(Protocol):
    """One side."""

    label: str
    """For messages: a path, `ours`."""
    format: str
    """Of the file; empty where the tensors are in several files."""
    tensors: Mapping[str, Tensor]

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Return the bytes `[start, stop)` of a tensor's bytes in C order."""

    def table(self) -> Table:
        """Return what `three_way` compares. Files are hashed for it; what a store has is hashed already."""

    def segments(self) -> Iterator[Segment]:
        """Yield the pieces that make up the whole file, in order."""


class Nothing:
    """The side without any tensor: there is no common ancestor."""

    label = "nothing"
    format = ""
    tensors: Mapping[str, Tensor] = {}

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Never called: there are no names."""
        raise KeyError(name)

    def table(self) -> Table:
        """Return an empty table."""
        return {}

    def segments(self) -> Iterator[Segment]:
        """Yield nothing."""
        return iter(())


class StoredCheckpoint:
    """A file that is in a store."""

    def __init__(self, store: Store, digest: Digest, label: str) -> None:
        self.label = label
        self.manifest: Manifest = store.get_manifest(digest)
        self.digest = digest
        self.format = self.manifest.format
        self.tensors: Mapping[str, Tensor] = {tensor.name: tensor.placed() for tensor in self.manifest.tensors}
        self._objects: Objects = store.objects
        self._reader = store.tensors(self.manifest, digest)
        self._table = {
            tensor.name: Content(tensor.digest, tensor.dtype, tensor.shape) for tensor in self.manifest.tensors
        }

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Return proven bytes; see `Checkpoint.read`."""
        if (start, stop) == (0, self.tensors[name].raw_bytes):
            return self._reader.read(name)
        return self._reader.read_range(name, start, stop)

    def table(self) -> Table:
        """Return the manifest's digests."""
        return self._table

    def segments(self) -> Iterator[Segment]:
        """Yield the file's chunks."""
        for offset, chunk in iter_chunks(self._objects, self.manifest):
            yield Segment(offset, chunk.raw_bytes, lambda chunk=chunk: self._objects.get(Kind.CHUNK, chunk.digest))  # type: ignore[misc]


class FileCheckpoint:
    """A file on disk. Owns its descriptor until `close`."""

    def __init__(self, path: str, label: str = "") -> None:
        """Open and locate; the label is the path if none is given.

        Raises:
            OSError: it cannot be read.
            MergeError: no format knows it.
        """
        self.label = label or path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._file = OpenFile(self._descriptor, os.fstat(self._descriptor).st_size)
        layout = located(self._file)
        if layout is None:
            self.close()
            raise MergeError(f"'{self.label}' is not a checkpoint of a format that is known here")
        self.format = layout.format
        self.tensors: Mapping[str, Tensor] = {tensor.name: tensor for tensor in layout.tensors}
        self._table: Table | None = None

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Return bytes as they are in the file now; see `Checkpoint.read`."""
        tensor = self.tensors[name]
        if tensor.strides is not None:
            return b"".join(iter_c_order(self._file, tensor))[start:stop]
        raw = self._file.read_at(tensor.offset + start, stop - start)
        if len(raw) != stop - start:
            raise MergeError(f"'{self.label}' became shorter while it was read")
        return raw

    def table(self) -> Table:
        """Hash every tensor, once."""
        if self._table is None:
            tensors = self.tensors.items()
            self._table = {name: Content(self._digest(one), one.dtype, one.shape) for name, one in tensors}
        return self._table

    def segments(self) -> Iterator[Segment]:
        """Yield blocks of the file."""
        for at in range(0, self._file.size, _BLOCK_BYTES):
            count = min(_BLOCK_BYTES, self._file.size - at)
            yield Segment(at, count, lambda at=at, count=count: self._file.read_at(at, count))  # type: ignore[misc]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _digest(self, tensor: Tensor) -> Digest:
        hasher = new_hasher()
        for block in iter_c_order(self._file, tensor):
            hasher.update(block)
        return Digest(hasher.digest())


class ShardedCheckpoint:
    """The safetensors files of one directory as one side."""

    format = ""

    def __init__(self, directory: str, label: str = "") -> None:
        """Open every `*.safetensors` of a directory.

        Raises:
            OSError: the directory or a file cannot be read.
            MergeError: there is none, or a tensor is in two files.
        """
        self.label = label or directory
        names = sorted(name for name in os.listdir(directory) if name.endswith(".safetensors"))
        if not names:
            raise MergeError(f"there is no *.safetensors in '{self.label}'")
        self._shards: dict[str, FileCheckpoint] = {}
        self._files: list[FileCheckpoint] = []
        for name in names:
            shard = FileCheckpoint(os.path.join(directory, name))
            self._files.append(shard)
            for tensor in shard.tensors:
                if tensor in self._shards:
                    raise MergeError(f"'{tensor}' is in '{self._shards[tensor].label}' and in '{shard.label}'")
                self._shards[tensor] = shard
        self.tensors: Mapping[str, Tensor] = {name: shard.tensors[name] for name, shard in self._shards.items()}

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """See `Checkpoint.read`."""
        return self._shards[name].read(name, start, stop)

    def table(self) -> Table:
        """Hash every tensor of every file."""
        return {name: content for shard in self._files for name, content in shard.table().items()}

    def segments(self) -> Iterator[Segment]:
        """Fail: this is not one file."""
        raise MergeError(f"'{self.label}' is not one file")

    def close(self) -> None:
        """Close the files."""
        for shard in self._files:
            shard.close()


def open_path(path: str, label: str = "") -> FileCheckpoint | ShardedCheckpoint:
    """Open a file, or a directory of safetensors files."""
    return ShardedCheckpoint(path, label) if os.path.isdir(path) else FileCheckpoint(path, label)


def located(file: OpenFile) -> Layout | None:
    """Return where the tensors of an open file lie; None if no format knows it."""
    for candidate in candidates(file.read_at(0, SNIFF_BYTES)):
        try:
            layout = _scan(candidate, file)
        except NotThisFormat:
            continue
        if layout.file_bytes == file.size:
            return layout
    return None


def _scan(candidate: Format, file: OpenFile) -> Layout:
    if not isinstance(candidate, HeaderFormat):
        return candidate.scan(file)
    wanted_bytes = SNIFF_BYTES
    while True:
        prefix = file.read_at(0, wanted_bytes)
        try:
            return candidate.scan_header(prefix)
        except NeedBytes as need:
            if not len(prefix) < need.nbytes <= min(file.size, MAX_HEADER_BYTES):
                raise NotThisFormat(f"its header would need {need.nbytes} bytes") from None
            wanted_bytes = next_prefix_bytes(len(prefix), need.nbytes)


def row_bytes(tensor: Tensor) -> int | None:
    """Return the bytes of one index of the first axis; None where these are not whole bytes or blocks."""
    if not tensor.shape or not tensor.shape[0] or DTYPES[tensor.dtype].bits % 8:
        return None
    return raw_bytes_of(tensor.dtype, 1) * (tensor.raw_bytes // raw_bytes_of(tensor.dtype, 1) // tensor.shape[0])
