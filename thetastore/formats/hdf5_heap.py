"""Groups of many links in HDF5's newer way: link messages in a fractal heap, found by a B-tree of version 2.

Heaps of one block, or of one table of blocks, are read: half a megabyte of links, some 10,000 in one group.

Source: HDF5 File Format Specification 3.0, sections III.A.2 (version 2 B-trees), III.G (fractal heap); the widths of
numbers in inner nodes are those of H5B2hdr.c.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from thetastore.errors import NotThisFormat
from thetastore.formats.hdf5_objects import UNDEFINED, Hdf5File

MAX_TREE_DEPTH = 8
MAX_LINK_BYTES = 64 << 10

_TREE = struct.Struct("<4sBBIHHBBQHQ")
_HEAP = struct.Struct("<4sBHHBI96xHQQHHQH")
_LINK_NAMES = 5
_NODE_HEAD_BYTES = 6
_NODE_BYTES = 10
"""What a node of a tree takes beside its records: head and checksum."""
_HASH_BYTES = 4
_ADDRESS_BYTES = 8


class _Heap(NamedTuple):
    offset_bytes: int
    length_bytes: int
    width: int
    """Blocks in a row of the table."""
    first_bytes: int
    """Length of a block of the first two rows; those of each further row are twice as long."""
    most_bytes: int
    """Blocks longer than this are tables themselves."""
    root: int
    row_count: int
    """0 where the root is a block, not a table."""


def dense_links(file: Hdf5File, heap_at: int, tree_at: int) -> Iterator[bytes]:
    """Yield each link message of a group.

    Raises:
        NotThisFormat: they are not kept as HDF5 keeps links, or in more blocks than are read here.
    """
    heap = _read_heap(file, heap_at)
    for record in _records(file, tree_at):
        identity = record[_HASH_BYTES:]
        if len(identity) < 1 + heap.offset_bytes + heap.length_bytes or identity[0]:
            raise NotThisFormat("a link that does not lie in a heap as others do")
        offset = int.from_bytes(identity[1 : 1 + heap.offset_bytes], "little")
        nbytes = int.from_bytes(identity[1 + heap.offset_bytes :][: heap.length_bytes], "little")
        if nbytes > MAX_LINK_BYTES:
            raise NotThisFormat(f"a link of {nbytes} bytes")
        yield file.read(_place(file, heap, offset), nbytes)


def _read_heap(file: Hdf5File, address: int) -> _Heap:
    raw = file.read(address, _HEAP.size)
    magic, version, _, filter_bytes, _, most_object, width, first, most, bits, _, root, rows = _HEAP.unpack(raw)
    if magic != b"FRHP" or version or filter_bytes:
        raise NotThisFormat(f"no heap of links at {address}, or a compressed one")
    if not width or not first or first & (first - 1) or bits > 64 or root == UNDEFINED:
        raise NotThisFormat("a heap of links without blocks")
    length_bytes = _bytes_for(min(most_object, most))
    return _Heap((bits + 7) // 8, length_bytes, width, first, most, root, rows)


def _place(file: Hdf5File, heap: _Heap, offset: int) -> int:
    """Return where in the file a place of the heap lies."""
    if not heap.row_count:
        if offset >= heap.most_bytes:
            raise NotThisFormat("a link behind the block of its heap")
        return heap.root + offset
    row_bytes = heap.width * heap.first_bytes
    row = (offset // row_bytes).bit_length()
    block_bytes = heap.first_bytes << max(row - 1, 0)
    row_at = row_bytes << (row - 1) if row else 0
    if row >= heap.row_count or block_bytes > heap.most_bytes:
        raise NotThisFormat("a heap of links with tables of tables, or a link behind its end")
    column, within = divmod(offset - row_at, block_bytes)
    if file.read(heap.root, 4) != b"FHIB":
        raise NotThisFormat(f"no table of a heap at {heap.root}")
    entries_at = heap.root + 5 + _ADDRESS_BYTES + heap.offset_bytes
    entry = file.read(entries_at + (row * heap.width + column) * _ADDRESS_BYTES, _ADDRESS_BYTES)
    return int.from_bytes(entry, "little") + within


def _records(file: Hdf5File, address: int) -> Iterator[bytes]:
    """Yield the records of a B-tree, in its order."""
    head = _TREE.unpack(file.read(address, _TREE.size))
    magic, version, kind, node_bytes, record_bytes, depth, _, _, root, count, _ = head
    if magic != b"BTHD" or version or kind != _LINK_NAMES or depth > MAX_TREE_DEPTH:
        raise NotThisFormat(f"no tree of links at {address}")
    if record_bytes <= _HASH_BYTES or node_bytes < _NODE_BYTES + record_bytes:
        raise NotThisFormat("a tree whose nodes hold nothing")
    if root != UNDEFINED:
        yield from _node(file, root, count, depth, record_bytes, _pointer_widths(node_bytes, record_bytes, depth))


def _pointer_widths(node_bytes: int, record_bytes: int, depth: int) -> list[tuple[int, int]]:
    """Return, for nodes of each depth, how wide the two counts beside the address of a child are."""
    most = below = (node_bytes - _NODE_BYTES) // record_bytes
    count_bytes = _bytes_for(most)
    widths = [(0, 0)]
    total_bytes = 0
    for _ in range(depth):
        widths.append((count_bytes, total_bytes))
        pointer_bytes = _ADDRESS_BYTES + count_bytes + total_bytes
        most = max((node_bytes - _NODE_BYTES - pointer_bytes) // (record_bytes + pointer_bytes), 0)
        below = (most + 1) * below + most
        total_bytes = _bytes_for(below)
    return widths


def _node(
    file: Hdf5File, address: int, count: int, depth: int, record_bytes: int, widths: list[tuple[int, int]]
) -> Iterator[bytes]:
    head = file.read(address, _NODE_HEAD_BYTES)
    if head != (b"BTIN" if depth else b"BTLF") + bytes((0, _LINK_NAMES)):
        raise NotThisFormat(f"no node of a tree of links at {address}")
    raw = file.read(address + _NODE_HEAD_BYTES, count * record_bytes)
    records = [raw[at : at + record_bytes] for at in range(0, len(raw), record_bytes)]
    if not depth:
        yield from records
        return
    count_bytes, total_bytes = widths[depth]
    pointer_bytes = _ADDRESS_BYTES + count_bytes + total_bytes
    pointers = file.read(address + _NODE_HEAD_BYTES + len(raw), (count + 1) * pointer_bytes)
    for number in range(count + 1):
        pointer = pointers[number * pointer_bytes : (number + 1) * pointer_bytes]
        child = int.from_bytes(pointer[:_ADDRESS_BYTES], "little")
        child_count = int.from_bytes(pointer[_ADDRESS_BYTES : _ADDRESS_BYTES + count_bytes], "little")
        yield from _node(file, child, child_count, depth - 1, record_bytes, widths)
        yield from records[number : number + 1]


def _bytes_for(value: int) -> int:
    """Return how many bytes a number up to this one takes."""
    return (max(value, 1).bit_length() + 7) // 8
