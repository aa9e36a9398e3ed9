"""The side that changes weights: each version is stored as what it has more than the one before."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from thetastore.arrays import WritableTensor, copy_into, empty_like, new_tensor, writable_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.digest import Buffer
from thetastore.errors import BackendError, MalformedError
from thetastore.publishing.differences import FILE_NAME, PIECE_BYTES, Changed, DifferenceSource, changes_of
from thetastore.ref_entries import Draft, Entry, RefFile
from thetastore.store import Store
from thetastore.versions.history import Versions, base_in
from thetastore.versions.names import MODELS, parse_name
from thetastore.versions.published import ANCHOR, ANCHOR_NUMBER, DIFFERENCE, KIND, anchor_of, is_difference

WHOLE_FILE = "model.safetensors"


class Published(NamedTuple):
    """A version that is in the store."""

    number: int
    is_anchor: bool
    """Whether it is there as a whole."""
    difference_bytes: int
    """Length of the difference from the version before; 0 if there is none."""
    is_new: bool = True
    """False where nothing has changed: then this is the version before."""

    @property
    def version(self) -> str:
        """As it is written: `v7`."""
        return f"v{self.number}"


class _Compared(NamedTuple):
    """All tensors, and what is stored of those that have changed."""

    tensors: list[Changed]
    stored: list[Buffer]


class Publisher:
    """Publishes versions of one model. A context manager; for one thread, and the only publisher of its model.

    It keeps a copy of the tensors in the memory of this machine, which the next version is compared with.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | Store,
        name: str,
        anchor_every: int = 16,
        keep: int | None = None,
        author: str = "",
        storage_options: Mapping[str, object] | None = None,
    ) -> None:
        """Publish to a store.

        Args:
            url: of the store, which must be there; or an open one, which `close` closes.
            name: of the model.
            anchor_every: each so many versions, one is stored as a whole: where those who join late begin.
            keep: let go of versions but for the last so many (and those up to the anchor before them); None: of none.
            author: who.
            storage_options: credentials and the like, as fsspec has them.

        Raises:
            StoreMissingError: a `FileNotFoundError`: there is no store.
            ValueError: a number is less than 1.
        """
        if anchor_every < 1 or (keep is not None and keep < 1):
            raise ValueError("anchor_every and keep count versions: at least 1")
        self.name = parse_name(name).name
        self._ref = f"{MODELS}/{name}"
        self._anchor_every = anchor_every
        self._keep = keep
        self._author = author
        self._store = url if isinstance(url, Store) else Store.open(os.fspath(url), options=storage_options)
        self._versions = Versions(self._store)
        self._last: Entry | None = None
        self._anchors: list[int] = []
        self._kept: dict[str, Any] = {}
        self._is_in_step = False
        """Whether what is kept is what the last entry says."""
        self._is_closed = False

    def publish(self, state_dict: Mapping[str, Any], message: str = "", metadata: Mapping[str, str] = {}) -> Published:
        """Store the next version; durable, and there for subscribers, when this returns.

        The first one, and one with other names, types or shapes than before, is a whole version.

        Args:
            state_dict: tensors by name: numpy arrays or torch tensors. They must not change before this returns.
            message: why.
            metadata: what else is to be known of the version.

        Raises:
            ValueError: it was closed.
            UnsupportedError: a value is no array of numbers.
            BackendError: the store cannot be written, or another publisher has written a version meanwhile. The next
                version is stored as a whole then.
        """
        if self._is_closed:
            raise ValueError(f"the publisher of '{self.name}' is closed")
        reserved = {KIND, ANCHOR_NUMBER}.intersection(metadata)
        if reserved:
            raise MalformedError(f"'{reserved.pop()}' in the metadata is what a publisher says itself")
        is_in_step, self._is_in_step = self._is_in_step and list(self._kept) == sorted(state_dict), False
        compared = self._compared(state_dict) if is_in_step else None
        if compared is None:
            self._begin()
            self._copy(state_dict)
        elif not compared.stored:
            self._is_in_step = True
            assert self._last is not None, "it was published"
            return Published(self._last.number, False, 0, False)
        published = self._put(compared, Draft((), message, self._author, metadata))
        self._is_in_step = True
        return published

    def _begin(self) -> None:
        """Learn what was published before, by us or somebody else."""
        self._last = self._versions.refs.latest(self._ref)
        last = self._last
        newest = (anchor_of(last) or last.number) if last else 0
        self._anchors = [newest] if newest else []
        if self._keep is not None and last is not None:
            entries = (self._versions.refs.read(self._ref, number) for number in range(last.oldest, last.number + 1))
            self._anchors = [entry.number for entry in entries if not is_difference(entry)]

    def _copy(self, state_dict: Mapping[str, Any]) -> None:
        self._kept = {name: empty_like(state_dict[name], self._kept.get(name)) for name in sorted(state_dict)}
        for name, copy in self._kept.items():
            copy_into(copy, state_dict[name])

    def _compared(self, state_dict: Mapping[str, Any]) -> _Compared | None:
        """Return what has changed since the version before, and remember what is now; None for other tensors."""
        compared = _Compared([], [])
        for name, kept in self._kept.items():
            tensor = new_tensor(name, state_dict[name])  # one after the other: those of a GPU are copied by this
            base = writable_tensor(name, kept)
            if (tensor.dtype, tensor.shape) != (base.dtype, base.shape):
                return None
            now = memoryview(b"".join(pieces) if len(pieces := list(tensor.pieces())) != 1 else pieces[0]).cast("B")
            changed, stored = changes_of(name, tensor.dtype, tensor.shape, now, base.raw, self._store.pool)
            compared.tensors.append(changed)
            compared.stored.extend(stored)
            _copy_pieces(changed, now, base)
        return compared

    def _put(self, compared: _Compared | None, draft: Draft) -> Published:
        number = self._last.number + 1 if self._last else 1
        is_anchor = compared is None or number - self._anchors[-1] >= self._anchor_every
        files = []
        with self._versions.session():
            if compared is not None:
                source = DifferenceSource(number - 1, compared.tensors, compared.stored)
                files.append(self._versions.store_file(FILE_NAME, source))
            if is_anchor:
                files.append(self._versions.store_file(WHOLE_FILE, self._whole(), self._last_anchor()))
            anchor = number if is_anchor else self._anchors[-1]
            about = {**draft.metadata, KIND: ANCHOR if is_anchor else DIFFERENCE, ANCHOR_NUMBER: str(anchor)}
            anchors = [*self._anchors, number] if is_anchor else self._anchors
            wanted = draft._replace(files=tuple(files), metadata=about, oldest=self._oldest(anchors, number))
            self._last = self._versions.append(self._ref, lambda before: self._after(before, wanted), self._last)
        self._anchors = anchors
        return Published(number, is_anchor, sum(file.file_bytes for file in files if file.path == FILE_NAME))

    def _after(self, before: Entry | None, draft: Draft) -> Draft:
        if (before.write_id if before else "") != (self._last.write_id if self._last else ""):
            words = "another publisher has written a version meanwhile; publish again to go on from there"
            raise BackendError(errno.EBUSY, words, self.name)
        return draft

    def _whole(self) -> Any:
        is_torch = any(type(value).__module__.partition(".")[0] == "torch" for value in self._kept.values())
        tensors = [new_tensor(name, value) for name, value in self._kept.items()]
        return safetensors_source(tensors, {"format": "pt" if is_torch else "np"})

    def _last_anchor(self) -> Any:
        """Return the manifest of a whole version that the next one may be a difference from."""
        last = self._last
        if last is not None and self._anchors and last.number != self._anchors[-1]:
            last = self._versions.refs.read(self._ref, self._anchors[-1])
        return base_in(last, WHOLE_FILE) if last is not None and not is_difference(last) else None

    def _oldest(self, anchors: list[int], number: int) -> int | None:
        if self._keep is None:
            return None
        fit = [anchor for anchor in anchors if anchor <= number - self._keep + 1]
        return fit[-1] if fit else None

    def close(self) -> None:
        """Free memory, threads and files."""
        self._kept = {}
        self._is_in_step = False
        self._is_closed = True
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def difference_of(entry: Entry) -> RefFile | None:
    """Return the file with the difference from the entry before, if there is one."""
    return next((file for file in entry.files if file.path == FILE_NAME), None)


def _copy_pieces(changed: Changed, now: memoryview, base: WritableTensor) -> None:
    """Copy what has changed, and nothing else: memory that is not touched costs nothing."""
    for number, piece in enumerate(changed.pieces):
        if piece is not None:
            part = slice(number * PIECE_BYTES, (number + 1) * PIECE_BYTES)
            base.raw[part] = now[part]
