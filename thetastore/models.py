"""Models: mappings from names to lazy tensors, of one file or of several that make up one model.

    model = thetastore.open("/srv/weights#<manifest digest>")
    model["lm_head.weight"][:128]                 # reads the chunks that hold these rows
    model.select("model.layers.[0-3].*").state_dict("torch")

Nothing is read before it is asked for. A handle (a model, a selection, a tensor) may be pickled, used by several
threads, and used on both sides of a fork: each process opens the store for itself.
"""

from __future__ import annotations

import _thread
import math
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

from thetastore.arrays import array_form, jax_form, parse_index, read_array, read_slice, torch_form
from thetastore.checkpoints.joining import joined
from thetastore.checkpoints.tensors import TensorReader, in_turn
from thetastore.digest import Digest
from thetastore.errors import MalformedError, NoSuchTensorError, NotThisFormat, ObjectCorruptError, ObjectMissingError
from thetastore.formats.safetensors import metadata_texts
from thetastore.manifest import Tensor as Entry
from thetastore.selection import glob_wants, is_glob
from thetastore.store import Store
from thetastore.tables import count_text, shape_text, size_text

if TYPE_CHECKING:
    import numpy

    from thetastore.arrays import Array

    ArrayType = numpy.dtype[Any]

T = TypeVar("T")
Pattern = str | re.Pattern[str] | Callable[[str], bool] | Iterable[str]
FRAMEWORKS = {"np": "numpy", "numpy": "numpy", "pt": "torch", "torch": "torch", "jax": "jax", "flax": "jax"}
"""Names of frameworks, those that safetensors uses among them."""


class Session(Protocol):
    """What one process has open of a model."""

    readers: Sequence[TensorReader]
    """One for each file of the model."""

    remedy: str
    """The command that mends a damaged store of it."""

    def bring(self, names: Mapping[int, Sequence[str]]) -> None:
        """Fetch the chunks of some tensors of files, by the files' numbers; raise where they cannot be had."""


class Origin(Protocol):
    """Where a model comes from; pickled with every handle."""

    def open(self) -> Session:
        """Open it in this process."""

    def __str__(self) -> str:
        """Return what people call it."""


class StoreOrigin(NamedTuple):
    """Files of a store by their manifests."""

    url: str
    manifest_digests: tuple[Digest, ...]

    def open(self) -> Session:
        """Open the store in this process."""
        return StoreSession(Store.open(self.url, expected=self.manifest_digests), self.manifest_digests)

    def __str__(self) -> str:
        return f"{self.url}#{self.manifest_digests[0]}"


class StoreSession:
    """Files of a store, open in one process."""

    def __init__(self, store: Store, digests: Iterable[Digest], paths: Sequence[str] = ()) -> None:
        """Open files; where their paths are given, those that name tensors in others are joined with these."""
        self._store = store
        wanted = list(digests)
        manifests = store.pool.map_bounded(store.get_manifest, wanted, lambda _: not store.backend.is_remote)
        readers = [store.tensors(manifest, digest) for manifest, digest in zip(manifests, wanted, strict=True)]
        self.readers: Sequence[TensorReader] = joined(readers, paths) if paths else readers
        self.remedy = f"thetastore mend {shlex.quote(store.url)}, and --from another store that has it"

    def bring(self, names: Mapping[int, Sequence[str]]) -> None:
        """Do nothing: there is no other place to ask."""


class Handle:
    """An origin, opened once in each process. Picklable, thread-safe, and safe to fork."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._opened = _Opened(os.getpid())

    def session(self) -> Session:
        """Return what this process has open, opening it if need be."""
        opened = self._opened
        if opened.pid != os.getpid():
            # After a fork the threads of the parent are gone, and with them who would release its locks.
            self._opened = opened = _Opened(os.getpid())
        with opened.lock:
            if opened.session is None:
                opened.session = self.origin.open()
            return opened.session

    def __reduce__(self) -> tuple[type[Handle], tuple[Origin]]:
        return Handle, (self.origin,)


class _Opened:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.lock = _thread.allocate_lock()
        self.session: Session | None = None


class Tensor:
    """A tensor that is read when it is asked for: `tensor[:128]`, `numpy.asarray(tensor)`, `tensor.torch()`."""

    __slots__ = ("_entry", "_handle", "_number")

    def __init__(self, handle: Handle, number: int, entry: Entry) -> None:
        self._handle = handle
        self._number = number
        self._entry = entry

    @property
    def name(self) -> str:
        """Name in its file."""
        return self._entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, in elements."""
        return self._entry.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._entry.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._entry.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in C order."""
        return self._entry.raw_bytes

    @property
    def dtype(self) -> ArrayType:
        """The numpy type of `numpy.asarray(tensor)`; see `dtype_name` for what the file says."""
        return array_form(self._entry.dtype, self._entry.shape)[0]

    @property
    def dtype_name(self) -> str:
        """Our name of the element type: `bfloat16`, `float8_e4m3fn`, `gguf_q4_k`."""
        return self._entry.dtype

    @property
    def digest(self) -> str:
        """BLAKE3 of the bytes in C order, 64 hexadecimal digits: equal tensors have equal ones.

        The tensor is read for it where the file that holds it does not know of it: ONNX's external data, TensorFlow.
        """
        return str(self._entry.digest or self._with_reader(lambda reader: reader.digest(self.name)))

    @property
    def attributes(self) -> dict[str, str]:
        """What Zarr keeps beside the array: what the elements are, and the digest, if it is known without reading."""
        known = {"theta.digest": str(self._entry.digest)} if self._entry.digest else {}
        return {"theta.dtype": self.dtype_name, **known}

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without axes has no length")
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """Return a part as a numpy array of its own; only the chunks that hold it are read.

        Integers, slices (any step) and `...`; each must lie within the tensor.

        Raises:
            OutOfRangeError: an `IndexError`: it does not.
            TypeError: an index of another kind.
        """
        wanted = parse_index(array_form(self._entry.dtype, self._entry.shape)[1], index)
        found = self._with_reader(lambda reader: read_slice(reader, self.name, wanted))
        return found[()] if not found.ndim else found

    def numpy(self) -> Array:
        """Return the whole tensor, proven by its digest, in writable memory of its own."""
        return self._with_reader(lambda reader: read_array(reader, self.name))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a tensor in a store cannot be had without a copy")
        found = self.numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def torch(self, device: Any = "cpu") -> Any:
        """Return a torch tensor over memory of its own."""
        found = torch_form(self._entry.dtype, self.numpy())
        return found if str(device) == "cpu" else found.to(device)

    def jax(self) -> Any:
        """Return a jax array."""
        return jax_form(self.numpy())

    def to(self, framework: str, device: Any = "cpu") -> Any:
        """Return the tensor as one of a framework: `numpy`, `torch` or `jax`."""
        kind = framework_of(framework)
        return self.torch(device) if kind == "torch" else self.jax() if kind == "jax" else self.numpy()

    def __repr__(self) -> str:
        return f"<tensor '{self.name}' {self.dtype_name} {shape_text(self.shape)}, {size_text(self.nbytes)}>"

    def _with_reader(self, act: Callable[[TensorReader], T]) -> T:
        session = self._handle.session()
        reader = session.readers[self._number]
        try:
            return act(reader)
        except ObjectMissingError:
            session.bring({self._number: [self.name]})
            return act(reader)
        except ObjectCorruptError as error:
            error.remedy = session.remedy
            raise


class _Place(NamedTuple):
    number: int
    entry: Entry

    @property
    def bytes_of_file(self) -> tuple[Any, ...]:
        """What tied tensors have in common: all but their names."""
        return self.number, *self.entry[1:]

    @property
    def order(self) -> tuple[int, int]:
        """Where it lies in the model."""
        return self.number, self.entry.offset


class Model(Mapping[str, Tensor]):
    """The tensors of a model by name, in the order of their names. Nothing is read before it is asked for."""

    def __init__(self, origin: Origin, handle: Handle | None = None, names: Sequence[str] | None = None) -> None:
        """Open a model; for an open one, or a part of it, a handle and names are given."""
        self._handle = handle or Handle(origin)
        self._places = _places_of(self._handle.session().readers)
        if names is not None:
            self._places = {name: self._places[name] for name in names}

    @property
    def origin(self) -> Origin:
        """Where it comes from."""
        return self._handle.origin

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(place.entry.raw_bytes for place in self._places.values())

    @property
    def metadata(self) -> dict[str, str]:
        """What a safetensors file says of itself; empty for other formats."""
        found: dict[str, str] = {}
        for reader in self._handle.session().readers:
            found |= _metadata_of(reader)
        return found

    def __getitem__(self, name: str) -> Tensor:
        try:
            return Tensor(self._handle, *self._places[name])
        except KeyError:
            raise NoSuchTensorError(str(name), tuple(self._places)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def select(self, *patterns: Pattern) -> Self:
        """Return the model with only the tensors that any pattern tells of.

        Args:
            *patterns: a glob (`*` matches dots, too), a compiled regular expression (which must match the whole
                name), a function of a name, or names.

        Raises:
            NoSuchTensorError: a `KeyError`: a pattern tells of none, or a name is none; says which names are near.
        """
        chosen: set[str] = set()
        for pattern in patterns:
            chosen.update(self._matching(pattern))
        return type(self)(self.origin, self._handle, [name for name in self._places if name in chosen])

    def _matching(self, pattern: Pattern) -> Iterable[str]:
        if isinstance(pattern, str | re.Pattern) or callable(pattern):
            found = list(filter(_wants(pattern), self._places))
            if not found:
                # A function says nothing of what it is after.
                names = () if callable(pattern) else tuple(self._places)
                raise NoSuchTensorError(_shown(pattern), names, not isinstance(pattern, str) or is_glob(pattern))
            return found
        return [self[name].name for name in pattern]  # raises for the first that is not there

    def state_dict(self, framework: str = "numpy", device: Any = "cpu") -> dict[str, Any]:
        """Return all tensors, read in the order of the file.

        Tensors that lie at one place in the file (tied weights) come back as one array.

        Args:
            framework: `numpy`, `torch` or `jax` (or `np`, `pt`, `flax`).
            device: for torch.
        """
        framework_of(framework)
        self.bring()
        distinct = {place.bytes_of_file: name for name, place in self._places.items()}
        order = sorted(distinct.values(), key=lambda name: self._places[name].order)
        readers = self._handle.session().readers
        shared: dict[tuple[Any, ...], Any] = {}
        for _, name in in_turn((readers[self._places[name].number], name) for name in order):
            shared[self._places[name].bytes_of_file] = self[name].to(framework, device)
        return {name: shared[place.bytes_of_file] for name, place in self._places.items()}

    def bring(self) -> None:
        """Fetch what a local store lacks of all tensors at once, where the model has a place to fetch from."""
        names: dict[int, list[str]] = {}
        for name, place in self._places.items():
            names.setdefault(place.number, []).append(name)
        self._handle.session().bring(names)

    def reader_of(self, name: str) -> TensorReader:
        """Return what reads the raw bytes of a tensor, and tells where its chunks are."""
        return self._handle.session().readers[self._places[self[name].name].number]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.origin, self._handle, tuple(self._places))

    def __repr__(self) -> str:
        return f"<model '{self.origin}': {count_text(len(self), 'tensor')}, {size_text(self.nbytes)}>"


def framework_of(name: str) -> str:
    """Return `numpy`, `torch` or `jax` for any name of theirs.

    Raises:
        ValueError: it is none.
    """
    try:
        return FRAMEWORKS[name]
    except KeyError:
        raise ValueError(f"'{name}' is not a framework: {', '.join(FRAMEWORKS)}") from None


def open(url: str | os.PathLike[str], digest: str | None = None) -> Model:
    """Open a model in a store.

    >>> import io, tempfile, thetastore
    >>> content = (
    ...     (72).to_bytes(8, "little")
    ...     + b'{"w":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}'.ljust(72)
    ...     + bytes([1, 2, 3, 4])
    ... )
    >>> directory = tempfile.mkdtemp()
    >>> with thetastore.Store.open(directory, create=True) as store:
    ...     digest, _ = store.put_file(io.BytesIO(content))
    >>> model = thetastore.open(directory, digest)
    >>> list(model), model["w"].shape
    (['w'], (2, 2))
    >>> model["w"][1]
    array([3, 4], dtype=uint8)

    Args:
        url: of the store, with `#` and the manifest's digest after it unless `digest` is given.
        digest: of the manifest, 64 hexadecimal digits.

    Raises:
        StoreMissingError: a `FileNotFoundError`: there is no store.
        ObjectMissingError: a `KeyError`: the store has no such manifest.
        MalformedError: a `ValueError`: the digest is none.
    """
    place, mark, after = os.fspath(url).rpartition("#")
    if digest is None:
        if not mark:
            raise MalformedError(f"'{os.fspath(url)}' names a store, and no manifest in it: add '#' and its digest")
        return Model(StoreOrigin(place, (Digest.parse(after),)))
    return Model(StoreOrigin(os.fspath(url), (Digest.parse(str(digest)),)))


def _places_of(readers: Sequence[TensorReader]) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for number, reader in enumerate(readers):
        for entry in reader.manifest.tensors:
            places.setdefault(entry.name, _Place(number, entry))
    return places if len(readers) == 1 else dict(sorted(places.items()))


def _shown(pattern: str | re.Pattern[str] | Callable[[str], bool]) -> str:
    if isinstance(pattern, re.Pattern):
        return pattern.pattern
    return pattern if isinstance(pattern, str) else getattr(pattern, "__qualname__", repr(pattern))


def _wants(pattern: str | re.Pattern[str] | Callable[[str], bool]) -> Callable[[str], bool]:
    if isinstance(pattern, str):
        matches = glob_wants([pattern])
        return lambda name: name == pattern or matches(name)
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.fullmatch(name) is not None
    return pattern


def _metadata_of(reader: TensorReader) -> dict[str, str]:
    if reader.manifest.format != "safetensors":
        return {}
    try:
        found = metadata_texts(reader.read_file)
        return {str(name): str(value) for name, value in found.items()}
    except (NotThisFormat, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise MalformedError(
            f"manifest '{reader.manifest_digest}' speaks of a safetensors file, and is wrong"
        ) from error
