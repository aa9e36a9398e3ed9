"""One look at what is new, rule by rule.

A file whose blob the base has, too, is not looked at, and of a changed file only the numbers of tensors that the base's
files do not have: a check of a pull request reads what the pull request brings.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.attributes import paths_with_filter
from gitbridge.checks.news import heads
from gitbridge.checks.rules import Allowed, Budget, Problem
from gitbridge.errors import PointerError
from gitbridge.fetching import fetch_manifests
from gitbridge.large_files import is_large_checkpoint, warned_size
from gitbridge.pointers import Pointer, PointerTensor, is_pointer, parse_pointer
from gitbridge.profile import EVERYTHING
from gitbridge.reading import open_reader
from gitbridge.render import count_text, size_text
from gitbridge.repository import Repository
from gitbridge.states import ask_stores
from gitbridge.trees import Entry, TrackedFile, tracked_blob
from thetastore.comparing.sides import OPAQUE
from thetastore.comparing.summary import not_finite
from thetastore.dtypes import BIG_ENDIAN, DTYPES, raw_bytes_of
from thetastore.selection import named_wants

if TYPE_CHECKING:
    from gitbridge.fetching import Report
    from thetastore.checkpoints.tensors import TensorReader
    from thetastore.digest import Digest
    from thetastore.store import Store


class _File(NamedTuple):
    """A file of weights that is new, or has changed."""

    tracked: TrackedFile
    pointer: Pointer

    @property
    def path(self) -> str:
        return self.tracked.path


class Check:
    """What is new against what is allowed."""

    def __init__(
        self, repository: Repository, new: Sequence[Entry], old: Sequence[Entry], allowed: Allowed, budget: Budget
    ) -> None:
        """Prepare a check.

        Args:
            repository: whose files they are.
            new: the files to look at.
            old: what the base has instead of them.
            allowed: what may break rules.
            budget: how many bytes may come.
        """
        self.read_tensor_count = 0
        """Of how many tensors the numbers were read so far."""
        self._repository = repository
        self._new = new
        self._old = {file.path: file for file in _readable(repository, old)}
        self._old_tensors = {tensor.digest for file in self._old.values() for tensor in file.pointer.tensors}
        self._allowed = allowed
        self._budget = budget

    def problems(self, treeish: str | None = None, report: Report | None = None) -> Iterator[Problem]:
        """Yield what breaks a rule and is not allowed to, file by file.

        Args:
            treeish: the commit that the new files are of; None for the index.
            report: see `fetching.Report`.
        """
        for problem in self._all(treeish, report):
            if not self._allowed(problem.rule, problem.path, problem.tensor):
                yield problem

    def _all(self, treeish: str | None, report: Report | None) -> Iterator[Problem]:
        files = []
        for found in self._entries():
            if isinstance(found, _File):
                files.append(found)
            else:
                yield found
        lost = self._lost(files)
        read: set[Digest] = set(self._old_tensors)
        for file in files:
            yield from _pickled(file)
            yield from _misnamed(file)
            yield from self._size(file)
            yield from self._dtypes(file)
            if file.tracked.manifest_digest in lost:
                mend = "git theta push, in the clone that has them"
                yield Problem("missing", file.path, "", lost[file.tracked.manifest_digest], mend)
            elif not self._is_offline:
                yield from self._weights(file, read, treeish, report)
        yield from self._growth(files)

    # What git has

    def _entries(self) -> Iterator[_File | Problem]:
        """Yield the files of weights whose pointers can be read, and what is wrong with what else there is."""
        ours = set(paths_with_filter(self._repository, [entry.path for entry in self._new]))
        at_least = warned_size(self._repository)
        for entry, nbytes, head in heads(self._repository, self._new):
            path = entry.path
            if is_pointer(head):
                yield from self._pointer(entry, path in ours)
                continue
            if nbytes and path in ours:
                said = f"{size_text(nbytes)} of it are in git itself, though it is tracked"
                yield Problem("raw", path, "", said, f"git theta install && git add --renormalize {_quoted(path)}")
            elif at_least and is_large_checkpoint(path, nbytes, at_least):
                said = f"{size_text(nbytes)} of it are in git itself, and nothing tracks it"
                track = f"git theta track {shlex.quote('*' + os.path.splitext(path)[1])}"
                yield Problem("large", path, "", said, f"{track} && git add --renormalize {_quoted(path)}")
            if path.lower().endswith(_PICKLES) or _is_pickle(head):
                yield _pickle(path, "it is a pickle")

    def _pointer(self, entry: Entry, is_ours: bool) -> Iterator[_File | Problem]:
        path = entry.path
        if not is_ours:
            said = "a pointer that no pattern tracks, so git never fills it"
            yield Problem("pointer", path, "", said, f"git theta track {shlex.quote('/' + path)}")
        try:
            pointer = parse_pointer(self._repository.read_object(entry.oid))
        except PointerError as error:
            yield Problem("pointer", path, "", str(error), _whole_again(path))
            return
        tracked = tracked_blob(self._repository, path, entry.oid)
        assert tracked is not None, "what was parsed begins as a pointer does"
        yield _File(tracked, pointer)

    # What pointers say

    def _size(self, file: _File) -> Iterator[Problem]:
        limit, nbytes = self._budget.file_bytes, file.pointer.file_bytes
        if limit is not None and nbytes > limit:
            said = f"it has {size_text(nbytes)}, expected at most {size_text(limit)}"
            yield Problem("size", file.path, "", said, f"--allow {shlex.quote('size:' + file.path)}, or --max-size")

    def _dtypes(self, file: _File) -> Iterator[Problem]:
        before = self._old.get(file.path)
        dtypes = {tensor.name: tensor.dtype for tensor in before.pointer.tensors} if before else {}
        for tensor in file.pointer.tensors:
            was = dtypes.get(tensor.name, tensor.dtype)
            if was != tensor.dtype:
                mend = f"save it as {was}; where it is meant: --allow {shlex.quote('dtype:' + file.path)}"
                yield Problem("dtype", file.path, tensor.name, f"{tensor.dtype}, in the base {was}", mend)

    def _growth(self, files: Sequence[_File]) -> Iterator[Problem]:
        limit = self._budget.new_bytes
        sizes: dict[Digest, int] = {}
        for file in files:
            sizes.update((tensor.digest, _raw_bytes(tensor)) for tensor in file.pointer.tensors)
            if not file.pointer.tensors:
                sizes[file.pointer.file_digest] = file.pointer.file_bytes
        known = self._old_tensors | {file.pointer.file_digest for file in self._old.values()}
        nbytes = sum(size for digest, size in sizes.items() if digest not in known)
        if limit is not None and nbytes > limit:
            said = f"{size_text(nbytes)} of weights are new, expected at most {size_text(limit)}"
            yield Problem("size", "", "", said, "leave out what need not be kept, or raise --max-new")

    # What stores have

    @property
    def _is_offline(self) -> bool:
        """Nothing that a store would have to be asked for is of interest."""
        return self._allowed.everywhere("missing") and self._allowed.everywhere("not-finite")

    def _lost(self, files: Sequence[_File]) -> dict[Digest, str]:
        """Return the manifests of files whose weights are nowhere, each with what is to be said of it."""
        if self._is_offline:
            return {}
        wanted = {file.tracked.manifest_digest for file in files}
        known = ask_stores(self._repository, wanted, only_where_needed=True)
        reason = f": {known.trouble}" if known.trouble else ""
        said = f"its weights are in no store that can be reached{reason}"
        return dict.fromkeys(wanted - known.local - known.remote, said)

    def _weights(self, file: _File, read: set[Digest], treeish: str | None, report: Report | None) -> Iterator[Problem]:
        """Compare a pointer with its manifest, and read the numbers of tensors that were not read yet."""
        wanted: dict[Digest, str] = {}
        if not self._allowed("not-finite", file.path):
            candidates = {tensor.digest: tensor.name for tensor in file.pointer.tensors if _may_not_be_finite(tensor)}
            wanted = {digest: name for digest, name in candidates.items() if digest not in read}
            read.update(wanted)
        with self._repository.open_store() as store:
            wants = named_wants(wanted.values())
            try:
                reader = open_reader(self._repository, store, file.tracked, wants, treeish, report)
            except PointerError as error:
                yield Problem("pointer", file.path, "", str(error), _whole_again(file.path))
                return
            if self._may_be_pickle(file) and self._begins_as_pickle(store, file, treeish, report):
                yield _pickle(file.path, "it is a pickle, by its first bytes")
            for name in wanted.values():
                yield from self._numbers(reader, file.path, name)

    def _may_be_pickle(self, file: _File) -> bool:
        """Tell whether a file has to be looked at: what has tensors is no pickle, and of some the name says enough."""
        if file.pointer.format != OPAQUE or not file.pointer.file_bytes or any(_pickled(file)):
            return False
        return not self._allowed("pickle", file.path)

    def _begins_as_pickle(self, store: Store, file: _File, treeish: str | None, report: Report | None) -> bool:
        digest = file.tracked.manifest_digest
        fetch_manifests(self._repository, store, [file.tracked], None, treeish, report, EVERYTHING)
        return _is_pickle(bytes(next(store.read_file(store.get_manifest(digest), digest))[:2]))

    def _numbers(self, reader: TensorReader, path: str, name: str) -> Iterator[Problem]:
        nan_count, infinite_count = not_finite(reader, name)
        self.read_tensor_count += 1
        counts = ((nan_count, "NaN"), (infinite_count, "infinite"))
        said = " and ".join(f"{count:,} {what}" for count, what in counts if count)
        if said:
            mend = f"where it is meant: --allow {shlex.quote(f'not-finite:{path}//{name}')}"
            elements = count_text(math.prod(reader.tensor(name).shape), "element")
            yield Problem("not-finite", path, name, f"{said} among {elements}", mend)


_PICKLES = (".pkl", ".pickle", ".joblib", ".dill")
_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")
_PICKLED_FORMATS = ("torch-zip", "torch-legacy", "torch-dcp")


def _is_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] in _PROTOCOLS


def _misnamed(file: _File) -> Iterator[Problem]:
    """Name what only its name says to be safetensors: no reader of them takes a file of another length, either."""
    if file.path.lower().endswith(".safetensors") and file.pointer.format == OPAQUE:
        said = "it is no whole safetensors file: cut, or with bytes behind its last tensor; it is kept as opaque bytes"
        mend = f"save it anew; where it is meant: --allow {shlex.quote('opaque:' + file.path)}"
        yield Problem("opaque", file.path, "", said, mend)


def _pickled(file: _File) -> Iterator[Problem]:
    if file.pointer.format in _PICKLED_FORMATS:
        yield _pickle(file.path, f"its format is {file.pointer.format}, which holds pickles")
    elif file.path.lower().endswith(_PICKLES):
        yield _pickle(file.path, "it is a pickle, by its name")


def _pickle(path: str, reason: str) -> Problem:
    mend = f"save it as safetensors; where it is meant: --allow {shlex.quote('pickle:' + path)}"
    return Problem("pickle", path, "", f"{reason}: loading it can run code", mend)


def _whole_again(path: str) -> str:
    return f"git checkout <a commit where it was whole> -- {_quoted(path)}, or add the file itself"


def _quoted(path: str) -> str:
    """Return a path as git takes it from any directory."""
    return shlex.quote(f":/{path}")


def _readable(repository: Repository, entries: Iterable[Entry]) -> Iterator[_File]:
    for entry in entries:
        tracked = tracked_blob(repository, entry.path, entry.oid)
        if tracked is not None:
            try:
                yield _File(tracked, tracked.pointer(repository))
            except PointerError:
                continue  # what is wrong in the base is nothing new


def _raw_bytes(tensor: PointerTensor) -> int:
    return raw_bytes_of(tensor.dtype, math.prod(tensor.shape))


def _may_not_be_finite(tensor: PointerTensor) -> bool:
    return DTYPES[tensor.dtype.removesuffix(BIG_ENDIAN)].kind in ("float", "complex")
