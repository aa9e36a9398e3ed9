"""The layout of what torch.save wrote before 1.6, and writes still if told so: pickles, then the storages' bytes.

    pickle    the magic number
    pickle    version of the protocol, 1001
    pickle    what the machine was like; the elements are little-endian on every one
    pickle    the state, with storages as persistent ids
    pickle    list of the keys of all storages
    ...       for each of them, in this order: element count (8 bytes, little-endian), elements

Source: torch/serialization.py (`_legacy_save`, `_legacy_load`), torch/csrc/serialization.cpp, as of torch 2.13.
"""

from __future__ import annotations

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.names import Names
from thetastore.formats.pickle_machine import MAX_PICKLE_BYTES, Mapping, Pickle, read_pickle_at
from thetastore.formats.torch_spans import Place, find_tensors
from thetastore.formats.torch_state import Storage, storages_of
from thetastore.layout import Layout, checked_layout

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""An integer of ten bytes, pickled, and the end of the pickle."""
_MAGIC_OFFSETS = (2, 11)
"""Before it stands the protocol, from protocol 4 on also the head of a frame."""
_PROTOCOL_VERSION = 1001
_PICKLE_COUNT = 5
_COUNT_BYTES = 8
_FIRST_READ_BYTES = 256 << 10
_GROWTH = 4


class TorchLegacy:
    """Files of torch.save that are no zip files."""

    name = "torch-legacy"
    version = 1

    def sniff(self, head: bytes) -> bool:
        """Tell whether a pickle of the magic number begins here."""
        return head[:1] == b"\x80" and any(head.startswith(MAGIC, offset) for offset in _MAGIC_OFFSETS)

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: 350 MB, for 64 MiB of hostile pickles."""
        pickles, at = _read_pickles(file)
        _, version, machine, state, keys = pickles
        if version.root != _PROTOCOL_VERSION or type(machine.root) is not Mapping:
            raise NotThisFormat("a protocol of torch.save that is not known")
        storages = storages_of(state)
        order = _keys(keys.root)
        if sorted(order) != sorted(storages):
            raise NotThisFormat("the list of storages is not that of the pickle")
        places: dict[str, Place] = {}
        for key in order:
            places[key] = place = _read_place(file, at, key, storages[key])
            at = place.offset + place.nbytes
        if at != file.size:
            raise NotThisFormat(f"the last storage ends at {at} of {file.size} bytes")
        found = find_tensors(state, places, file.size, Names("."))
        return checked_layout(self.name, self.version, file.size, found.spans, found.tensors)


def _read_pickles(file: RandomAccess) -> tuple[list[Pickle], int]:
    """Return the pickles and where they end. They do not say how long they are: a longer prefix is tried each time."""
    prefix_bytes = min(_FIRST_READ_BYTES, file.size)
    while True:
        prefix = file.read_at(0, prefix_bytes)
        pickles: list[Pickle] = []
        at = 0
        try:
            while len(pickles) < _PICKLE_COUNT:
                pickle, at = read_pickle_at(prefix, at)
                pickles.append(pickle)
        except NotThisFormat:
            longer = min(_GROWTH * prefix_bytes, MAX_PICKLE_BYTES, file.size)
            if longer <= prefix_bytes:
                raise
            prefix_bytes = longer
        else:
            return pickles, at


def _keys(values: object) -> list[str]:
    if type(values) is not list or not all(type(value) is str for value in values):
        raise NotThisFormat("a list of storages that is none")
    return values


def _read_place(file: RandomAccess, at: int, key: str, mentions: list[Storage]) -> Place:
    """Return where the bytes of the storage lie whose element count is at `at`."""
    sizes = {storage.raw_bytes for storage in mentions}
    if len(sizes) != 1 or (nbytes := sizes.pop()) is None:
        raise NotThisFormat(f"the storage '{key[:80]}' has elements of an unknown width, or two lengths")
    count = int.from_bytes(file.read_at(at, _COUNT_BYTES), "little")
    offset = at + _COUNT_BYTES
    if offset + nbytes > file.size or count != mentions[0].element_count:
        raise NotThisFormat(f"the storage '{key[:80]}' has {count} elements, or ends beyond the file")
    return Place(offset, nbytes, mentions[0].dtype)
