"""The groups of an HDF5 file: which name leads to which object.

Groups are kept in two ways: as symbol tables (a B-tree of names in a heap), which is what h5py writes unless it is told
otherwise, and as link messages in the group's own header, or in a heap where there are many.

Source: HDF5 File Format Specification 3.0, sections III.A.1 (B-trees), III.B (symbol tables), III.D (local heap),
IV.A.2.g (link message).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from thetastore.errors import NotThisFormat
from thetastore.formats.hdf5_heap import dense_links
from thetastore.formats.hdf5_objects import LINK, LINK_INFO, SYMBOL_TABLE, UNDEFINED, Hdf5File, Message
from thetastore.layout import MAX_NAME_BYTES

MAX_TREE_DEPTH = 16

_PLACES = struct.Struct("<QQ")
_HEAP = struct.Struct("<4sB3xQQQ")
_NODE = struct.Struct("<4sBBHQQ")
_SYMBOLS = struct.Struct("<4sBxH")
_SYMBOL = struct.Struct("<QQI4x16x")
_KEY_BYTES = 8
_SOFT_LINK = 2


def links_of(file: Hdf5File, messages: list[Message]) -> Iterator[tuple[str, int]]:
    """Yield the name and the object header's address of each hard link in a group; soft ones lead nowhere."""
    for message in messages:
        if message.type == SYMBOL_TABLE:
            yield from _symbol_table(file, message)
        elif message.type == LINK:
            yield from _link(message.raw)
        elif message.type == LINK_INFO:
            yield from _dense(file, message.raw)


def is_group(messages: list[Message]) -> bool:
    """Tell whether an object is a group that can be read."""
    return any(message.type in (SYMBOL_TABLE, LINK, LINK_INFO) for message in messages)


def _symbol_table(file: Hdf5File, message: Message) -> Iterator[tuple[str, int]]:
    if len(message.raw) < _PLACES.size:
        raise NotThisFormat("a symbol table that does not say where")
    tree, heap = _PLACES.unpack_from(message.raw)
    magic, version, heap_bytes, _, names_at = _HEAP.unpack(file.read(heap, _HEAP.size))
    if magic != b"HEAP" or version:
        raise NotThisFormat(f"no heap of names at {heap}")
    names = file.read(names_at, heap_bytes)
    for node in _leaves(file, tree):
        magic, version, count = _SYMBOLS.unpack(file.read(node, _SYMBOLS.size))
        if magic != b"SNOD" or version != 1:
            raise NotThisFormat(f"no node of a symbol table at {node}")
        symbols = file.read(node + _SYMBOLS.size, count * _SYMBOL.size)
        for name_at, address, cache in _SYMBOL.iter_unpack(symbols):
            if cache != _SOFT_LINK and address != UNDEFINED:
                yield _terminated(names, name_at), address


def _terminated(names: bytes, at: int) -> str:
    end = names.find(b"\0", at, at + MAX_NAME_BYTES)
    if end < 0:
        raise NotThisFormat("a name that does not end")
    return _decoded(names[at:end])


def _decoded(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise NotThisFormat("a name that is not valid UTF-8") from None


def _leaves(file: Hdf5File, address: int, depth: int = 0) -> Iterator[int]:
    """Yield the addresses of the symbol table nodes below a node of a B-tree."""
    magic, kind, level, count, _, _ = _NODE.unpack(file.read(address, _NODE.size))
    if magic != b"TREE" or kind or depth > MAX_TREE_DEPTH:
        raise NotThisFormat(f"no node of a group's B-tree at {address}")
    raw = file.read(address + _NODE.size, count * 2 * _KEY_BYTES)
    for at in range(_KEY_BYTES, len(raw), 2 * _KEY_BYTES):
        child = int.from_bytes(raw[at : at + 8], "little")
        if level:
            yield from _leaves(file, child, depth + 1)
        else:
            yield child


def _dense(file: Hdf5File, raw: bytes) -> Iterator[tuple[str, int]]:
    """Yield the links that a group keeps in a heap, if it does."""
    at = 2 + (8 if raw[1:2] and raw[1] & 0x01 else 0)
    if len(raw) < at + _PLACES.size or raw[0]:
        raise NotThisFormat("a group whose links are somewhere else")
    heap, tree = _PLACES.unpack_from(raw, at)
    if heap != UNDEFINED:
        for link in dense_links(file, heap, tree):
            yield from _link(link)


def _link(raw: bytes) -> Iterator[tuple[str, int]]:
    """Yield the link of a message, if it is a hard one."""
    if len(raw) < 2 or raw[0] != 1:
        raise NotThisFormat("a link of another version")
    flags, at = raw[1], 2
    kind = 0
    if flags & 0x08:
        kind, at = raw[at] if at < len(raw) else 0, at + 1
    at += (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    name_bytes = int.from_bytes(raw[at : at + width], "little")
    at += width
    if at + name_bytes > len(raw) or name_bytes > MAX_NAME_BYTES:
        raise NotThisFormat("the name of a link is longer than its message")
    if kind == 0:
        address = raw[at + name_bytes : at + name_bytes + 8]
        if len(address) < 8:
            raise NotThisFormat("a link without an address")
        yield _decoded(raw[at : at + name_bytes]), int.from_bytes(address, "little")
