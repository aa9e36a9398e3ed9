"""Zarr v3 over a store: any model as a group of arrays, and hierarchies of one's own beside it.

    group = zarr.open_group(ZarrStore(store_url, model=thetastore.open(url)), mode="r")
    group["lm_head.weight"][:128]

A model's arrays have the chunks that the store has: a cell of the grid is one chunk (the last cell of an axis is filled
up, as Zarr wants it; where the store joins a short one to its neighbour, the two are cells here). Zarr has no bfloat16
and no 8-bit floats: such arrays are unsigned integers with the same bits, and say in the attribute `theta.dtype` what
they are. A `/` in a tensor's name is written `%2F`.

What is written becomes objects of the store, named by content: a chunk that is some checkpoint's chunk, too, takes no
room. Which key leads to which object is in memory until `snapshot` stores it: `docs/format/zarr.md`.
"""

from __future__ import annotations

import _thread
import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple, Self

from thetastore.errors import PackageMissingError

try:
    import zarr.abc.store
    from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
except ModuleNotFoundError as missing:
    raise PackageMissingError.of(missing, "a model as a Zarr group", "zarr") from None

from thetastore.chunking import MAX_CHUNK_BYTES
from thetastore.digest import Digest, Kind
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.models import Model, Tensor
from thetastore.store import Store
from thetastore.zarr_grid import META, grid_of, node_name

_MAGIC = "theta-zarr"
_VERSION = 1
_KINDS = {"u": "uint", "i": "int", "f": "float", "c": "complex", "b": "bool"}


class _Value(NamedTuple):
    """What a key leads to."""

    digest: Digest
    nbytes: int
    is_file: bool
    """Whether `digest` is of a manifest: of values too long for one object."""


class ZarrStore(zarr.abc.store.Store):
    """A Zarr store whose values are objects of a store, over a model's arrays if one is given."""

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(
        self, url: str, *, model: Model | None = None, snapshot: str | None = None, read_only: bool = False
    ) -> None:
        """Open a hierarchy.

        Args:
            url: of the store, which is made if there is none.
            model: whose tensors are arrays of the root group; what is written hides them.
            snapshot: the digest that `ZarrStore.snapshot` returned.
            read_only: refuse to write.
        """
        super().__init__(read_only=read_only)
        self.url = url
        self._model = model
        self._view = None if model is None else _View(model)
        self._values: dict[str, _Value | None] = {}
        """None hides a key of the model."""
        self._store: Store | None = None
        self._lock = _thread.allocate_lock()
        if snapshot is not None:
            self._values.update(_parse_snapshot(self._read_file(Digest.parse(snapshot))))

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same hierarchy with the right to write, or without it."""
        other = type(self)(self.url, model=self._model, read_only=read_only)
        other._values = self._values
        return other

    def snapshot(self) -> str:
        """Make what was written durable; return the digest that opens it again."""
        lines = [json.dumps({"format": _MAGIC, "version": _VERSION})]
        for key, value in sorted(self._values.items()):
            lines.append(
                json.dumps([key, *(() if value is None else (str(value.digest), value.nbytes, value.is_file))])
            )
        with self._lock:
            store = self._opened()
            digest = store.put_file(io.BytesIO("\n".join(lines).encode() + b"\n")).manifest_digest
            store.seal()
        return str(digest)

    def close(self) -> None:
        """Make what was written durable, and free files and threads."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None
        super().close()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ZarrStore):
            return False
        return (self.url, self._values, self._name()) == (other.url, other._values, other._name())

    __hash__ = None  # type: ignore[assignment]

    def _name(self) -> str:
        return "" if self._model is None else str(self._model.origin)

    def __str__(self) -> str:
        return f"theta+zarr://{self.url}"

    def __repr__(self) -> str:
        return f"ZarrStore('{self.url}')"

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            if self._store is not None:
                self._store.seal()
        return {"url": self.url, "model": self._model, "values": self._values, "read_only": self.read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ZarrStore.__init__(self, state["url"], model=state["model"], read_only=state["read_only"])
        self._values = state["values"]

    # Reading

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a value, or a part of it; None where there is no such key."""
        if not self._is_open:
            await self._open()
        raw = await asyncio.to_thread(self._read, key, byte_range)
        return None if raw is None else (prototype or default_buffer_prototype()).buffer.from_bytes(raw)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several values, or parts of them."""
        return list(await asyncio.gather(*(self.get(key, prototype, asked) for key, asked in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Tell whether there is such a key."""
        if key in self._values:
            return self._values[key] is not None
        return self._view is not None and self._view.has(key)

    def _read(self, key: str, asked: ByteRequest | None) -> bytes | None:
        if key not in self._values:
            return None if self._view is None else self._view.read(key, asked)
        value = self._values[key]
        if value is None:
            return None
        raw = self._read_file(value.digest) if value.is_file else self._read_chunk(value)
        start, stop = _bounds(asked, len(raw))
        return raw[start:stop]

    def _read_chunk(self, value: _Value) -> bytes:
        with self._lock:
            store = self._opened()
        return bytes(store.objects.get(Kind.CHUNK, value.digest))

    def _read_file(self, digest: Digest) -> bytes:
        with self._lock:
            store = self._opened()
        return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))

    def _opened(self) -> Store:
        if self._store is None:
            self._store = Store.open(self.url, create=True)
        return self._store

    # Writing

    async def set(self, key: str, value: Buffer) -> None:
        """Store a value."""
        self._check_writable()
        if not self._is_open:
            await self._open()
        if not isinstance(value, Buffer):
            raise TypeError(f"ZarrStore.set(): `value` must be a Buffer instance. Got {type(value)} instead.")
        await asyncio.to_thread(self.put, key, value.to_bytes())

    def put(self, key: str, raw: bytes) -> None:
        """Store a value, whether the store is read-only or not."""
        with self._lock:
            store = self._opened()
            if len(raw) <= MAX_CHUNK_BYTES:
                self._values[key] = _Value(store.objects.put(Kind.CHUNK, raw), len(raw), False)
            else:
                self._values[key] = _Value(store.put_file(io.BytesIO(raw)).manifest_digest, len(raw), True)

    async def delete(self, key: str) -> None:
        """Take a key away; objects stay in the store until it is collected."""
        self._check_writable()
        if self._view is not None and self._view.has(key):
            self._values[key] = None
        else:
            self._values.pop(key, None)

    # Listing

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a prefix."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix."""
        start = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        for name in dict.fromkeys(key[len(start) :].split("/")[0] for key in self._keys() if key.startswith(start)):
            yield name

    def _keys(self) -> Iterator[str]:
        yield from [key for key, value in self._values.items() if value is not None]
        if self._view is not None:
            yield from (key for key in self._view.all_keys() if key not in self._values)


class _View:
    """A model as keys and values."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._arrays = {node_name(name): _Array(model[name]) for name in model}

    def all_keys(self) -> Iterator[str]:
        yield META
        for name, array in self._arrays.items():
            yield f"{name}/{META}"
            yield from (f"{name}/{key}" for key in array.chunk_keys())

    def has(self, key: str) -> bool:
        if key == META:
            return True
        name, _, rest = key.partition("/")
        return name in self._arrays and (rest == META or self._arrays[name].cell_of(rest) is not None)

    def read(self, key: str, asked: ByteRequest | None) -> bytes | None:
        if not self.has(key):
            return None
        name, _, rest = key.partition("/")
        if key == META:
            raw = json.dumps(self._metadata()).encode()
        elif rest == META:
            raw = json.dumps(self._arrays[name].metadata()).encode()
        else:
            return self._arrays[name].read(rest, asked)
        start, stop = _bounds(asked, len(raw))
        return raw[start:stop]

    def _metadata(self) -> dict[str, Any]:
        arrays = {name: array.metadata() for name, array in self._arrays.items()}
        return {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"theta.origin": str(self._model.origin)},
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        }


class _Array:
    """A tensor as an array on a regular grid."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._grid = grid_of(tensor.dtype_name, tensor.shape)

    def metadata(self) -> dict[str, Any]:
        numpy_type = self._grid.type
        kind = numpy_type.kind if numpy_type.kind in _KINDS else "u"
        name = "bool" if kind == "b" else f"{_KINDS[kind]}{8 * numpy_type.itemsize}"
        fill: Any = False if kind == "b" else [0.0, 0.0] if kind == "c" else 0.0 if kind == "f" else 0
        codec: dict[str, Any] = {"name": "bytes"}
        if numpy_type.itemsize > 1:
            codec["configuration"] = {"endian": "big" if numpy_type.byteorder == ">" else "little"}
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self._grid.shape),
            "data_type": name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self._grid.cell)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": [codec],
            "dimension_names": self._grid.dimensions,
            "attributes": self._tensor.attributes,
        }

    def chunk_keys(self) -> Iterator[str]:
        for cell in self._grid.cells():
            yield "/".join(["c", *map(str, cell)])

    def cell_of(self, key: str) -> tuple[int, ...] | None:
        first, *numbers = key.split("/")
        if first != "c" or len(numbers) != len(self._grid.shape):
            return None
        if any(not (number.isascii() and number.isdecimal() and str(int(number)) == number) for number in numbers):
            return None
        cell = tuple(map(int, numbers))
        return cell if all(at < count for at, count in zip(cell, self._grid.counts, strict=True)) else None

    def read(self, key: str, asked: ByteRequest | None) -> bytes:
        cell = self.cell_of(key)
        assert cell is not None, "asked for before"
        raw = self._grid.read(self._tensor, cell)
        start, stop = _bounds(asked, len(raw))
        return raw[start:stop]


def _bounds(asked: ByteRequest | None, nbytes: int) -> tuple[int, int]:
    if isinstance(asked, RangeByteRequest):
        return asked.start, asked.end
    if isinstance(asked, OffsetByteRequest):
        return asked.offset, nbytes
    if isinstance(asked, SuffixByteRequest):
        return max(nbytes - asked.suffix, 0), nbytes
    if asked is None:
        return 0, nbytes
    raise ValueError(f"Unexpected byte_range, got {asked}.")


def _parse_snapshot(raw: bytes) -> Iterator[tuple[str, _Value | None]]:
    try:
        head, *lines = raw.decode().split("\n")[:-1]
        described = json.loads(head)
        if described["format"] != _MAGIC:
            raise MalformedError(f"this is no snapshot of a Zarr hierarchy: {head[:80]!a}")
        if described["version"] not in (0, _VERSION):  # they differ in nothing else
            raise UnsupportedError(
                f"this snapshot has version {described['version']!r}, this thetastore reads version {_VERSION}: "
                "a newer one is needed (pip install --upgrade thetastore)"
            )
        for line in lines:
            key, *value = json.loads(line)
            if not isinstance(key, str):
                raise MalformedError("a key of a snapshot is no text")
            yield key, _Value(Digest.parse(value[0]), int(value[1]), bool(value[2])) if value else None
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise MalformedError(f"this is not a snapshot of a Zarr hierarchy: {error}") from None
