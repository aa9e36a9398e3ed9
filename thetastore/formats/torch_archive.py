"""The zip archive that torch.save makes: pickles that describe tensors as views of storages, and an entry a storage.

Such an archive is a file of its own, or one of many in a file (`torch_dcp`).
"""

from __future__ import annotations

from thetastore.dtypes import big_endian
from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.names import Names
from thetastore.formats.pickle_machine import MAX_PICKLE_BYTES, read_pickle
from thetastore.formats.torch_spans import Found, Place, find_tensors
from thetastore.formats.torch_state import Storage, storages_of
from thetastore.formats.zip_directory import ZipEntry, read_directory
from thetastore.layout import MAX_TENSORS

_PICKLES = (("data.pkl", "data/", ()), ("constants.pkl", "constants/", ("constants",)))
"""Entries with pickles, where their storages are, and what goes before the paths of their tensors. Only TorchScript
archives have constants."""


def read_archive(file: RandomAccess) -> Found:
    """Return the tensors and spans of an archive.

    Peak memory: 350 MB, for 64 MiB of hostile pickle.

    Raises:
        NotThisFormat: it is no such archive.
    """
    entries = read_directory(file)
    folder = _archive_folder(entries)
    is_big_endian = _is_big_endian(file, entries.get(f"{folder}/byteorder"))
    found = Found([], [])
    names = Names(".")
    for name, storage_folder, prefix in _PICKLES:
        entry = entries.get(f"{folder}/{name}")
        if entry is None:
            continue
        pickle = read_pickle(_contents(file, entry, MAX_PICKLE_BYTES))
        places = _find_places(storages_of(pickle), entries, f"{folder}/{storage_folder}", is_big_endian)
        found.add(find_tensors(pickle, places, file.size, names, prefix))
    if len(found.tensors) > MAX_TENSORS:
        raise NotThisFormat(f"more than {MAX_TENSORS} tensors")
    return found


def _archive_folder(entries: dict[str, ZipEntry]) -> str:
    """Return the folder that all of torch's entries lie in."""
    folders = [name.split("/")[0] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise NotThisFormat(f"a zip file with {len(folders)} entries '*/data.pkl'")
    return folders[0]


def _is_big_endian(file: RandomAccess, entry: ZipEntry | None) -> bool:
    """Tell in which order the bytes of elements lie. Torch before 2.1 wrote no such entry."""
    order = b"little" if entry is None else _contents(file, entry, 16)
    if order not in (b"little", b"big"):
        raise NotThisFormat(f"a torch archive of the byte order {order!r}")
    return order == b"big"


def _contents(file: RandomAccess, entry: ZipEntry, limit_bytes: int) -> bytes:
    if not entry.stored or entry.nbytes > limit_bytes:
        raise NotThisFormat(f"a zip entry of {entry.nbytes} bytes is compressed, or larger than {limit_bytes}")
    data = file.read_at(entry.offset, entry.nbytes)
    if len(data) != entry.nbytes:
        raise NotThisFormat("the zip file is shorter than it was")
    return data


def _find_places(
    storages: dict[str, list[Storage]], entries: dict[str, ZipEntry], folder: str, is_big_endian: bool
) -> dict[str, Place]:
    """Return for every storage that a pickle mentions, by key, where its bytes lie."""
    places: dict[str, Place] = {}
    for key, mentions in storages.items():
        entry = entries.get(folder + key)
        if entry is None or not entry.stored:
            raise NotThisFormat(f"the storage '{key[:80]}' is not in the zip file, or is compressed")
        for storage in mentions:
            if storage.raw_bytes not in (None, entry.nbytes):
                raise NotThisFormat(f"the storage '{key[:80]}' has {entry.nbytes} of {storage.raw_bytes} bytes")
        places[key] = Place(entry.offset, entry.nbytes, mentions[0].dtype, big_endian if is_big_endian else None)
    return places
