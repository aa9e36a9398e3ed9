"""Where the tensors of a comparison are read from: a store, or a file that is in none."""

from __future__ import annotations

import _thread
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.checkpoints.tensors import TensorReader
from thetastore.digest import Digest, new_hasher
from thetastore.errors import MalformedError, NoSuchTensorError, NotThisFormat
from thetastore.formats import MAX_HEADER_BYTES, SNIFF_BYTES, Format, HeaderFormat, NeedBytes, next_prefix_bytes
from thetastore.formats.registry import candidates
from thetastore.formats.safetensors import Safetensors, metadata_texts
from thetastore.layout import Layout, Tensor
from thetastore.manifest import Tensor as NamedTensor
from thetastore.objects import Objects
from thetastore.open_file import OpenFile
from thetastore.pool import Pool
from thetastore.selection import Ranges
from thetastore.strided import iter_c_order

OPAQUE = "opaque"
"""The format of a file of which nothing is known."""

_BLOCK_BYTES = 1 << 20


class Part(NamedTuple):
    """Bytes of a tensor in C order that are stored together. Equal parts with a digest hold equal bytes."""

    start: int
    stop: int
    digest: Digest | None
    """Of the chunk that they lie in; None where nothing is known of them."""
    offset: int
    """Where they begin in that chunk."""


class Side(Protocol):
    """One of two files that are compared. `read` may be called by several threads."""

    def parts(self, name: str) -> Sequence[Part]:
        """Return what a tensor is stored as, in order and without gaps."""

    def read(self, name: str, start: int, stop: int, out: memoryview) -> None:
        """Put the bytes `[start, stop)` of a tensor, in C order, into `out`."""

    def skeleton(self) -> Hashable:
        """Return a value that differs where the bytes outside of tensors do; of two kinds of sides, always."""

    def texts(self) -> Mapping[str, str]:
        """Return the `__metadata__` of a safetensors file; of others nothing."""

    def has(self, name: str, dtype: str, shape: tuple[int, ...], digest: Digest) -> bool:
        """Tell whether the file has this very tensor."""


class JoinedSide:
    """Several files as one model: each tensor is read from the file that has it."""

    def __init__(self, sides: Mapping[str, Side]) -> None:
        """Join what has each tensor, by its name."""
        self._sides = sides

    def parts(self, name: str) -> Sequence[Part]:
        """Ask the file that has the tensor."""
        return self._sides[name].parts(name)

    def read(self, name: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the file that has the tensor."""
        self._sides[name].read(name, start, stop, out)

    def skeleton(self) -> Hashable:
        """Return what the files have outside of tensors."""
        return frozenset(side.skeleton() for side in {id(side): side for side in self._sides.values()}.values())

    def texts(self) -> Mapping[str, str]:
        """Return what the files have, each text once; of a name with two texts, one."""
        return {name: text for side in self._sides.values() for name, text in side.texts().items()}

    def has(self, name: str, dtype: str, shape: tuple[int, ...], digest: Digest) -> bool:
        """Ask the file that has a tensor of this name."""
        return name in self._sides and self._sides[name].has(name, dtype, shape, digest)


class StoredSide:
    """A file in a store."""

    def __init__(self, objects: Objects, reader: TensorReader) -> None:
        self._objects = objects
        self._reader = reader

    def has(self, name: str, dtype: str, shape: tuple[int, ...], digest: Digest) -> bool:
        """Tell whether the file has this very tensor."""
        try:
            tensor = self._reader.tensor(name)
        except NoSuchTensorError:
            return False
        # Of a tensor that another file names, the manifest does not know the digest.
        return (tensor.dtype, tensor.shape) == (dtype, shape) and (not tensor.digest or tensor.digest == digest)

    def skeleton(self) -> Hashable:
        """Return the digests of the chunks that hold nothing of a tensor."""
        tensors = Ranges(self._reader.manifest.tensors, lambda _: True)
        return tuple(
            placed.chunk.digest
            for placed in iter_chunks(self._objects, self._reader.manifest)
            if not tensors.overlap(placed.offset, placed.offset + placed.chunk.raw_bytes)
        )

    def texts(self) -> Mapping[str, str]:
        """Read the header, where there is one."""
        if self._reader.manifest.format != Safetensors.name:
            return {}
        try:
            return metadata_texts(self._reader.read_file)
        except (NotThisFormat, ValueError, AttributeError, IndexError, RecursionError) as error:
            raise MalformedError(
                f"manifest '{self._reader.manifest_digest}' speaks of a safetensors file, and is wrong"
            ) from error

    def parts(self, name: str) -> Sequence[Part]:
        """Return the chunks of a tensor; one part without a digest where it does not lie in C order, or in pieces."""
        tensor = self._reader.tensor(name)
        if tensor.strides is not None:
            return (Part(0, tensor.raw_bytes, None, 0),)
        found = []
        for placed in self._reader.chunks(name):
            start = max(placed.offset - tensor.offset, 0)
            stop = min(placed.offset + placed.chunk.raw_bytes - tensor.offset, tensor.raw_bytes)
            found.append(Part(start, stop, placed.chunk.digest, start + tensor.offset - placed.offset))
        return found or (Part(0, tensor.raw_bytes, None, 0),)

    def read(self, name: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the chunks that are needed; each is checked against its digest."""
        self._reader.read_range(name, start, stop, out)


class FileSide:
    """A file outside of any store. The file must not change meanwhile. A context manager."""

    def __init__(self, path: str) -> None:
        """Find out what is in a file; nothing but its directory is read.

        Raises:
            OSError: it cannot be read.
        """
        self._descriptor = os.open(path, os.O_RDONLY)
        self.file = OpenFile(self._descriptor, os.fstat(self._descriptor).st_size)
        self.layout = _layout(self.file)
        self._tensors = {tensor.name: tensor for tensor in self.layout.tensors}
        self._lock = _thread.allocate_lock()
        self._gathered = "", b""
        """The strided tensor that was last read, and its bytes: it is asked for range by range."""

    def __enter__(self) -> FileSide:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def named_tensors(self) -> list[NamedTensor]:
        """Return the tensors with their digests: all of them are read."""
        places = list(dict.fromkeys(tensor[1:] for tensor in self.layout.tensors))
        pool = Pool()
        try:
            hashed = pool.map_bounded(lambda place: self._digest(Tensor("", *place)), places, lambda _: False)
            digests = dict(zip(places, hashed, strict=True))
        finally:
            pool.close()
        return [NamedTensor(*tensor, digests[tensor[1:]]) for tensor in self.layout.tensors]

    def skeleton(self) -> Hashable:
        """Return the digest of all bytes that are in no tensor."""
        tensors = Ranges((NamedTensor(*tensor, Digest()) for tensor in self.layout.tensors), lambda _: True)
        hasher, offset = new_hasher(), 0
        for start, stop in [*tensors.places(), (self.file.size, self.file.size)]:
            for at in range(offset, start, _BLOCK_BYTES):
                hasher.update(self.file.read_at(at, min(_BLOCK_BYTES, start - at)))
            offset = stop
        return hasher.digest()

    def texts(self) -> Mapping[str, str]:
        """Read the header, where there is one."""
        if self.layout.format != Safetensors.name:
            return {}
        return metadata_texts(lambda start, stop: self.file.read_at(start, stop - start))

    def has(self, name: str, dtype: str, shape: tuple[int, ...], digest: Digest) -> bool:
        """Tell whether there is such a tensor; its bytes are not read again."""
        tensor = self._tensors.get(name)
        return tensor is not None and (tensor.dtype, tensor.shape) == (dtype, shape)

    def file_digest(self) -> Digest:
        """Return the digest of the whole file."""
        hasher = new_hasher()
        for block in _blocks(self.file):
            hasher.update(block)
        return Digest(hasher.digest())

    def _digest(self, tensor: Tensor) -> Digest:
        hasher = new_hasher()
        for block in iter_c_order(self.file, tensor):
            hasher.update(block)
        return Digest(hasher.digest())

    def parts(self, name: str) -> Sequence[Part]:
        """Return one part of which nothing is known."""
        return (Part(0, self._tensors[name].raw_bytes, None, 0),)

    def read(self, name: str, start: int, stop: int, out: memoryview) -> None:
        """Read from the file."""
        tensor = self._tensors[name]
        if tensor.strides is None:
            done = os.preadv(self._descriptor, [out], tensor.offset + start)
            while done < stop - start:  # a read of more than 2 GiB, or of a file that was cut, stops early
                got = os.preadv(self._descriptor, [out[done:]], tensor.offset + start + done)
                if not got:
                    raise OSError(f"the file was cut short while it was read, within tensor '{name}'")
                done += got
            return
        with self._lock:
            if self._gathered[0] != name:
                self._gathered = name, b"".join(iter_c_order(self.file, tensor))
            out[:] = memoryview(self._gathered[1])[start:stop]


def _blocks(file: OpenFile) -> Iterator[bytes]:
    for offset in range(0, file.size, _BLOCK_BYTES):
        yield file.read_at(offset, _BLOCK_BYTES)


def _layout(file: OpenFile) -> Layout:
    """Return where the tensors of a file lie; opaque where no format knows it."""
    for candidate in candidates(file.read_at(0, SNIFF_BYTES)):
        try:
            layout = _scanned(candidate, file)
        except NotThisFormat:
            continue
        if layout is not None and layout.file_bytes == file.size:
            return layout
    return Layout(OPAQUE, 0, file.size, (), ())


def _scanned(candidate: Format, file: OpenFile) -> Layout | None:
    if not isinstance(candidate, HeaderFormat):
        return candidate.scan(file)
    prefix = file.read_at(0, SNIFF_BYTES)
    while True:
        try:
            layout = candidate.scan_header(prefix)
            return layout if all(tensor.strides is None for tensor in layout.tensors) else None
        except NeedBytes as need:
            if not len(prefix) < need.nbytes <= min(MAX_HEADER_BYTES, file.size):
                return None
            prefix = file.read_at(0, next_prefix_bytes(len(prefix), need.nbytes))
