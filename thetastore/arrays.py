"""Tensors as arrays: which numpy or torch type stands for which of ours, and slices out of a tensor's bytes.

numpy has no bfloat16 and no 8-bit floats: they are those of ml_dtypes where that is installed, else unsigned integers
with the same bits; so is complex32. Types without elements of whole bytes (4 and 6 bits wide, block-quantised) are
bytes: the last axis counts bytes, or where a row does not end with a byte there is one axis of bytes.

What is read of a slice: along the axis on which chunks are cut, the run from the first to the last index wanted (or
each index by itself, where a step leaves out whole chunks); of the axes before it, the indices wanted and no others.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from thetastore.checkpoints.compose import NewTensor
from thetastore.chunking import GRID_BYTES
from thetastore.dtypes import BIG_ENDIAN, DTYPES, raw_bytes_of
from thetastore.errors import OutOfRangeError, PackageMissingError, UnsupportedError

if TYPE_CHECKING:
    import numpy

    from thetastore.checkpoints.tensors import TensorReader

    Array = numpy.ndarray[Any, Any]

_BLOCK_BYTES = 32 << 20
"""Memory for what is read around a slice that leaves out some of each row."""
_KINDS = {"int": "i", "float": "f", "complex": "c", "bool": "b"}


def array_form(dtype: str, shape: tuple[int, ...]) -> tuple[numpy.dtype[Any], tuple[int, ...]]:
    """Return the numpy type and the shape of the array that stands for a tensor."""
    import numpy

    _, bits, kind, block_elements = DTYPES[dtype]
    if bits % 8 or block_elements > 1 or kind == "bytes":
        return numpy.dtype("u1"), _byte_shape(dtype, shape)
    plain = dtype.removesuffix(BIG_ENDIAN)
    order = ">" if dtype != plain else "<"
    if plain == "bfloat16" or plain.startswith("float8_"):
        found = getattr(_ml_dtypes(), plain, None) if plain == dtype else None
        return numpy.dtype(found or f"{order}u{bits // 8}"), shape
    letter = "u" if plain.startswith("uint") or plain == "complex32" else _KINDS[kind]
    return numpy.dtype(f"{order}{letter}{bits // 8}"), shape


def _byte_shape(dtype: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    _, bits, _, block_elements = DTYPES[dtype]
    if block_elements > 1:
        return (*shape[:-1], shape[-1] // block_elements * bits // 8)
    if shape and shape[-1] * bits % 8 == 0:
        return (*shape[:-1], shape[-1] * bits // 8)
    return (raw_bytes_of(dtype, math.prod(shape)),)


def _ml_dtypes() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        return None
    return ml_dtypes


def torch_form(dtype: str, array: Array) -> Any:
    """Return a torch tensor over an array's memory, which must be writable; bits are kept, whatever torch knows.

    Raises:
        PackageMissingError: torch is not installed.
        UnsupportedError: its version has no such type.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise PackageMissingError.of(error, "a torch tensor", "torch") from None

    plain = dtype.removesuffix(BIG_ENDIAN)
    if plain != dtype:
        array = array.byteswap().view(array.dtype.newbyteorder("<"))
    numpy_type, shape = array.dtype, array.shape
    wanted = getattr(torch, plain, None) if DTYPES[dtype].bits == 8 * numpy_type.itemsize else torch.uint8
    if not isinstance(wanted, torch.dtype):
        wanted = {1: torch.uint8, 2: torch.int16}.get(numpy_type.itemsize)
        if wanted is None:
            raise UnsupportedError(f"this version of torch has no type for {dtype}: update it")
    if not array.size:
        return torch.empty(shape, dtype=wanted)
    memory = array.reshape(-1).view("u1") if array.flags.c_contiguous else array.copy().reshape(-1).view("u1")
    return torch.frombuffer(memory, dtype=wanted).reshape(shape)


def jax_form(array: Array) -> Any:
    """Return a jax array with an array's values.

    Raises:
        PackageMissingError: jax is not installed.
    """
    try:
        import jax.numpy
    except ModuleNotFoundError as error:
        raise PackageMissingError.of(error, "a jax array") from None

    return jax.numpy.asarray(array)


class Index(NamedTuple):
    """What of an array is wanted."""

    ranges: tuple[range, ...]
    """One for each axis; steps may be negative."""
    dropped: tuple[int, ...]
    """Axes that one number was given for: the result lacks them."""


def parse_index(shape: tuple[int, ...], index: Any) -> Index:
    """Return what `array[index]` asks for: integers, slices and one `...`.

    Other than numpy's, slices must lie within the array: nobody gets fewer rows than were asked for.

    Raises:
        OutOfRangeError: too many axes, or something outside of the array.
        TypeError: an index of another kind.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    places = [at for at, part in enumerate(parts) if part is Ellipsis]
    if len(places) > 1:
        raise OutOfRangeError("an index can only have one '...'")
    missing = len(shape) - (len(parts) - len(places))
    if missing < 0:
        raise OutOfRangeError(f"{len(parts) - len(places)} indices for a tensor of {len(shape)} axes")
    at = places[0] if places else len(parts)
    parts[at : at + len(places)] = [slice(None)] * missing
    ranges, dropped = [], []
    for axis, (length, part) in enumerate(zip(shape, parts, strict=True)):
        if isinstance(part, slice):
            ranges.append(_range_of(part, axis, length))
            continue
        number = _whole_number(part)
        if not -length <= number < length:
            raise OutOfRangeError(f"index {number} is outside of axis {axis}, which has {length}")
        ranges.append(range(number % length, number % length + 1))
        dropped.append(axis)
    return Index(tuple(ranges), tuple(dropped))


def _whole_number(part: Any) -> int:
    import operator

    if not isinstance(part, bool) and part is not None:
        try:
            return operator.index(part)
        except TypeError:
            pass
    raise TypeError(
        f"a tensor in a store is indexed by integers, slices and '...', not by {type(part).__name__}: "
        "take numpy.asarray(tensor)[...] for that"
    )


def _range_of(part: slice, axis: int, length: int) -> range:
    for bound in (part.start, part.stop):
        if bound is not None and not -length <= _whole_number(bound) <= length:
            raise OutOfRangeError(f"slice {_slice_text(part)} is outside of axis {axis}, which has {length}")
    return range(*part.indices(length))


def _slice_text(part: slice) -> str:
    ends = ["" if bound is None else str(bound) for bound in (part.start, part.stop)]
    return ":".join(ends if part.step is None else [*ends, str(part.step)])


def read_array(reader: TensorReader, name: str) -> Array:
    """Return a whole tensor, proven by its digest, in writable memory of its own."""
    import numpy

    tensor = reader.tensor(name)
    dtype, shape = array_form(tensor.dtype, tensor.shape)
    return numpy.frombuffer(reader.read(name), dtype).reshape(shape)


def read_slice(reader: TensorReader, name: str, index: Index) -> Array:
    """Return a part of a tensor in memory of its own; the digests of the chunks that hold it are checked."""
    import numpy

    tensor = reader.tensor(name)
    dtype, shape = array_form(tensor.dtype, tensor.shape)
    rising = [one if one.step > 0 else one[::-1] for one in index.ranges]
    result = numpy.empty([len(one) for one in rising], f"V{dtype.itemsize}")
    if result.size and shape:
        _Box(reader, name, shape, dtype.itemsize, rising).fill(result)
    elif result.size:
        result[...] = numpy.frombuffer(reader.read(name), result.dtype)[0]
    flips = tuple(slice(None, None, 1 if one.step > 0 else -1) for one in index.ranges)
    kept = [len(one) for axis, one in enumerate(rising) if axis not in index.dropped]
    return numpy.ascontiguousarray(result[flips]).view(dtype).reshape(kept)


class _Box:
    """A selection of rising ranges, one for each axis of an array in C order."""

    def __init__(
        self, reader: TensorReader, name: str, shape: tuple[int, ...], item_bytes: int, ranges: list[range]
    ) -> None:
        self._reader = reader
        self._name = name
        self._shape = shape
        self._ranges = ranges
        self._item_bytes = item_bytes
        below = [item_bytes * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        self._steps = below
        """Bytes from one index of an axis to the next."""
        self._cut = next((axis for axis, nbytes in enumerate(below) if nbytes <= GRID_BYTES), len(shape) - 1)
        """The axis along which the bytes of an index are at most those of a chunk."""
        inner = zip(ranges[self._cut + 1 :], shape[self._cut + 1 :], strict=True)
        self._is_whole_inside = all(one == range(length) for one, length in inner)

    def fill(self, result: Array) -> None:
        """Read the selection into an array of its shape."""
        for numbers in itertools.product(*(range(len(one)) for one in self._ranges[: self._cut])):
            leading = zip(self._ranges, numbers, self._steps, strict=False)
            start = sum(one[number] * step for one, number, step in leading)
            rows = result[numbers]
            for first, last in self._runs():
                self._fill_run(rows[first:last], start, self._ranges[self._cut][first:last])

    def _runs(self) -> Iterator[tuple[int, int]]:
        """Yield the places, along the cut axis, of what is read at once."""
        rows = self._ranges[self._cut]
        row_bytes = self._steps[self._cut]
        at_once = len(rows)
        if rows.step * row_bytes > GRID_BYTES:
            at_once = 1
        elif rows.step > 1 or not self._is_whole_inside:
            at_once = max(_BLOCK_BYTES // (rows.step * row_bytes), 1)
        for first in range(0, len(rows), at_once):
            yield first, min(first + at_once, len(rows))

    def _fill_run(self, rows: Array, start: int, wanted: range) -> None:
        import numpy

        row_bytes = self._steps[self._cut]
        first, stop = start + wanted[0] * row_bytes, start + (wanted[-1] + 1) * row_bytes
        if self._is_whole_inside and wanted.step == 1:
            self._reader.read_range(self._name, first, stop, rows.view("u1").reshape(-1).data)
            return
        raw = numpy.frombuffer(self._reader.read_range(self._name, first, stop), rows.dtype)
        inner = tuple(slice(one.start, one.stop, one.step) for one in self._ranges[self._cut + 1 :])
        rows[...] = raw.reshape(-1, *self._shape[self._cut + 1 :])[(slice(None, None, wanted.step), *inner)]


def new_tensor(name: str, value: Any) -> NewTensor:
    """Return a tensor for a new file: of a numpy array, a torch tensor, or what numpy makes an array of.

    Raises:
        UnsupportedError: it is no array of numbers, in pieces, or of a type that has no name here.
    """
    check_whole(name, value)
    if _is_torch(value):
        import torch

        flat = value.detach().cpu().contiguous()
        dtype, shape = str(value.dtype).removeprefix("torch."), tuple(value.shape)
        if flat.is_conj() or flat.is_neg():
            flat = flat.resolve_conj().resolve_neg()
        raw = flat.reshape(-1).view(torch.uint8).numpy() if flat.numel() else b""
    else:
        array = _numpy_array(name, value)
        dtype, shape = array.dtype.name, array.shape
        raw = array.reshape(-1).view("u1") if array.size else b""
    if dtype not in DTYPES:
        raise UnsupportedError(f"tensor '{name}' has elements of {dtype}, for which there is no name here")
    return NewTensor(name, dtype, shape, lambda: _in_pieces(memoryview(raw)))


def _in_pieces(raw: memoryview) -> Iterator[memoryview]:
    yield raw


def check_whole(name: str, value: Any) -> None:
    """Refuse what is one process's part of a tensor: of torch's FSDP, or of DeepSpeed's ZeRO 3.

    Raises:
        UnsupportedError: it is.
    """
    # A tensor that DeepSpeed has cut up looks like an empty one, but for this.
    if hasattr(value, "full_tensor") or hasattr(value, "local_shards") or hasattr(value, "ds_tensor"):
        raise UnsupportedError(
            f"tensor '{name}' is in pieces on several processes ({type(value).__name__}), and one process has not all "
            "of it: gather it on every process, with torch.distributed.checkpoint.state_dict.get_model_state_dict("
            "model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)); or write the pieces with "
            "torch.distributed.checkpoint.save, and git add its directory"
        )


def _is_torch(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "untyped_storage")


def _numpy_array(name: str, value: Any) -> Array:
    import numpy

    array = numpy.asarray(value, order="C")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.dtype.kind in "OSUMm" or array.dtype.names:
        raise UnsupportedError(f"tensor '{name}' is no array of numbers: {array.dtype}")
    return array


def empty_like(value: Any, used: Any = None) -> Any:
    """Return memory on this machine for a copy of an array or tensor: what was used before, if it fits."""
    import numpy

    if _is_torch(value):
        import torch

        if _is_torch(used) and used.dtype == value.dtype and used.shape == value.shape:
            return used
        return torch.empty(value.shape, dtype=value.dtype, device="cpu")
    array = numpy.asarray(value)
    if isinstance(used, numpy.ndarray) and used.dtype == array.dtype and used.shape == array.shape:
        return used
    return numpy.empty(array.shape, array.dtype)


def copy_into(copy: Any, value: Any) -> None:
    """Copy an array or tensor, bit for bit, into memory from `empty_like`."""
    if _is_torch(value):
        copy.copy_(value.detach())
    else:
        import numpy

        numpy.copyto(copy, value, casting="no")


def memory_of(value: Any) -> tuple[Any, ...]:
    """Return what tells whether an array or tensor has the memory that it had: where, and how it lies there."""
    if _is_torch(value):
        return value.data_ptr(), str(value.device), value.dtype, tuple(value.shape), value.stride()
    found = getattr(value, "__array_interface__", {})
    return found.get("data", (id(value),))[0], found.get("typestr"), found.get("shape"), found.get("strides")


class WritableTensor(NamedTuple):
    """A tensor of the caller's as bytes that can be changed in place."""

    dtype: str
    shape: tuple[int, ...]
    raw: memoryview
    """Its bytes in C order, or those of a copy on this machine; see `write_back`."""
    address: int
    """Where the bytes are: tensors that share their memory have the same."""
    write_back: Callable[[], object] | None
    """Brings a copy's bytes into the tensor; None where `raw` is the tensor's own memory."""


def writable_tensor(name: str, value: Any) -> WritableTensor:
    """Return the bytes of a numpy array or a torch tensor, for changing them in place.

    What is not in this machine's memory, or not in C order, is copied, and has to be written back.

    Raises:
        UnsupportedError: it cannot be written to, is in pieces, or is of a type that has no name here.
    """
    check_whole(name, value)
    if _is_torch(value):
        dtype, shape, raw, write_back = _writable_torch(value)
    else:
        dtype, shape, raw, write_back = _writable_numpy(name, value)
    if dtype not in DTYPES:
        raise UnsupportedError(f"tensor '{name}' has elements of {dtype}, for which there is no name here")
    # Empty tensors may lie anywhere.
    address = raw.__array_interface__["data"][0] if raw.size else id(value)
    return WritableTensor(dtype, shape, raw.data, address, write_back)


def _writable_torch(value: Any) -> tuple[str, tuple[int, ...], Array, Callable[[], object] | None]:
    import torch

    inside = value.detach()
    is_plain = inside.device.type == "cpu" and inside.is_contiguous() and not (inside.is_conj() or inside.is_neg())
    here = inside if is_plain else torch.empty(inside.shape, dtype=inside.dtype, device="cpu").copy_(inside)
    raw = here.reshape(-1).view(torch.uint8).numpy() if here.numel() else torch.empty(0, dtype=torch.uint8).numpy()
    dtype = str(inside.dtype).removeprefix("torch.")
    return dtype, tuple(inside.shape), raw, None if is_plain else lambda: inside.copy_(here)


def _writable_numpy(name: str, value: Any) -> tuple[str, tuple[int, ...], Array, Callable[[], object] | None]:
    import numpy

    if not isinstance(value, numpy.ndarray) or not value.flags.writeable or value.dtype.byteorder == ">":
        raise UnsupportedError(f"tensor '{name}' is no numpy array or torch tensor that can be changed in place")
    is_plain = value.flags.c_contiguous
    here = value if is_plain else numpy.ascontiguousarray(value)
    raw = here.reshape(-1).view("u1") if here.size else numpy.empty(0, "u1")
    return value.dtype.name, value.shape, raw, None if is_plain else lambda: numpy.copyto(value, here)
