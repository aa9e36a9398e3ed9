"""The layout of zip files made by torch.save: `*.pt`, `*.pth`, `*.bin`, `*.ckpt`, TorchScript archives.

An archive has one pickle that describes tensors as views of storages, and one stored entry a storage. Tensors are
named by their path in the pickled state; storages are cut where tensors begin and end.
"""

from __future__ import annotations

from thetastore.dtypes import DTYPES
from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.pickle_machine import MAX_PICKLE_BYTES, Reference, read_pickle
from thetastore.formats.torch_spans import spans_of_storage
from thetastore.formats.torch_state import Storage, StoredTensor, named_tensors, storage_of
from thetastore.formats.zip_directory import ZipEntry, read_directory
from thetastore.layout import Layout, Span, Tensor, checked_layout, is_contiguous


class TorchZip:
    """Zip files made by torch.save, and TorchScript archives."""

    name = "torch-zip"
    version = 0

    def sniff(self, head: bytes) -> bool:
        """Tell whether a zip file begins here."""
        return head[:4] == b"PK\3\4"

    def scan(self, file: RandomAccess) -> Layout:
        """Locate the tensors; see `WholeFormat.scan`. Peak memory: 350 MB, for 64 MiB of hostile pickle."""
        entries = read_directory(file)
        folder = _archive_folder(entries)
        _check_byte_order(file, entries.get(f"{folder}/byteorder"))
        pickle = read_pickle(_contents(file, entries[f"{folder}/data.pkl"], MAX_PICKLE_BYTES))
        storages = _find_storages(pickle.references, entries, f"{folder}/data/")
        found = named_tensors(pickle)
        tensors = [_placed(name, tensor, storages[tensor.storage.key][1].offset) for name, tensor in found]
        tensors = [tensor for tensor in tensors if _is_reasonable(tensor, file.size)]
        return checked_layout(self.name, self.version, file.size, _find_spans(storages, tensors), tensors)


def _archive_folder(entries: dict[str, ZipEntry]) -> str:
    """Return the folder that all of torch's entries lie in."""
    folders = [name.split("/")[0] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise NotThisFormat(f"a zip file with {len(folders)} entries '*/data.pkl'")
    return folders[0]


def _check_byte_order(file: RandomAccess, entry: ZipEntry | None) -> None:
    """Refuse big-endian archives: their dtypes have no names yet. Torch before 2.1 wrote no such entry."""
    if entry is not None and _contents(file, entry, 16) != b"little":
        raise NotThisFormat("a torch archive that is not little-endian")


def _contents(file: RandomAccess, entry: ZipEntry, limit_bytes: int) -> bytes:
    if not entry.stored or entry.nbytes > limit_bytes:
        raise NotThisFormat(f"a zip entry of {entry.nbytes} bytes is compressed, or larger than {limit_bytes}")
    data = file.read_at(entry.offset, entry.nbytes)
    if len(data) != entry.nbytes:
        raise NotThisFormat("the zip file is shorter than it was")
    return data


def _find_storages(
    references: list[Reference], entries: dict[str, ZipEntry], folder: str
) -> dict[str, tuple[Storage, ZipEntry]]:
    """Return every storage that the pickle mentions, by key, with the entry that holds its bytes."""
    storages: dict[str, tuple[Storage, ZipEntry]] = {}
    for reference in references:
        storage = storage_of(reference)
        if storage is None:
            continue
        entry = entries.get(folder + storage.key)
        if entry is None or not entry.stored:
            raise NotThisFormat(f"the storage '{storage.key[:80]}' is not in the zip file, or is compressed")
        if storage.raw_bytes not in (None, entry.nbytes):
            raise NotThisFormat(f"the storage '{storage.key[:80]}' has {entry.nbytes} of {storage.raw_bytes} bytes")
        storages.setdefault(storage.key, (storage, entry))
    return storages


def _placed(name: str, tensor: StoredTensor, storage_offset: int) -> Tensor:
    """Return the tensor with its place in the file; axes of length 1, along which nothing steps, get stride 0."""
    strides = None
    if not is_contiguous(tensor.shape, tensor.strides):
        strides = tuple(step if n > 1 else 0 for n, step in zip(tensor.shape, tensor.strides, strict=True))
    return Tensor(name, tensor.dtype, tensor.shape, storage_offset + tensor.offset, strides)


def _is_reasonable(tensor: Tensor, file_bytes: int) -> bool:
    """Tell whether a tensor can be listed: a mask that `expand` blows up must not make the whole file opaque."""
    return tensor.strides is None or (DTYPES[tensor.dtype].bits >= 8 and tensor.raw_bytes <= file_bytes)


def _find_spans(storages: dict[str, tuple[Storage, ZipEntry]], tensors: list[Tensor]) -> list[Span]:
    """Cut every storage. Tensors are told apart by where they lie: entries of a zip file do not overlap."""
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    spans: list[Span] = []
    at = 0
    for storage, entry in sorted(storages.values(), key=lambda place: place[1].offset):
        while at < len(ordered) and ordered[at].offset < entry.offset:
            at += 1
        start = at
        while at < len(ordered) and ordered[at].offset < entry.offset + entry.nbytes:
            at += 1
        spans += spans_of_storage(entry.offset, entry.nbytes, storage.dtype, ordered[start:at])
    return spans
