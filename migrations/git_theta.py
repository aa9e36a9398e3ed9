"""What Git-Theta keeps: JSON in git that names, for each tensor, an object of Git LFS; and how to make tensors of it.

Git-Theta keeps tensors, not files, so what comes of a version is a safetensors file with its tensors, under a name
that says so. An object is MessagePack of one or several arrays in Zarr's version 2, and is the tensor itself or what
changes the tensor of an earlier commit: sparse, of low rank, or a vector that scales it. These are applied as
Git-Theta applies them, by numpy; a product of matrices may come out in other last bits on another machine, there
as here.

Source: Git-Theta 0.2.0, `metadata.py`, `params.py`, `updates/`; MessagePack and Zarr v2 by their specifications.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gitbridge.errors import GitError, RevisionError
from gitbridge.repository import Repository
from migrations import lfs, msgpack
from migrations.conversions import OURS, Change, attributes_line
from thetastore.checkpoints.compose import NewTensor, SafetensorsSource, safetensors_source
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np

UNFILTERED = ("filter.theta.process=", "filter.theta.clean=", "filter.theta.required=false")
"""Both tools call their filter `theta`: ours must not look at the files of theirs."""
MAX_METADATA_BYTES = 64 << 20
_MARK = b'"lfs_metadata"'
_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".h5", ".keras", ".msgpack", ".npz", ".pkl", ".tf")
_LEFT = "git-theta"
"""What files that are left to Git-Theta get for a filter: none that anybody has."""
_SAFETENSORS = ".safetensors"
_MOST_UPDATES = 10_000
_ARRAY_KEY = ".zarray"
_MOST_CHUNK_BYTES = (1 << 31) - 1
"""What Blosc can hold."""


class Parameter(NamedTuple):
    """A tensor of a version."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    """`dense`, or how it changes the tensor that it follows."""
    pointer: lfs.LfsPointer
    previous_commit: str

    @property
    def nbytes(self) -> int:
        """Length of the tensor."""
        return math.prod(self.shape) * DTYPES[self.dtype].bits // 8


class Described(NamedTuple):
    """What a version needs."""

    nbytes: int
    missing: list[str]
    """What of it is not here, in words."""


def may_be_metadata(head: bytes) -> bool:
    """Tell whether a blob may be a version's description, by its first bytes."""
    return head.startswith(b"{") and _MARK in head


def describe(repository: Repository, path: str, oid: str) -> Described | None:
    """Return what a version needs; None for a blob that is something else."""
    parameters = _parameters(repository.read_object(oid))
    if parameters is None:
        return None
    missing = []
    for parameter in parameters:
        try:
            chain = _chain(repository, path, parameter)
        except RevisionError as error:
            missing.append(f"tensor '{parameter.name}': {error}")
            continue
        lost = [one.pointer for one in chain if not lfs.has_object(repository, one.pointer)]
        missing += [f"tensor '{parameter.name}': Git LFS object {one.oid}, {one.nbytes} bytes" for one in lost]
    return Described(sum(parameter.nbytes for parameter in parameters), missing)


def stored_bytes(repository: Repository, oids: Sequence[str]) -> int:
    """Return the length of all objects that some versions name."""
    pointers = {one.pointer for oid in oids for one in _parameters(repository.read_object(oid)) or ()}
    return sum(pointer.nbytes for pointer in pointers)


def source(repository: Repository, path: str, oid: str) -> SafetensorsSource:
    """Return a version as a safetensors file. One tensor is in memory at a time.

    Raises:
        MalformedError: an object does not hold what its description says.
        UnsupportedError: safetensors has no such element type, or numcodecs is not installed.
    """
    parameters = _parameters(repository.read_object(oid)) or []
    tensors = [NewTensor(one.name, one.dtype, one.shape, partial(_pieces, repository, path, one)) for one in parameters]
    return safetensors_source(tensors)


def new_path(path: str) -> str:
    """Return the name of the safetensors file that takes the place of a path."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() == _SAFETENSORS:
        return path
    return (stem if suffix.lower() in _SUFFIXES else path) + _SAFETENSORS


def new_name(name: bytes) -> bytes:
    """Return the same for one part of a path, as bytes."""
    return os.fsencode(new_path(os.fsdecode(name)))


class GitThetaChange(Change):
    """Lines that name a file follow it to its new name; both tools call their filter `theta`."""

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        super().__init__(OURS, OURS)
        self.top_lines = [attributes_line(pattern, (f"filter={_LEFT}", "-text")) for pattern in exclude]

    def wants(self, old_filter: str | None, new_filter: str | None) -> bool:
        """See `Conversion.wants`; a file with a new name has no filter under its old one."""
        return old_filter == OURS and new_filter != _LEFT

    def renamed(self, pattern: str) -> str:
        """See `Change.renamed`."""
        suffix = os.path.splitext(pattern)[1].lower()
        is_many = "*" in pattern or "?" in pattern
        return pattern if is_many and suffix not in _SUFFIXES else new_path(pattern)


def make_room(repository: Repository) -> list[str]:
    """Take Git-Theta's lines out of hooks, which would call our `git theta` for its own; return which hooks."""
    directory = repository.git("rev-parse", "--git-path", "hooks").decode("utf-8", "surrogateescape").strip()
    found = []
    for name in ("post-commit", "pre-push"):
        path = os.path.join(repository.work_tree or repository.git_dir, directory, name)
        try:
            with open(path, "rb") as stream:
                lines = stream.read().splitlines(keepends=True)
        except OSError:
            continue
        kept = [line for line in lines if line.strip() != b'git theta %b "$@"' % name.encode()]
        if kept == lines:
            continue
        found.append(name)
        if all(not line.strip() or line.startswith(b"#") for line in kept):
            os.unlink(path)
        else:
            with open(path, "wb") as stream:
                stream.write(b"".join(kept))
    return found


def _parameters(text: bytes) -> list[Parameter] | None:
    """Read a description; None where it is none."""
    if len(text) > MAX_METADATA_BYTES:
        return None
    try:
        tree = json.loads(text)
        return [_parameter(name, leaf) for name, leaf in _leaves(tree, ())]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, inner in tree.items():
        if "lfs_metadata" in inner:
            yield ".".join((*above, name)), inner
        else:
            yield from _leaves(inner, (*above, name))


def _parameter(name: str, leaf: Mapping[str, Any]) -> Parameter:
    described, stored, how = leaf["tensor_metadata"], leaf["lfs_metadata"], leaf["theta_metadata"]
    dtype = str(described["dtype"])
    if dtype not in DTYPES or not re.fullmatch(r"\((\d{1,18}(, ?\d{1,18})*,?)?\)", described["shape"]):
        raise ValueError(name)
    shape = tuple(int(number) for number in re.findall(r"\d+", described["shape"]))
    oid = str(stored["oid"])
    if not re.fullmatch("[0-9a-f]{64}", oid):
        raise ValueError(oid)
    pointer = lfs.LfsPointer(oid, int(stored["size"]))
    return Parameter(name, dtype, shape, str(how["update_type"]), pointer, str(how["last_commit"] or ""))


def _chain(repository: Repository, path: str, parameter: Parameter) -> list[Parameter]:
    """Return a tensor and those that it follows, the last of them whole.

    Raises:
        RevisionError: one of them is not in the history.
    """
    chain = [parameter]
    while chain[-1].kind != "dense":
        chain.append(_previous(repository, path, chain[-1]))
        if len(chain) > _MOST_UPDATES:
            raise RevisionError(f"more than {_MOST_UPDATES} updates follow each other")
    return chain


def _previous(repository: Repository, path: str, parameter: Parameter) -> Parameter:
    commit = parameter.previous_commit
    if not re.fullmatch("[0-9a-f]{40}([0-9a-f]{24})?", commit):
        raise RevisionError("what it is an update of is not said")
    try:
        found = repository.cat_file().read(f"{commit}:{path}")
    except (RevisionError, GitError):
        raise RevisionError(f"it is an update of '{path}' in commit {commit}, which is not here") from None
    for one in _parameters(found.content) or ():
        if one.name == parameter.name:
            return one
    raise RevisionError(f"it is an update of '{path}' in commit {commit}, which has no such tensor")


def _pieces(repository: Repository, path: str, parameter: Parameter) -> Iterator[memoryview]:
    import numpy as np

    array = _value(repository, path, parameter)
    if array.dtype.name != parameter.dtype or array.shape != parameter.shape:
        raise MalformedError(
            f"tensor '{parameter.name}' of '{path}' is {array.dtype.name} {array.shape}, "
            f"expected {parameter.dtype} {parameter.shape}"
        )
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    yield flat.view(np.uint8).data


def _value(repository: Repository, path: str, parameter: Parameter) -> np.ndarray[Any, Any]:
    """Return a tensor: the whole one at the end of its chain, and the updates on top of it."""
    chain = _chain(repository, path, parameter)
    value = _read(repository, chain[-1])["parameter"]
    for one in reversed(chain[:-1]):
        value = _updated(one, _read(repository, one), value)
    return value


def _updated(one: Parameter, update: dict[str, Any], previous: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        if one.kind == "sparse":
            shape = tuple(int(length) for length in update["shape"])
            if shape != previous.shape:
                raise MalformedError(f"the update of tensor '{one.name}' is of shape {shape}, not {previous.shape}")
            added = np.zeros(previous.size, update["data"].dtype)
            np.add.at(added, update["indices"], update["data"])
            return np.asarray(added.reshape(shape) + previous)
        if one.kind == "low-rank":
            return np.asarray((update["R"] @ update["C"] if "R" in update else update["parameter"]) + previous)
        if one.kind == "ia3":
            return np.asarray(previous * update["ia3"])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise MalformedError(f"the update of tensor '{one.name}' does not fit it: {error}") from None
    raise UnsupportedError(f"tensor '{one.name}' is an update of the kind '{one.kind}', which only its plug-in knows")


def _read(repository: Repository, one: Parameter) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of an object by name."""
    raw = bytearray(one.pointer.nbytes)
    with lfs.ObjectStream(repository, one.pointer) as stream:
        filled = 0
        while count := stream.readinto(memoryview(raw)[filled:]):
            filled += count
        stream.readinto(memoryview(bytearray(1)))  # at the end the object is checked
    arrays = msgpack.unpack(raw)
    if not isinstance(arrays, dict):
        raise MalformedError(f"object {one.pointer.oid} is no map of arrays")
    return {str(name): _array(files, one.pointer.oid) for name, files in arrays.items()}


class _Described(NamedTuple):
    """An array of Zarr."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    compressor: Mapping[str, Any] | None
    separator: str

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize


def _array(files: object, oid: str) -> np.ndarray[Any, Any]:
    """Return an array from the files that Zarr would keep of it."""
    import numpy as np

    try:
        if not isinstance(files, dict):
            raise TypeError("no map")  # noqa: TRY301 - all that is wrong is told in one way
        described = _described(json.loads(bytes(files[_ARRAY_KEY])))
        array = np.zeros(described.shape, described.dtype)  # takes memory only where something is put
        for key, stored in files.items():
            if key != _ARRAY_KEY:
                _place(array, described, key, stored)
    except (KeyError, ValueError, TypeError, MemoryError) as error:
        raise MalformedError(f"object {oid} holds no array that Git-Theta writes: {error}") from None
    return array


def _described(values: Mapping[str, Any]) -> _Described:
    """Check what is said of an array, before anything is made of it.

    Raises:
        ValueError, TypeError, KeyError: it is not what Git-Theta writes.
    """
    import numpy as np

    shape, chunks = tuple(values["shape"]), tuple(values["chunks"])
    described = _Described(
        np.dtype(str(values["dtype"])),
        shape,
        chunks,
        values["compressor"],
        values.get("dimension_separator", "."),
    )
    if values["filters"] or values["fill_value"] or values["order"] != "C" or described.dtype.kind not in "biufc":
        raise ValueError("its elements lie in another way")
    if len(shape) != len(chunks) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"its shape is {values['shape']}")
    if not all(type(n) is int and n > 0 for n in chunks) or described.chunk_bytes > _MOST_CHUNK_BYTES:
        raise ValueError(f"its chunks are {values['chunks']}")
    return described


def _place(array: np.ndarray[Any, Any], described: _Described, key: str, stored: memoryview) -> None:
    """Put a chunk into its place; those at the edges are longer than what there is room for."""
    import numpy as np

    numbers = [int(number) for number in key.split(described.separator)] if described.shape else []
    starts = [number * size for number, size in zip(numbers, described.chunks, strict=True)]
    where = tuple(
        slice(start, min(start + size, end))
        for start, size, end in zip(starts, described.chunks, described.shape, strict=True)
    )
    chunk = np.frombuffer(_decoded(stored, described), described.dtype).reshape(described.chunks)
    array[where] = chunk[tuple(slice(0, max(part.stop - part.start, 0)) for part in where)]


def _decoded(stored: memoryview, described: _Described) -> bytes:
    if described.compressor is None:
        return bytes(stored)
    if described.compressor["id"] != "blosc":
        raise ValueError(f"it is compressed by '{described.compressor['id']}'")
    lengths = int.from_bytes(stored[4:8], "little"), int.from_bytes(stored[12:16], "little")
    if lengths != (described.chunk_bytes, len(stored)):  # Blosc itself believes them
        raise ValueError("a chunk has another length")
    try:
        from numcodecs import blosc  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise UnsupportedError("Git-Theta's objects are compressed by Blosc: pip install 'thetastore[zarr]'") from None
    try:
        return bytes(blosc.decompress(bytes(stored)))
    except RuntimeError as error:
        raise ValueError(str(error)) from None
