"""What a pickle of torch.save means: which tensors it holds, under which names, in which storages.

Reads the inert values of `pickle_machine`. The functions by which torch rebuilds tensors are understood by their
names and arguments; every other call is a record whose contents are walked like those of a dict.

Source: torch/_utils.py (`_rebuild_*`), torch/_tensor.py (`_rebuild_from_type_v2`), torch/serialization.py
(`persistent_id`), as of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from thetastore.dtypes import DTYPES
from thetastore.errors import NotThisFormat
from thetastore.formats.names import Names
from thetastore.formats.pickle_machine import Call, Global, Mapping, Pickle, Reference
from thetastore.layout import MAX_DIMENSIONS, MAX_TENSORS

MAX_DEPTH = 256
"""How many containers may lie around a tensor. Each adds to the names below it."""
_FREE_VISITS = 500_000
_MAX_VISITS = 8_000_000
"""How many values are looked at: that many, or one a byte of the pickle where that is more, up to the maximum. A pickle
that asks for more shares its values so as to multiply them. A million takes 0.6 s."""
_MAX_MENTIONS = 4
"""How many descriptions of one storage are compared with the next; torch writes the same one each time."""
_MAX_WRAPPERS = 16
"""How many rebuild calls may lie around one tensor; torch nests two."""


class Storage(NamedTuple):
    """A run of bytes that tensors view."""

    key: str
    """Name of its entry in the archive."""
    dtype: str | None
    """Element type, None where torch does not say or where it has no name here."""
    raw_bytes: int | None
    """None where the width of its elements is unknown."""
    element_count: int
    """As torch counts: bytes, where it does not say of which type they are."""


class StoredTensor(NamedTuple):
    """A tensor as torch describes it: a view of a storage."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    """Byte offset in the storage of the first element."""


_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
}
"""Quantised tensors are listed as the integers that are in the file."""

_DTYPE_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "int": "int32", "long": "int64"}
_PACKED_PAIRS = {"float4_e2m1fn_x2": "float4_e2m1fn"}
"""Types of torch that count two elements as one; here, as in safetensors, the last axis is twice as long."""

_PLAIN_VIEWS = {"_rebuild_tensor": 4, "_rebuild_tensor_v2": 6, "_rebuild_tensor_v3": 7, "_rebuild_qtensor": 7}
"""Functions whose arguments begin with storage, offset, size and stride, and how many arguments they need."""
_WRAPPERS = {"_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_device_tensor_from_cpu_tensor"}
"""Functions whose first argument is the tensor itself."""
_SUBCLASS_WRAPPERS = {"_rebuild_from_type", "_rebuild_from_type_v2"}
"""Functions that get a function, a class, the function's arguments, and a state."""


def storage_of(reference: Reference) -> Storage | None:
    """Return the storage that a persistent id stands for; None for one without bytes, or of another kind.

    Raises:
        NotThisFormat: it calls itself a storage and is not.
    """
    identity = reference.identity
    if type(identity) is not tuple or not identity or type(identity[0]) is not str or identity[0] != "storage":
        return None
    # Before zip files there was a sixth part, for views of storages, which torch has not written since 0.4.
    known = len(identity) == 5 or (len(identity) == 6 and identity[5] is None)
    _, kind, key, location, count = identity[:5] if known else (None,) * 5
    if type(kind) is not Global or type(key) is not str or type(location) is not str or not is_length(count):
        raise NotThisFormat("a persistent id of the pickle is not a storage of torch")
    assert type(count) is int
    if location == "meta":
        return None
    if kind.name == "UntypedStorage":
        return Storage(key, None, count, count)
    dtype = _STORAGE_DTYPES.get(kind.name) if kind.module in ("torch", "torch.cuda") else None
    return Storage(key, dtype, count * DTYPES[dtype].bits // 8 if dtype else None, count)


def storages_of(pickle: Pickle) -> dict[str, list[Storage]]:
    """Return every storage that a pickle mentions, by key, as it is described each time.

    Raises:
        NotThisFormat: something calls itself a storage and is not.
    """
    storages: dict[str, list[Storage]] = {}
    for reference in pickle.references:
        storage = storage_of(reference)
        if storage is not None:
            mentions = storages.setdefault(storage.key, [])
            if storage not in mentions[:_MAX_MENTIONS]:
                mentions.append(storage)
    return storages


def named_tensors(
    pickle: Pickle, names: Names | None = None, prefix: tuple[str, ...] = ()
) -> list[tuple[str, StoredTensor]]:
    """Return every tensor that can be reached, by each path that leads to it, in the order of the pickle.

    A name is the path joined by dots, as `names` allows it; `prefix` goes before each path.

    Raises:
        NotThisFormat: a call of a torch function that torch would refuse, or a bound was exceeded.
    """
    found: list[tuple[str, StoredTensor]] = []
    visit_limit = min(max(_FREE_VISITS, pickle.nbytes), _MAX_VISITS)
    names = names or Names(".")
    for path, tensor in _walk(pickle.root, visit_limit):
        found.append((names.claim((*prefix, *path)), tensor))
        if len(found) > MAX_TENSORS:
            raise NotThisFormat(f"more than {MAX_TENSORS} tensors")
    return found


def _walk(root: object, visit_limit: int) -> Iterator[tuple[list[str], StoredTensor]]:
    """Yield path and tensor, depth first. The path is valid until the next step.

    Plain containers are walked once on each path to them, objects once: graphs of objects have more paths than
    anybody wants names, and their tensors already have one.
    """
    path: list[str] = []
    levels: list[tuple[Iterator[tuple[str, object]], object]] = [(iter([("", root)]), None)]
    open_ids: set[int] = set()
    visit_count = 0
    while levels:
        children, owner = levels[-1]
        for key, child in children:
            visit_count += 1
            if visit_count > visit_limit:
                raise NotThisFormat(f"there are more than {visit_limit} paths to the values of the pickle")
            if type(child) not in _CONTAINERS or id(child) in open_ids:
                continue
            if len(levels) > 1:
                path.append(key)
            tensor = _tensor_of(child) if type(child) is Call else None
            if tensor is not None:
                yield path, tensor
            if len(levels) > MAX_DEPTH + 1:
                raise NotThisFormat(f"the state of the pickle nests more than {MAX_DEPTH} deep")
            open_ids.add(id(child))
            levels.append((_children(child), child))
            break
        else:
            levels.pop()
            if len(levels) > 1:
                path.pop()
            if not _is_object(owner):
                open_ids.discard(id(owner))


_CONTAINERS = frozenset((Mapping, Call, list, tuple))


def _is_object(value: object) -> bool:
    return type(value) is Call and value.states is not None and not _is_named(value.function, "collections", _DICTS)


_DICTS = frozenset(("OrderedDict", "defaultdict", "Counter"))


def _children(value: object) -> Iterator[tuple[str, object]]:
    if type(value) is Mapping:
        yield from _items(value.pairs)
    elif type(value) in (list, tuple):
        yield from _elements(value)
    elif type(value) is Call:
        yield from _parts(value)


def _elements(values: object) -> Iterator[tuple[str, object]]:
    assert isinstance(values, list | tuple)
    return ((str(index), child) for index, child in enumerate(values))


def _items(pairs: list[tuple[object, object]]) -> Iterator[tuple[str, object]]:
    """Yield key and value of each pair; a key that is set again has its last value at its first place."""
    last: dict[tuple[type, str], tuple[str, object]] = {}
    for index, (key, value) in enumerate(pairs):
        text = _key_text(key, index)
        last[type(key), text] = (text, value)
    return iter(last.values())


def _key_text(key: object, index: int) -> str:
    if type(key) is str:
        return key
    if type(key) in (int, bool, type(None)) and (type(key) is not int or key.bit_length() <= 64):
        return str(key)
    if type(key) is bytes:
        return key.decode("latin-1")
    return f"[{index}]"


def _parts(call: Call) -> Iterator[tuple[str, object]]:
    """Yield what lies in an object: arguments that are not understood, items, pairs, states."""
    known = _known_function(call.function)
    arguments = call.arguments if type(call.arguments) is tuple else ()
    if known in _SUBCLASS_WRAPPERS or known == "_rebuild_parameter_with_state":
        yield from _attributes(arguments[3] if len(arguments) > 3 else None)
    elif _is_named(call.function, "collections", _DICTS):
        yield from _items(_pairs_of_lists(arguments))
    elif known is None:
        yield from _elements(arguments)
    if call.items:
        yield from _elements(call.items)
    if call.pairs:
        yield from _items(call.pairs)
    for state in call.states or ():
        yield from _attributes(state)


def _pairs_of_lists(arguments: tuple[object, ...]) -> list[tuple[object, object]]:
    """Return what a dict is made from: Python 2 pickled an OrderedDict as a list of `[key, value]`."""
    pairs: list[tuple[object, object]] = []
    for argument in arguments:
        if type(argument) is Mapping:
            pairs.extend(argument.pairs)
        elif type(argument) is list:
            pairs.extend((pair[0], pair[1]) for pair in argument if type(pair) in (list, tuple) and len(pair) == 2)
    return pairs


def _attributes(state: object) -> Iterator[tuple[str, object]]:
    """Yield the attributes that a state sets: a dict, or a pair of dicts of which the second is for slots.

    A state that is itself an object is one attribute, so that states of states are a level deeper each.
    """
    if type(state) is tuple and len(state) == 2 and all(part is None or type(part) is Mapping for part in state):
        for part in state:
            yield from _children(part)
    elif type(state) is Call:
        yield "__state__", state
    else:
        yield from _children(state)


def _is_named(function: object, module: str, names: frozenset[str]) -> bool:
    return type(function) is Global and function.module == module and function.name in names


def _known_function(function: object) -> str | None:
    """Return the name of a rebuild function that is understood here."""
    if type(function) is not Global or function.module not in ("torch._utils", "torch._tensor"):
        return None
    known = function.name in _PLAIN_VIEWS or function.name in _WRAPPERS or function.name in _SUBCLASS_WRAPPERS
    return function.name if known else None


def _tensor_of(call: Call) -> StoredTensor | None:
    """Return the tensor that a call would rebuild; None where it rebuilds something else, or one without bytes."""
    value: object = call
    for _ in range(_MAX_WRAPPERS):
        if type(value) is not Call or type(value.arguments) is not tuple:
            return None
        known, arguments = _known_function(value.function), value.arguments
        if known is None or not arguments:
            return None
        if known in _PLAIN_VIEWS:
            return _view(known, arguments)
        if known in _WRAPPERS:
            value = arguments[0]
        elif len(arguments) > 2:
            value = Call(arguments[0], arguments[2])
    return None


def _view(function: str, arguments: tuple[object, ...]) -> StoredTensor | None:
    if len(arguments) < _PLAIN_VIEWS[function]:
        raise NotThisFormat(f"'{function}' is called with {len(arguments)} arguments")
    reference, offset, shape, strides = arguments[:4]
    if type(reference) is not Reference:
        raise NotThisFormat(f"'{function}' is called without a storage")
    storage = storage_of(reference)
    if storage is None:
        return None
    has_dtype = function == "_rebuild_tensor_v3"
    dtype, pair = dtype_of(arguments[6]) if has_dtype else (storage.dtype, False)
    metadata = arguments[6 + has_dtype] if function != "_rebuild_qtensor" and len(arguments) > 6 + has_dtype else None
    lengths, steps = lengths_of(shape), lengths_of(strides)
    if len(lengths) != len(steps) or not is_length(offset):
        raise NotThisFormat(f"'{function}' is called with a shape, strides and an offset that do not fit")
    assert type(offset) is int
    if dtype is None or _flips_bits(metadata):
        return None
    return _checked_view(storage, dtype, pair, lengths, steps, offset)


def _checked_view(
    storage: Storage, dtype: str, pair: bool, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> StoredTensor | None:
    """Hold a view against the length of its storage; `pair` counts two packed elements as one."""
    element_bytes = DTYPES[dtype].bits * (1 + pair) // 8
    reach = 0 if 0 in shape else 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if storage.raw_bytes is None or (reach and (offset + reach) * element_bytes > storage.raw_bytes):
        raise NotThisFormat(f"a tensor reaches beyond its storage '{storage.key[:80]}'")
    place = min(offset * element_bytes, storage.raw_bytes)
    if not pair:
        return StoredTensor(storage, dtype, shape, strides, place)
    if not shape or strides[-1] != 1:
        return None
    doubled = (*shape[:-1], 2 * shape[-1])
    return StoredTensor(storage, dtype, doubled, (*(2 * step for step in strides[:-1]), 1), place)


def dtype_of(value: object) -> tuple[str | None, bool]:
    """Return the name of a `torch.dtype`, and whether torch counts two of its elements as one."""
    if type(value) is not Global or value.module != "torch":
        raise NotThisFormat("a tensor of the pickle has no dtype of torch")
    if value.name in _PACKED_PAIRS:
        return _PACKED_PAIRS[value.name], True
    name = _DTYPE_ALIASES.get(value.name, value.name)
    return (name if name in DTYPES and DTYPES[name].bits >= 8 else None), False


def _flips_bits(metadata: object) -> bool:
    """Tell whether a tensor is lazily conjugated or negated: its bytes in the file are then not its values."""
    return type(metadata) is Mapping and any(value is not False for _, value in metadata.pairs)


def is_length(value: object) -> bool:
    """Tell whether a value of a pickle is a length or an offset of something that could be."""
    return type(value) is int and 0 <= value < 2**62


def lengths_of(values: object) -> tuple[int, ...]:
    """Return a tuple or `torch.Size` of non-negative integers."""
    if type(values) is Call and _is_named(values.function, "torch", frozenset(("Size",))):
        values = values.arguments[0] if type(values.arguments) is tuple and len(values.arguments) == 1 else None
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS or not all(map(is_length, values)):
        raise NotThisFormat("a shape or strides that are not a few non-negative integers")
    return tuple(values)
