"""`.metadata` of torch's distributed checkpoints: which tensors the archives in `*.distcp` are, or are shards of.

It is a pickle of a `Metadata`: types and shapes of tensors, at which indices their shards begin, and in which bytes of
which file each lies. Here it is read as the inert values of `pickle_machine`; no class that it names is looked for.

The file is opaque where it is stored, as it was before anything read it: only its name says that it is to be read.

Source: torch/distributed/checkpoint/metadata.py and filesystem.py (`_StorageInfo`), as of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.formats.outside import Outside, checked_outside, piece
from thetastore.formats.pickle_machine import MAX_PICKLE_BYTES, Call, Global, Mapping, read_pickle
from thetastore.formats.torch_state import dtype_of, is_length, lengths_of
from thetastore.layout import MAX_TENSORS, Tensor

FILE_NAME = ".metadata"
_MODULE = "torch.distributed.checkpoint.metadata"
_STORAGE_MODULE = "torch.distributed.checkpoint.filesystem"
_Key = tuple[str, tuple[int, ...] | None]
_Place = tuple[str, int, int]


class TorchDcpMetadata:
    """`.metadata`, beside `*.distcp`."""

    name = "torch-dcp-metadata"
    """Of no layout: the file is opaque."""

    def sniff(self, head: bytes) -> bool:
        """Tell whether this is a pickle that first names a module for what torch calls metadata of a checkpoint."""
        return head[:1] == b"\x80" and _MODULE.encode() in head

    def outside(self, file: RandomAccess, file_name: str) -> list[Outside]:
        """Return the tensors, or the shards of them, that archives of other files hold; see `TableFormat.outside`.

        Tensors of types that have no name here are left out, and so is all that is not a tensor.
        """
        if file_name != FILE_NAME:
            raise NotThisFormat(f"the table of a distributed checkpoint is called {FILE_NAME}: '{file_name}'")
        if file.size > MAX_PICKLE_BYTES:
            raise NotThisFormat(f"a pickle of {file.size} bytes, more than {MAX_PICKLE_BYTES}")
        metadata = _state(read_pickle(file.read_at(0, file.size)).root, _MODULE, "Metadata")
        places = _places(metadata.get("storage_data"))
        described = metadata.get("state_dict_metadata")
        if type(described) is not Mapping:
            raise NotThisFormat("metadata without a state")
        found: dict[str, list[Outside]] = {}
        shard_count = 0
        for name, value in described.pairs:
            if type(name) is not str:
                raise NotThisFormat("an item whose name is no text")
            found[name] = list(_shards(name, value, places))
            shard_count += len(found[name])
            if shard_count > MAX_TENSORS:
                raise NotThisFormat(f"more than {MAX_TENSORS} shards")
        return checked_outside([one for shards in found.values() for one in shards])


def _shards(name: str, value: object, places: dict[_Key, _Place]) -> Iterator[Outside]:
    """Yield where the parts of an item lie; nothing of one that is no tensor."""
    if _is_object(value, _MODULE, "BytesStorageMetadata"):
        return
    state = _state(value, _MODULE, "TensorStorageMetadata")
    dtype, is_pair = dtype_of(_dtype_in(state.get("properties")))
    chunks = state.get("chunks")
    if type(chunks) is not list:
        raise NotThisFormat(f"tensor '{name[:80]}' has no list of chunks")
    if dtype is None:
        return
    shape = _counted(lengths_of(state.get("size")), is_pair)
    seen: set[tuple[int, ...]] = set()
    for chunk in chunks:
        of_chunk = _state(chunk, _MODULE, "ChunkStorageMetadata")
        offsets, sizes = lengths_of(of_chunk.get("offsets")), lengths_of(of_chunk.get("sizes"))
        if offsets in seen or (0 in sizes and 0 not in shape):
            continue  # what a rank has of an axis that is shorter than there are ranks
        seen.add(offsets)
        place = places.get((name, offsets))
        if place is None:
            raise NotThisFormat(f"tensor '{name[:80]}' has a chunk at {offsets} that is in no file")
        file_name, offset, nbytes = place
        tensor = Tensor(name, dtype, _counted(sizes, is_pair), offset)
        yield piece(file_name, tensor, shape, _counted(offsets, is_pair), nbytes)


def _counted(lengths: tuple[int, ...], is_pair: bool) -> tuple[int, ...]:
    """Return lengths in elements, where torch counts two as one."""
    return (*lengths[:-1], 2 * lengths[-1]) if is_pair and lengths else lengths


def _dtype_in(properties: object) -> object:
    """Return the type of a tensor: the first part of the state of its properties."""
    states = properties.states if type(properties) is Call else None
    if not states or type(states[-1]) is not tuple or not states[-1]:
        raise NotThisFormat("a tensor without properties")
    return states[-1][0]


def _places(storage: object) -> dict[_Key, _Place]:
    """Return the file, offset and length of each part, by the name of the item and the index where the part begins."""
    if type(storage) is not Mapping:
        raise NotThisFormat("metadata that does not say where its items are")
    places: dict[_Key, _Place] = {}
    for index, info in storage.pairs:
        key = _state(index, _MODULE, "MetadataIndex")
        place = _state(info, _STORAGE_MODULE, "_StorageInfo")
        name, file_name = key.get("fqn"), place.get("relative_path")
        offset, nbytes = place.get("offset"), place.get("length")
        if type(name) is not str or type(file_name) is not str or not is_length(offset) or not is_length(nbytes):
            raise NotThisFormat("a place of an item that is none")
        if place.get("transform_descriptors"):
            raise NotThisFormat(f"item '{name[:80]}' was changed on its way into '{file_name[:80]}'")
        assert type(offset) is int
        assert type(nbytes) is int
        at = key.get("offset")
        places[name, None if at is None else lengths_of(at)] = file_name, offset, nbytes
    return places


def _is_object(value: object, module: str, name: str) -> bool:
    function = value.function if type(value) is Call else None
    return type(function) is Global and (function.module, function.name) == (module, name)


def _state(value: object, module: str, name: str) -> dict[str, object]:
    """Return the attributes of an object of a class."""
    states = value.states if type(value) is Call and _is_object(value, module, name) else None
    state = states[-1] if states else None
    if type(state) is not Mapping:
        raise NotThisFormat(f"something else where torch has a '{name}'")
    return {key: held for key, held in state.pairs if type(key) is str}
