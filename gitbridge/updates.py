"""Files of the work tree become what an update makes of their base, and are stored as that.

First everything is read, computed and durable in the store; only then do work tree and index change, so that an error
leaves both as they were. A work-tree file that is the base, or that git has, is replaced: the new one is written beside
it in the same pass that stores it. One that is neither was merged by the user, with a library of his own: it stays as
it is, and what the update does not explain of it is stored too.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, NamedTuple

from gitbridge.bases import ADD_SETTING
from gitbridge.blobs import BlobsAtPaths, blob_oid
from gitbridge.errors import BridgeError, GitError, UsageError
from gitbridge.fill import Filling, Wanted
from gitbridge.materialize import complain_all, complete_pending
from gitbridge.merging.finishing import place_pointer
from gitbridge.pointers import is_pointer, parse_pointer, render_pointer
from gitbridge.repository import Repository
from gitbridge.space import no_room_to_fill
from thetastore.adapters import Adapter, Change
from thetastore.adapters.types import AUTO, open_adapter, update_type
from thetastore.checkpoints.updating import RecipeUpdates
from thetastore.digest import Buffer, Digest, new_hasher
from thetastore.layout import Tensor
from thetastore.manifest import Manifest
from thetastore.merging import MergeError, assembling
from thetastore.merging.checkpoints import FileCheckpoint, StoredCheckpoint
from thetastore.merging.mixing import Part, Result, copied
from thetastore.store import Store
from thetastore.updates.recipe import Recipe, UpdateError

if TYPE_CHECKING:
    from thetastore.checkpoints.ingest import Ingested, Source

_BLOCK_BYTES = 1 << 20


class Asked(NamedTuple):
    """What the user wants."""

    kind: str
    """Name of an update type."""
    side_path: str | None
    """Where the update is; None to look for it in the work-tree file."""


class ToUpdate(NamedTuple):
    """A file, and what it is made from."""

    path: str
    """From the top of the work tree."""
    base: Digest
    """The base's manifest, in the local store."""
    base_name: str


class Updated(NamedTuple):
    """What became of a file."""

    path: str
    kind: str
    changed_count: int
    """Tensors that the update changes, or, where it was looked for, that were found to be one."""
    tensor_count: int
    fixed_count: int
    """Chunks that are stored as updates and are not exactly what these make."""
    differing_count: int
    """Elements of these chunks that are not: what differs is stored too."""
    update_bytes: int
    """What updates take in the store."""
    difference_bytes: int
    """What other chunks take that the base does not have, as differences or copies: sparse changes, for instance."""
    whole_bytes: int
    """And those that are stored without another one."""
    file_bytes: int
    was_there: bool
    """Whether the file in the work tree is the user's own."""


class _Stored(NamedTuple):
    file: ToUpdate
    updated: Updated
    pointer: bytes


class _Bases:
    """All bases as one model: an adapter may be for a model of several files."""

    def __init__(self, opened: Mapping[str, StoredCheckpoint]) -> None:
        self._owner: dict[str, StoredCheckpoint] = {}
        self.tensors: dict[str, Tensor] = {}
        for path, checkpoint in opened.items():
            for name, tensor in checkpoint.tensors.items():
                if name in self.tensors:
                    raise UpdateError(f"two of the files have a tensor '{name}', '{path}' among them", "add them apart")
                self._owner[name], self.tensors[name] = checkpoint, tensor

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Return bytes of a tensor of one of the files."""
        return self._owner[name].read(name, start, stop)


def update_files(repository: Repository, files: Sequence[ToUpdate], asked: Asked) -> list[Updated]:
    """Make files what an update makes of them, in store, index and work tree.

    Memory: one tensor, and the parts of its update.

    Raises:
        UpdateError, MergeError, UsageError, UnsupportedError: it cannot be read or does not fit; nothing is changed.
        BackendError, OSError: the disk is full or failing.
    """
    update_type(asked.kind)
    assert repository.work_tree is not None, "there is an index"
    complete_pending(repository)
    filling = Filling(repository, repository.work_tree)
    try:
        with repository.open_store() as store:
            store.pool.allow_forks()  # it is `git theta add` that calls
            stored = _Storing(repository, store, filling).all(files, asked)
            store.seal()
    except BaseException:
        filling.abandon()
        raise
    try:
        for one in stored:
            _place(repository, one)
    finally:
        failures = filling.finish()
        complain_all(failures)
    if failures:
        path = failures[0].path
        raise BridgeError(f"'{path}' is added, but could not be written", f"git theta checkout '{path}'")
    return [one.updated for one in stored]


class _Storing:
    """Stores what becomes of files; those of the work tree that are replaced are ready beside their places then."""

    def __init__(self, repository: Repository, store: Store, filling: Filling) -> None:
        self._repository = repository
        self._store = store
        self._filling = filling

    def all(self, files: Sequence[ToUpdate], asked: Asked) -> list[_Stored]:
        bases = {file.path: StoredCheckpoint(self._store, file.base, file.base_name) for file in files}
        owns = {file.path: _own_file(self._repository, file, bases[file.path].manifest) for file in files}
        if asked.side_path is None:
            if asked.kind != AUTO:
                raise UsageError(
                    f"--update-type {asked.kind} needs --update-path", "only auto looks for updates itself"
                )
            return [self._found(file, bases[file.path], owns[file.path]) for file in files]
        adapter = open_adapter(asked.kind, asked.side_path, _Bases(bases))
        changes = _by_file(bases, adapter)
        untouched = [path for path, own in changes.items() if not own]
        if untouched:
            raise UpdateError(f"the update changes no tensor of '{untouched[0]}'", "leave it out")
        self._check_room([bases[path].manifest.file_bytes for path, own in owns.items() if own is None])
        stored = []
        for file in files:
            base, own = bases[file.path], owns[file.path]
            tied = _with_tied(base, changes[file.path])
            if own is None:
                stored.append(self._made(file, base, adapter.kind, tied))
            else:
                stored.append(self._merged_by_user(file, base, adapter.kind, tied, own))
        return stored

    def _check_room(self, sizes: Sequence[int]) -> None:
        assert self._repository.work_tree is not None, "there is an index"
        crowded = no_room_to_fill(self._repository.work_tree, sizes)
        if crowded is not None:
            raise crowded

    def _made(self, file: ToUpdate, base: StoredCheckpoint, kind: str, changes: dict[str, Change]) -> _Stored:
        """Store what an update makes of a base, and write it beside its place, in one pass."""
        certain = {name for name, change in changes.items() if change.is_applied}
        updates = RecipeUpdates(self._store.objects, base.manifest, lambda name: _recipe(changes.get(name)), certain)
        draft = self._filling.draft(file.path)
        with ExitStack() as stack:
            source = _Tee(_merged(self._store, base, changes, stack), draft.descriptor)
            ingested = self._store.put_file(source, file.base, updates)
        _check(changes, base, ingested.manifest)
        stored = self._stored(file, kind, _known_count(changes, base), base, ingested, updates)
        oid = blob_oid(stored.pointer, self._repository.object_format).hex()
        self._filling.ready(draft, Wanted.of(os.fsencode(file.path), oid, stored.pointer))
        return stored

    def _merged_by_user(
        self, file: ToUpdate, base: StoredCheckpoint, kind: str, changes: dict[str, Change], own: str
    ) -> _Stored:
        """Store a file of the user's, with the update that it was made by."""
        updates = RecipeUpdates(self._store.objects, base.manifest, lambda name: _recipe(changes.get(name)))
        with open(own, "rb", buffering=0) as stream:
            ingested = self._store.put_file(stream, file.base, updates)
        if updates.other_count and not (updates.update_count or updates.present_count):
            raise UpdateError(
                f"'{file.path}' in the work tree is neither '{file.base_name}' nor what the update makes of it",
                f"git restore '{file.path}', and it will be written; or git add it without an update",
            )
        return self._stored(file, kind, _known_count(changes, base), base, ingested, updates, was_there=True)

    def _found(self, file: ToUpdate, base: StoredCheckpoint, own: str | None) -> _Stored:
        """Store a file of the user's, with the updates that are found in it."""
        if own is None:
            raise UsageError(
                f"'{file.path}' in the work tree is what git has already: there is no update to be found in it",
                "--update-path names a file that has one",
            )
        from thetastore.updates.search import Search

        new = FileCheckpoint(own)
        try:
            search = Search(base, new)
            updates = RecipeUpdates(self._store.objects, base.manifest, search.recipe)
            with open(own, "rb", buffering=0) as stream:
                ingested = self._store.put_file(stream, file.base, updates)
        finally:
            new.close()
        return self._stored(file, AUTO, search.found_count, base, ingested, updates, was_there=True)

    def _stored(
        self,
        file: ToUpdate,
        kind: str,
        count: int,
        base: StoredCheckpoint,
        ingested: Ingested,
        updates: RecipeUpdates,
        was_there: bool = False,
    ) -> _Stored:
        manifest = ingested.manifest
        updated = Updated(
            file.path,
            kind,
            count,
            len(manifest.tensors),
            updates.fixed_count,
            updates.differing_count,
            *_stored_bytes(self._store, base.manifest, manifest),
            manifest.file_bytes,
            was_there,
        )
        return _Stored(file, updated, render_pointer(manifest, ingested.manifest_digest))


class _Tee:
    """A source that writes what is read of it to a file."""

    def __init__(self, source: Source, descriptor: int) -> None:
        self._source = source
        self._descriptor = descriptor

    def readinto(self, view: memoryview, /) -> int:
        """Write the next bytes into `view`, and to the file; see `Source`."""
        count = self._source.readinto(view) or 0
        left = view[:count]
        while left:
            left = left[os.write(self._descriptor, left) :]
        return count


def _known_count(changes: Mapping[str, Change], base: StoredCheckpoint) -> int:
    return sum(name in base.tensors for name in changes)


def _stored_bytes(store: Store, base: Manifest, manifest: Manifest) -> tuple[int, int, int]:
    """Return what the chunks take that the base does not have: as updates, as differences, whole."""
    known = {chunk.digest for chunk in base.chunks}
    taken = {"update": 0, "difference": 0, "copies": 0}
    whole = 0
    for digest in {chunk.digest for chunk in manifest.chunks} - known:
        entry = store.objects.entry(digest)
        if entry.codec in taken:
            taken[entry.codec] += entry.stored_bytes
        else:
            whole += entry.stored_bytes
        if entry.codec == "update":
            shared = set(entry.bases[1:]) - known
            known |= shared
            taken["update"] += sum(store.objects.entry(one).stored_bytes for one in shared)
    return taken["update"], taken["difference"] + taken["copies"], whole


def _by_file(bases: Mapping[str, StoredCheckpoint], adapter: Adapter) -> dict[str, dict[str, Change]]:
    """Return the changes of each file; tensors that are new go to the first one that changes."""
    found: dict[str, dict[str, Change]] = {path: {} for path in bases}
    new: dict[str, Change] = {}
    for name, change in adapter.changes.items():
        path = next((path for path, base in bases.items() if name in base.tensors), None)
        (new if path is None else found[path])[name] = change
    if new:
        next((changes for changes in found.values() if changes), found[next(iter(found))]).update(new)
    return found


def _own_file(repository: Repository, file: ToUpdate, base: Manifest) -> str | None:
    """Return the place of a work-tree file that is the user's own; None where it may be replaced."""
    assert repository.work_tree is not None, "there is an index"
    place = os.path.join(repository.work_tree, file.path)
    return None if _is_replaceable(repository, file, base, place) else place


def _is_replaceable(repository: Repository, file: ToUpdate, base: Manifest, place: str) -> bool:
    """Tell whether nothing is lost if the work-tree file is written over."""
    if not os.path.lexists(place):
        return True
    if os.path.islink(place) or not os.path.isfile(place):
        raise BridgeError(f"'{file.path}' in the work tree is no regular file")
    if os.path.getsize(place) == 0:
        return True
    with open(place, "rb", buffering=0) as stream:
        head = stream.read(64)
        if is_pointer(head):
            return True
        hasher = new_hasher()
        hasher.update(head)
        while block := stream.read(_BLOCK_BYTES):
            hasher.update(block)
    digest = Digest(hasher.digest())
    if digest == base.file_digest:
        return True
    blobs = BlobsAtPaths(repository)
    oid = blobs.oid(os.fsencode(file.path))
    text = None if oid is None else blobs.pointer_text(oid, digest)
    return text is not None and parse_pointer(text).file_digest == digest


def _with_tied(base: StoredCheckpoint, changes: dict[str, Change]) -> dict[str, Change]:
    """Let tensors that are one in the file change together."""
    by_place = {_place_of(base.tensors[name]): change for name, change in changes.items() if name in base.tensors}
    tied = {
        name: by_place[_place_of(tensor)]._replace(name=name)
        for name, tensor in base.tensors.items()
        if name not in changes and _place_of(tensor) in by_place and tensor.raw_bytes
    }
    return changes | tied


def _place_of(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor)[1:]


def _recipe(change: Change | None) -> Recipe | None:
    return None if change is None or change.recipe is None else change.recipe()


def _merged(store: Store, base: StoredCheckpoint, changes: dict[str, Change], stack: ExitStack) -> Source:
    """Return the file of a base with its changes."""
    results = _results(base, changes)

    def scratch() -> IO[bytes]:
        return stack.enter_context(tempfile.TemporaryFile(dir=store.url if os.path.isdir(store.url) else None))

    why_not = assembling.why_not_in_place(results, base)
    if not why_not:
        return assembling.in_place(results, base, scratch() if assembling.needs_scratch(base) else None)
    if base.format != "safetensors":
        raise MergeError(
            f"what the update makes of '{base.label}' cannot be written: {why_not}",
            "merge it yourself, put the file in its place, and run the command again",
        )
    return assembling.composed(results, assembling.metadata_of(base))


def _results(base: StoredCheckpoint, changes: dict[str, Change]) -> list[Result]:
    table = base.table()
    results = []
    for name in base.tensors:
        change = changes.get(name)
        if change is None:
            results.append(copied(name, Part(base, name), table[name]))
        else:
            key = ("updated", _place_of(base.tensors[name]))
            results.append(Result(name, change.dtype, change.shape, change.pieces, key))
    new = [change for name, change in changes.items() if name not in base.tensors]
    return results + [Result(one.name, one.dtype, one.shape, one.pieces, ("new", one.name)) for one in new]


def _check(changes: Mapping[str, Change], base: StoredCheckpoint, manifest: Manifest) -> None:
    """Compare what a fresh look at the file sees with what it was to hold."""
    wanted = {name: (tensor.dtype, tensor.shape) for name, tensor in base.tensors.items()}
    wanted |= {name: (change.dtype, change.shape) for name, change in changes.items()}
    if {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors} != wanted:
        raise MergeError("the file that was made does not hold the tensors that it was to hold")


def _place(repository: Repository, stored: _Stored) -> None:
    """Put a file into the index, and its pointer into the work tree where the file is ready to take its place."""
    path = stored.file.path
    top = repository.work_tree
    if stored.updated.was_there:  # all of it is in the store: git only has it read once more
        done = subprocess.run(
            ["git", "-c", f"{ADD_SETTING}=", "add", "--", f":(top,literal){path}"],
            cwd=top,
            env=repository.environment,
            check=False,
        )
        if done.returncode:
            raise GitError(f"git could not add '{path}'")
        return
    place_pointer(repository, path, _mode(repository, path), stored.pointer)


def _mode(repository: Repository, path: str) -> str:
    listed = repository.git("ls-files", "-s", "-z", "--", f":(top,literal){path}", cwd=repository.work_tree)
    mode = listed[:6].decode()
    return mode if mode in ("100644", "100755") else "100644"
