"""A model as references that Zarr reads through fsspec, without a store being opened: kerchunk's format, version 1.

    write_references(thetastore.open(url), "model.json")
    zarr.open_group("reference://", storage_options={"fo": "model.json"}, mode="r")

Each cell of an array is a range of a pack, where the pack has the cell by itself in a form that the array's codec can
read: Zarr (version 2 of its format) has one codec for an array. What is not so is copied into a file beside the
references: chunks that are stored as what they have more than others, cells at the end of an axis, which Zarr wants
filled up, strided tensors. Cells of zeros are left out, as Zarr does.

Most weights are in byte planes: the codec `thetastore.planes`, which numcodecs finds where this package is installed.
With `plain`, they are copied instead, and numcodecs' own codecs will do. References hold as long as their packs do:
whoever packs a store anew, or collects it, makes them anew. Nobody checks digests on this way.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from thetastore.checkpoints.tensors import StoredAt, TensorReader
from thetastore.codecs import frames, planes
from thetastore.models import Model, Tensor
from thetastore.open_file import Replacing
from thetastore.zarr_grid import Grid, grid_of, node_name

COPIES_SUFFIX = ".chunks"
"""Of the file with what could not be referenced, after the name of that with the references."""
_PLAIN = {"literal": None, "zstd": {"id": "zstd", "level": 3}}
"""How numcodecs calls codecs of ours that it can undo by itself."""
_PLANES = "planes"
_Cell = tuple[int, ...]


class References(NamedTuple):
    """What was written."""

    path: str
    copies_path: str | None
    """Of the file with copies; None where none were needed."""
    tensor_count: int
    referenced_bytes: int
    """Of ranges of packs."""
    copied_bytes: int
    """Stored bytes of the file with copies."""
    copied: dict[str, int]
    """Cells that were copied, by why: `ends of axes`, `strided`, `another codec` (than the array's), `cut otherwise`
    (than on the array's grid), `differences` (or whatever else is not stored by itself in a sealed pack)."""
    needs_codec: bool
    """Whether readers need `thetastore.planes`."""


class _Found(NamedTuple):
    places: tuple[StoredAt, ...]
    why_not: str
    """Why there may be none."""


class _Copies:
    """The file beside the references, made when it is first needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.nbytes = 0
        self._replacing = Replacing(path)
        self._descriptor: int | None = None

    def add(self, stored: memoryview) -> tuple[int, int]:
        """Append bytes; return where they begin and how many they are."""
        if self._descriptor is None:
            self._descriptor = self._replacing.__enter__()
        start, self.nbytes = self.nbytes, self.nbytes + stored.nbytes
        while stored:
            stored = stored[os.write(self._descriptor, stored) :]
        return start, self.nbytes - start

    def __enter__(self) -> _Copies:
        return self

    def __exit__(self, *error: object) -> None:
        if self._descriptor is not None:
            self._replacing.__exit__(*error)


def write_references(model: Model, path: str | os.PathLike[str], *, plain: bool = False) -> References:
    """Write a model as references, into a file of JSON and, where need be, one of copies beside it.

    A cell at a time is in memory, and the references of all.

    Args:
        model: of `thetastore.open` or `gitbridge.open`, or what `select` returned.
        path: of the JSON; what is there is replaced.
        plain: refer only to what numcodecs can undo without a codec of ours, and copy the rest, compressed by zstd.

    Raises:
        ObjectMissingError, ObjectCorruptError: as reading a tensor; nothing is left behind.
        OSError: the files cannot be written.
    """
    place = os.path.abspath(path)
    model.bring()
    # Opened anew, so that packs are known as they are now.
    model = type(model)(model.origin, names=list(model))
    with Replacing(place) as descriptor, _Copies(place + COPIES_SUFFIX) as copies:
        writer = _Writer(copies, plain)
        for reader in {id(reader): reader for reader in map(model.reader_of, model)}.values():
            reader.expect_stored_alone(name for name in model if model.reader_of(name) is reader)
        for name in model:
            writer.add(model[name], model.reader_of(name))
        document = json.dumps(writer.document(str(model.origin)), separators=(",", ":"), allow_nan=False).encode()
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(document)
    if not copies.nbytes and os.path.lexists(copies.path):
        os.unlink(copies.path)  # of references that were there before
    return References(
        place,
        copies.path if copies.nbytes else None,
        len(model),
        writer.referenced_bytes,
        copies.nbytes,
        dict(writer.copied),
        writer.needs_codec,
    )


class _Writer:
    """Gathers the references of one model."""

    def __init__(self, copies: _Copies, plain: bool) -> None:
        self._copies = copies
        self._codecs = [*_PLAIN] if plain else [*_PLAIN, _PLANES]
        self._refs: dict[str, Any] = {".zgroup": {"zarr_format": 2}}
        self._templates: dict[str, str] = {}
        self.referenced_bytes = 0
        self.copied: Counter[str] = Counter()
        self.needs_codec = False

    def document(self, origin: str) -> dict[str, Any]:
        """Return what the file of references says."""
        self._refs[".zattrs"] = {"theta.origin": origin}
        texts = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in self._refs.items()}
        metadata = {key: value for key, value in self._refs.items() if isinstance(value, dict)}
        texts[".zmetadata"] = json.dumps({"zarr_consolidated_format": 1, "metadata": metadata})
        return {"version": 1, "templates": self._templates, "refs": texts}

    def add(self, tensor: Tensor, reader: TensorReader) -> None:
        """Add a tensor as an array."""
        grid = grid_of(tensor.dtype_name, tensor.shape)
        found = dict(_found(grid, tensor, reader))
        codec = self._chosen(found)
        node = node_name(tensor.name)
        self._refs[f"{node}/.zarray"] = _array(grid, self._configuration(codec, tensor.dtype_name))
        self._refs[f"{node}/.zattrs"] = {"_ARRAY_DIMENSIONS": grid.dimensions, **tensor.attributes}
        for cell, (places, why_not) in found.items():
            key = f"{node}/{'.'.join(map(str, cell)) or '0'}"
            stored = next((one for one in places if one.codec == codec), None)
            if stored is not None:
                self._refs[key] = [self._url("store", stored.store_url, stored.file_name), stored.offset, stored.nbytes]
                self.referenced_bytes += stored.nbytes
                continue
            raw = grid.read(tensor, cell)
            if raw.count(0) < len(raw):
                self._refs[key] = [
                    self._url("copies", self._copies.path),
                    *self._copies.add(_coded(codec, raw, tensor)),
                ]
                self.copied["another codec" if places else why_not] += 1

    def _chosen(self, found: dict[_Cell, _Found]) -> str:
        """Return the codec by which half or more can be referenced; the best for copies if there is none."""
        tally = {
            codec: sum(one.codec == codec for cell in found.values() for one in cell.places) for codec in self._codecs
        }
        best = max(tally, key=lambda codec: tally[codec])
        return best if 2 * tally[best] >= len(found) else self._codecs[-1]

    def _configuration(self, codec: str, dtype_name: str) -> dict[str, Any] | None:
        if codec != _PLANES:
            return _PLAIN[codec]
        self.needs_codec = True
        return {"id": "thetastore.planes", "dtype": dtype_name}

    def _url(self, kind: str, root: str, name: str = "") -> str:
        """Return the URL of a file; what it begins with is a template, for readers to whom it lies elsewhere."""
        url = root if "://" in root else f"file://{root}"
        label = next((label for label, known in self._templates.items() if known == url), None)
        if label is None:
            # A model whose files lie in several stores has `store`, `store1` and so on.
            count = sum(label.startswith(kind) for label in self._templates)
            label = f"{kind}{count or ''}"
            self._templates[label] = url
        return f"{{{{{label}}}}}/{name}" if name else f"{{{{{label}}}}}"


def _found(grid: Grid, tensor: Tensor, reader: TensorReader) -> Iterator[tuple[_Cell, _Found]]:
    """Yield each cell, and where it is stored by itself."""
    entry = reader.tensor(tensor.name)
    chunks = {} if entry.strides is not None else {one.offset: one.chunk for one in reader.chunks(tensor.name)}
    for cell in grid.cells():
        start, nbytes = grid.place(cell)
        chunk = chunks.get(entry.offset + start)
        if entry.strides is not None:
            yield cell, _Found((), "strided")
        elif nbytes != grid.cell_bytes:
            yield cell, _Found((), "ends of axes")
        elif chunk is None or chunk.raw_bytes != nbytes:
            yield cell, _Found((), "cut otherwise")
        else:
            yield cell, _Found(tuple(reader.stored_alone(chunk.digest)), "differences")


def _coded(codec: str, raw: bytes, tensor: Tensor) -> memoryview:
    if codec == "zstd":
        return memoryview(frames.compress(raw))
    if codec == _PLANES:
        view = memoryview(raw)
        payload = planes.encode(view, planes.plan(view, tensor.dtype_name), at_any_size=True)
        assert payload is not None, "no cell is over the codec's limit"
        return payload
    return memoryview(raw)


def _array(grid: Grid, compressor: dict[str, Any] | None) -> dict[str, Any]:
    kind = grid.type.kind if grid.type.kind in "uifcb" else "u"
    width = grid.type.itemsize
    order = "|" if width == 1 else ">" if grid.type.byteorder == ">" else "<"
    fill: Any = False if kind == "b" else [0.0, 0.0] if kind == "c" else 0.0 if kind == "f" else 0
    return {
        "zarr_format": 2,
        "shape": list(grid.shape),
        "chunks": list(grid.cell),
        "dtype": f"{order}{kind}{width}",
        "compressor": compressor,
        "filters": None,
        "fill_value": fill,
        "order": "C",
        "dimension_separator": ".",
    }
