"""The side that follows: each new version is applied to the subscriber's own tensors, in place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from thetastore.arrays import WritableTensor, array_form, memory_of, torch_form, writable_tensor
from thetastore.checkpoints.tensors import in_turn
from thetastore.errors import (
    MalformedError,
    NoSuchModelError,
    ObjectCorruptError,
    ObjectMissingError,
)
from thetastore.publishing.differences import (
    FILE_NAME,
    MAX_TABLE_BYTES,
    Difference,
    apply,
    check_fits,
    first_wrong,
    parse_difference,
)
from thetastore.publishing.publisher import difference_of
from thetastore.ref_entries import Entry
from thetastore.refs import Refs
from thetastore.store import Store
from thetastore.versions.names import MODELS, ModelName, parse_name, resolve, version_text
from thetastore.versions.published import anchor_of, is_difference
from thetastore.versions.writing import readers_of

_POLL_S = 1.0


class Module(Protocol):
    """What names its tensors when it is asked, as `torch.nn.Module` does."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return them by name; they are its own memory."""


class Update(NamedTuple):
    """What brought the tensors to a version."""

    name: str
    """Of the version: `policy@v7`."""
    number: int
    message: str
    metadata: Mapping[str, str]
    is_whole: bool
    """Whether a whole version was read, and not only differences."""
    difference_count: int
    """How many differences were applied."""
    difference_bytes: int
    """Length of them all."""


class Subscriber:
    """Follows one model. A context manager, and iterable: each turn waits for a new version and applies it.

    Tensors change only inside of `update`, and so between two turns of the loop: a turn sees one version.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | Store,
        name: str,
        into: Mapping[str, Any] | Module | None = None,
        framework: str = "numpy",
        poll_s: float = _POLL_S,
        storage_options: Mapping[str, object] | None = None,
    ) -> None:
        """Follow a model of a store.

        Args:
            url: of the store; or an open one, which `close` closes.
            name: of the model.
            into: what is changed in place: a `torch.nn.Module`, or numpy arrays or torch tensors by name; those that
                the model does not have stay as they are. None: tensors are made, see `tensors`. A module is asked
                for its tensors at each update, since `module.to(...)` may give them other memory: a whole version is
                read into that. Of tensors, the memory that they have now is changed: of `module.state_dict()` it may
                no longer be the module's.
            framework: of those: `numpy` or `torch`.
            poll_s: how often to ask for a new version.
            storage_options: credentials and the like, as fsspec has them.

        Raises:
            StoreMissingError: a `FileNotFoundError`: there is no store.
            UnsupportedError: a tensor cannot be changed in place.
        """
        self.name = parse_name(name).name
        self.number = 0
        """Of the version that the tensors are of; 0: of none, or they are being changed."""
        self.tensors: dict[str, Any] = {}
        """The tensors, as the user has them."""
        # Of what is on another device, or not in C order, a copy is kept: it is compared, and written back.
        self._targets: dict[str, WritableTensor] = {}
        self._memory: dict[str, tuple[Any, ...]] = {}
        self._given = _asked_for(into)
        self._bind(self._given())
        self._framework = framework
        self._is_given = into is not None
        self._ref = f"{MODELS}/{self.name}"
        self._poll_s = poll_s
        self._store = url if isinstance(url, Store) else Store.open(os.fspath(url), options=storage_options)
        self._refs = Refs(self._store.backend)

    def update(self) -> Update | None:
        """Bring the tensors to the newest version; None if they are of that already.

        All tensors are compared with the digests of the version. If one does not have its digest (it was changed by
        somebody else), or other memory than before, or a difference is no longer there, a whole version is read.

        Raises:
            NoSuchModelError: a `KeyError`: there is no such model yet, or it was deleted.
            MalformedError: a `ValueError`: it has other tensors, types or shapes than `into`.
            ObjectMissingError, ObjectCorruptError: the version cannot be read; the tensors are of none then, and the
                next call begins anew.
            BackendError: the store does not answer; nothing has changed, unless `number` is 0.
        """
        if self._is_given:
            self._follow_memory()
        entries = self._new_entries()
        if not entries and self.number:
            return None
        if entries and self._is_chain(entries):
            try:
                return self._follow(entries)
            except (_Unfit, ObjectMissingError):
                pass  # from an anchor, then
        self.number = 0
        return self._begin()

    def updates(self, timeout_s: float | None = None) -> Iterator[Update]:
        """Yield whenever there was a new version, after it was applied; end when there was none for so long.

        A model that is not there yet is waited for.
        """
        since_s = time.monotonic()
        while True:
            try:
                update = self.update()
            except NoSuchModelError:
                update = None
                if self.number:
                    raise
            if update is not None:
                yield update
                since_s = time.monotonic()
                continue
            left_s = self._poll_s if timeout_s is None else since_s + timeout_s - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(self._poll_s, left_s))

    def __iter__(self) -> Iterator[Update]:
        return self.updates()

    def _follow_memory(self) -> None:
        """Take the tensors that are to be changed as they are now; begin anew where one has other memory."""
        tensors = self._given()
        if {name: memory_of(value) for name, value in tensors.items()} != self._memory:
            self.number = 0
            self._bind(tensors)

    def _bind(self, tensors: Mapping[str, Any]) -> None:
        self.tensors = dict(tensors)
        self._targets = {name: writable_tensor(name, value) for name, value in self.tensors.items()}
        self._memory = {name: memory_of(value) for name, value in self.tensors.items()}

    def _new_entries(self) -> list[Entry]:
        """Return the entries after the one that the tensors are of, as far as there are any without a listing."""
        entries: list[Entry] = []
        while self.number:
            # Two at once: as a rule there is one, and that it is the last costs no time of its own.
            first = self.number + len(entries) + 1
            found = list(self._store.pool.map_bounded(self._entry, range(first, first + 2), self._is_near))
            entries += [entry for entry in found[: found.index(None) if None in found else 2] if entry]
            if None in found:
                break
        if entries and entries[-1].is_tombstone:
            raise NoSuchModelError(f"the model '{self.name}' was deleted from '{self._store.url}'")
        return entries

    def _entry(self, number: int) -> Entry | None:
        try:
            return self._refs.read(self._ref, number)
        except FileNotFoundError:
            return None

    def _is_near(self, _: int) -> bool:
        return not self._store.backend.is_remote

    def _is_chain(self, entries: list[Entry]) -> bool:
        """Tell whether each has a difference from the one before, and together they are less than a whole version."""
        files = [difference_of(entry) for entry in entries]
        difference_bytes = sum(file.file_bytes for file in files if file)
        return all(files) and difference_bytes < sum(target.raw.nbytes for target in self._targets.values())

    def _follow(self, entries: list[Entry], is_whole: bool = False) -> Update:
        """Apply differences. Raises `_Unfit` where they do not lead from these tensors to that version."""
        differences = [self._difference(entry) for entry in entries]  # all is here before anything changes
        targets = self._targets
        for difference, entry in zip(differences, entries, strict=True):
            check_fits(difference, targets, _where(entry))
        self.number = 0
        for difference in differences:
            apply(difference, targets, self._store.pool)
        if differences and first_wrong(differences[-1], targets, self._store.pool) is not None:
            raise _Unfit
        _write_back(targets)
        return self._updated(entries[-1], entries, is_whole)

    def _begin(self) -> Update:
        """Read the newest whole version, and follow from there."""
        latest = resolve(self._store, ModelName(self.name))
        number = anchor_of(latest) or latest.number
        anchor = latest if number == latest.number else self._refs.read(self._ref, number)
        if is_difference(anchor):
            raise MalformedError(f"{_where(anchor)} is said to be a whole version, and is none")
        self._read_whole(anchor)
        rest = [self._refs.read(self._ref, after) for after in range(number + 1, latest.number + 1)]
        if not rest:
            return self._updated(anchor, [], is_whole=True)
        try:
            return self._follow(rest, is_whole=True)
        except _Unfit:
            raise ObjectCorruptError(
                str(rest[-1].files[0].manifest_digest), FILE_NAME, "leads to other tensors than it says"
            ) from None

    def _updated(self, entry: Entry, applied: list[Entry], is_whole: bool) -> Update:
        self.number = entry.number
        files = [file for file in map(difference_of, applied) if file]
        return Update(
            f"{self.name}@{version_text(entry.number)}",
            entry.number,
            entry.message,
            entry.metadata,
            is_whole,
            len(files),
            sum(file.file_bytes for file in files),
        )

    def _difference(self, entry: Entry) -> Difference:
        file = difference_of(entry)
        if file is None:
            raise MalformedError(f"{_where(entry)} has no difference from the version before")
        manifest = self._store.get_manifest(file.manifest_digest)
        whole_bytes = sum(target.raw.nbytes for target in self._targets.values())
        if manifest.file_bytes > 2 * whole_bytes + MAX_TABLE_BYTES:
            raise MalformedError(f"{_where(entry)} is a difference of {manifest.file_bytes} bytes")
        raw = bytearray(manifest.file_bytes)
        at = 0
        for piece in self._store.read_file(manifest, file.manifest_digest):
            raw[at : at + piece.nbytes] = piece
            at += piece.nbytes
        difference = parse_difference(memoryview(raw), _where(entry))
        if difference.base_number != entry.number - 1:
            raise MalformedError(f"{_where(entry)} is a difference from version {difference.base_number}")
        return difference

    def _read_whole(self, entry: Entry) -> None:
        """Read all tensors of a version into ours."""
        files = [file for file in entry.files if file.path != FILE_NAME]
        readers = readers_of(self._store, files)
        if not self._is_given:
            self._make([(tensor.name, tensor.dtype, tensor.shape) for r in readers for tensor in r.manifest.tensors])
        targets = self._targets
        for reader in readers:
            for tensor in reader.manifest.tensors:
                target = targets.get(tensor.name)
                if target is None or (target.dtype, target.shape) != (tensor.dtype, tensor.shape):
                    raise MalformedError(
                        f"'{self.name}' has a tensor '{tensor.name}' of {tensor.dtype} {tensor.shape}, and there is "
                        + (f"one of {target.dtype} {target.shape}" if target else "none")
                    )
        wanted = ((reader, tensor.name) for reader in readers for tensor in reader.manifest.tensors)
        for reader, name in in_turn(wanted):  # of all files together: each by itself would wait for its first chunks
            reader.read(name, targets[name].raw)
        _write_back(targets)

    def _make(self, wanted: list[tuple[str, str, tuple[int, ...]]]) -> None:
        import numpy

        known = {name: target[:2] for name, target in self._targets.items()}
        if known == {name: (dtype, shape) for name, dtype, shape in wanted}:
            return
        made = {}
        for name, dtype, shape in wanted:
            array = numpy.zeros(array_form(dtype, shape)[1], array_form(dtype, shape)[0])
            made[name] = torch_form(dtype, array) if self._framework == "torch" else array
        self._bind(made)

    def close(self) -> None:
        """Free threads and files; the tensors stay."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Unfit(Exception):  # noqa: N818 - an answer, never seen outside
    """The differences do not lead from these tensors to the version."""


def subscribe(
    url: str | os.PathLike[str],
    name: str,
    into: Mapping[str, Any] | Module | None = None,
    framework: str = "numpy",
    poll_s: float = _POLL_S,
    storage_options: Mapping[str, object] | None = None,
) -> Subscriber:
    """Follow a model; see `Subscriber` for the arguments.

    for update in subscribe("s3://bucket/zoo", "policy", into=model): ...
    """
    return Subscriber(url, name, into, framework, poll_s, storage_options)


def _asked_for(into: Mapping[str, Any] | Module | None) -> Callable[[], Mapping[str, Any]]:
    """Return what gives the tensors that are to be changed."""
    if into is not None and not isinstance(into, Mapping):
        return into.state_dict
    tensors = dict(into or {})
    return lambda: tensors


def _write_back(targets: Mapping[str, WritableTensor]) -> None:
    for target in targets.values():
        if target.write_back is not None:
            target.write_back()


def _where(entry: Entry) -> str:
    return f"entry {entry.number} of '{entry.name}'"
