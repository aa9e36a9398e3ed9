"""The datasets of an HDF5 file that are arrays of numbers in one piece, by their paths."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.hdf5_attributes import text_attribute
from thetastore.formats.hdf5_groups import is_group, links_of
from thetastore.formats.hdf5_objects import (
    DATASPACE,
    DATATYPE,
    EXTERNAL_FILES,
    FILTERS,
    LAYOUT,
    UNDEFINED,
    Hdf5File,
    Message,
)
from thetastore.formats.hdf5_types import dtype_of, opaque_bytes_of
from thetastore.formats.names import Names
from thetastore.layout import MAX_DIMENSIONS, MAX_TENSORS, Span, Tensor

MAX_DEPTH = 64
"""How deep groups may lie in each other."""
MAX_LINKS = 500_000

_GUESSES = {1: "uint8", 2: "bfloat16"}
"""How opaque elements are cut, by their width, as in npy files."""
_COMPACT, _CONTIGUOUS = 0, 1
_PLACE = struct.Struct("<QQ")


class Datasets(NamedTuple):
    """What was found in a file."""

    tensors: list[Tensor]
    spans: list[Span]


class _Dataset(NamedTuple):
    span: Span
    is_named: bool
    """Whether its dtype says what the elements mean, not only how wide they are."""


def read_datasets(file: RandomAccess) -> Datasets:
    """Return every dataset of plain numbers that is stored contiguously or in its header.

    Chunked, compressed, external and virtual datasets are left out, and so are strings, references, tables, and what
    was never written. A dataset with several names is one span; one whose elements have no known meaning is only that.

    Raises:
        NotThisFormat: no HDF5 file, or none that can be read safely.
    """
    hdf5 = Hdf5File(file)
    names = Names("/")
    tensors: list[Tensor] = []
    spans: dict[int, Span] = {}
    known: dict[int, _Dataset | None] = {}
    for path, address, messages in _objects(hdf5):
        if address not in known:
            known[address] = _dataset(hdf5, messages)
        dataset = known[address]
        if dataset is None:
            continue
        spans[address] = dataset.span
        if dataset.is_named:
            tensors.append(Tensor(names.claim(path), dataset.span.dtype, dataset.span.shape, dataset.span.offset))
        if len(tensors) > MAX_TENSORS:
            raise NotThisFormat(f"more than {MAX_TENSORS} datasets")
    return Datasets(tensors, list(spans.values()))


def _objects(file: Hdf5File) -> Iterator[tuple[list[str], int, list[Message]]]:
    """Yield path, address and messages of every object that is no group; a group is entered on its first path only."""
    root = file.root()
    entered = {root}
    waiting = [iter(links_of(file, file.messages(root)))]
    path: list[str] = [""]
    room = MAX_LINKS
    while waiting:
        link = next(waiting[-1], None)
        if link is None:
            waiting.pop()
            path.pop()
            continue
        room -= 1
        name, address = link
        path[-1] = name
        if room < 0 or len(waiting) > MAX_DEPTH:
            raise NotThisFormat(f"more than {MAX_LINKS} links, or {MAX_DEPTH} groups in each other")
        if address in entered:
            continue
        messages = file.messages(address)
        if is_group(messages):
            entered.add(address)
            waiting.append(iter(links_of(file, messages)))
            path.append("")
        else:
            yield path, address, messages


def _dataset(file: Hdf5File, messages: list[Message]) -> _Dataset | None:
    """Return a dataset that is an array of numbers in one piece; None for any other object."""
    by_type = {message.type: message for message in messages}
    if not by_type.keys() >= {DATASPACE, DATATYPE, LAYOUT} or by_type.keys() & {FILTERS, EXTERNAL_FILES}:
        return None
    if by_type[DATATYPE].is_shared or by_type[DATASPACE].is_shared:
        return None
    dtype, is_named = _dtype(file, by_type[DATATYPE].raw, messages)
    shape = _shape(by_type[DATASPACE].raw)
    if dtype is None or shape is None:
        return None
    raw_bytes = raw_bytes_of(dtype, math.prod(shape))
    offset = _offset(by_type[LAYOUT], raw_bytes) if raw_bytes else 0
    if offset is None:
        return None
    if offset + raw_bytes > file.size:
        raise NotThisFormat(f"a dataset of {raw_bytes} bytes at {offset} ends beyond the file")
    return _Dataset(Span(offset, raw_bytes, dtype, shape), is_named)


def _dtype(file: Hdf5File, datatype: bytes, messages: list[Message]) -> tuple[str | None, bool]:
    """Return the dtype, and whether it is more than a guess: h5py writes only the width of types of ml_dtypes."""
    dtype, width = dtype_of(datatype), opaque_bytes_of(datatype)
    if dtype is not None or width not in _GUESSES:
        return dtype, True
    said = text_attribute(file, messages, b"dtype")
    if said in DTYPES and DTYPES[said].kind == "float" and DTYPES[said].bits == 8 * width:
        return said, True
    return _GUESSES[width], False


def _shape(raw: bytes) -> tuple[int, ...] | None:
    """Read a dataspace; None for one without elements by design, or of a version that is not known."""
    if len(raw) < 4 or raw[0] not in (1, 2) or (raw[0] == 2 and raw[3] > 1):
        return None
    at, rank = (8 if raw[0] == 1 else 4), raw[1]
    if rank > MAX_DIMENSIONS or at + 8 * rank > len(raw):
        raise NotThisFormat(f"a dataspace of {rank} dimensions in {len(raw)} bytes")
    return struct.unpack_from(f"<{rank}Q", raw, at)


def _offset(layout: Message, raw_bytes: int) -> int | None:
    """Return where the elements lie, if they lie in one piece."""
    raw = layout.raw
    if len(raw) < 4 or raw[0] not in (3, 4):
        return None
    if raw[1] == _COMPACT and int.from_bytes(raw[2:4], "little") == raw_bytes <= len(raw) - 4:
        return layout.offset + 4
    if raw[1] == _CONTIGUOUS and len(raw) >= 2 + _PLACE.size:
        address, nbytes = _PLACE.unpack_from(raw, 2)
        return int(address) if address != UNDEFINED and nbytes == raw_bytes else None
    return None
