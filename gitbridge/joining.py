"""Which files are one model: one by itself, the shards that an `….index.json` lists, or a file and those that it says
its tensors lie in (ONNX with external data, TensorFlow checkpoints, distributed checkpoints of torch).

Files that name others may be tracked, or small enough that git keeps them itself.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.errors import PathMissingError, RevisionError
from gitbridge.fetching import Report, fetch_manifests
from gitbridge.kept_tensors import MAX_PLAIN_BYTES, TABLE_SUFFIXES
from gitbridge.pointers import PointerTensor
from gitbridge.reading import reader_of
from gitbridge.revisions import FileName, path_from_top, resolve, tracked_file
from gitbridge.trees import TrackedFile, tracked_in_index, tracked_in_tree
from thetastore.checkpoints.joining import (
    joined,
    may_name_others,
    named_outside,
    names_others,
    tensors_outside,
)
from thetastore.digest import Digest
from thetastore.errors import did_you_mean, near_names
from thetastore.selection import Ranges, Wants, named_wants

if TYPE_CHECKING:
    from gitbridge.repository import Repository
    from thetastore.checkpoints.tensors import TensorReader
    from thetastore.manifest import Tensor
    from thetastore.store import Store

INDEX_SUFFIX = ".index.json"
"""Ends the name of the file that says which shard holds which tensor."""
_HEAD_BYTES = 64


class ModelFiles(NamedTuple):
    """What a model is made of."""

    path: str
    """Of its file, or of the one that names the others; from the top."""
    files: tuple[TrackedFile, ...]
    revision: str = ""
    """Oid of the commit; empty for the index, and where it was not asked for."""
    plain_oid: str = ""
    """Of the file that names the others, where git keeps it itself and it is in a format of ours."""
    outside: tuple[PointerTensor, ...] = ()
    """Tensors in files that do not know of them: their digests are empty."""

    def tensors(self, repository: Repository) -> list[PointerTensor]:
        """Return what is known of all tensors without their weights, in the order of their names."""
        known = {tensor.name: tensor for tensor in self.outside}
        # What holds tensors of another file may list them by other names.
        files = [file for file in self.files if file.path == self.path or not self.outside]
        known |= {tensor.name: tensor for file in files for tensor in file.pointer(repository).tensors}
        return [known[name] for name in sorted(known)]


def named_model(repository: Repository, name: FileName, directory: str) -> ModelFiles:
    """Return what the model is made of that a name given on a command line stands for.

    Raises:
        PathMissingError: there is no such file, or it is none of a model; or one of its files is not there.
        RevisionError, RemoteError, MalformedError: as `files_of`.
    """
    path = path_from_top(repository, name, directory)
    revision = revision_of(repository, name.revision)
    try:
        file = tracked_file(repository, name, directory)
    except PathMissingError:
        tracked = tracked_files(repository, revision)
        model = files_of(repository, revision, path, tracked) or _in_directory(repository, revision, path, tracked)
        if model is None:
            raise
        return model
    if may_be_several(path, file):
        model = files_of(repository, revision, path, tracked_files(repository, revision))
    else:
        model = None
    return model or ModelFiles(path, (file,))


def model_at(repository: Repository, revision: str, path: str, called: str = "") -> ModelFiles:
    """Return what the model at a path is made of; of a directory, the one model in it.

    Args:
        repository: whose it is.
        revision: oid of the commit; empty for the index.
        path: from the top; empty for the whole work tree.
        called: what the user calls the revision; empty for its oid.

    Raises:
        PathMissingError: there is no model, or there are several; or one of its files is not there.
        MalformedError, RemoteError: as `files_of`.
    """
    tracked = tracked_files(repository, revision)
    model = files_of(repository, revision, path, tracked) or _in_directory(repository, revision, path, tracked)
    if model is not None:
        return model
    if not path.rstrip("/"):
        where = f"'{called or revision[:12]}'" if revision else "the index"
        raise PathMissingError(f"nothing is tracked in {where}", "git theta ls-files lists files")
    tracked_file(repository, FileName(revision, path), called=called)  # says what is near
    raise AssertionError("a tracked file was found above")


def _in_directory(
    repository: Repository, revision: str, path: str, tracked: Mapping[str, TrackedFile]
) -> ModelFiles | None:
    """Return the one model in a directory, or below it; None where there is none."""
    prefix = "" if path in ("", ".") else path.rstrip("/") + "/"
    models = {model.path: model for model in models_of_several_files(repository, revision, tracked, prefix)}
    in_others = {file.path for model in models.values() for file in model.files}
    for name, file in tracked.items():
        if name.startswith(prefix) and name not in in_others and file.tensor_count:
            models[name] = ModelFiles(name, (file,), revision)
    if len(models) > 1:
        named = ", ".join(f"'{name}'" for name in sorted(models)[:5])
        raise PathMissingError(f"there are {len(models)} models in '{path or '.'}': {named}", "say which, by its path")
    return next(iter(models.values()), None)


def models_of_several_files(
    repository: Repository, revision: str, tracked: Mapping[str, TrackedFile], prefix: str = ""
) -> Iterator[ModelFiles]:
    """Yield the models of several files in a revision, or in the index, whose paths begin so.

    Raises as `files_of` does.
    """
    for path in candidate_paths(repository, revision, tracked):
        model = files_of(repository, revision, path, tracked) if path.startswith(prefix) else None
        if model is not None:
            yield model


def candidate_paths(repository: Repository, revision: str, tracked: Mapping[str, TrackedFile]) -> list[str]:
    """Return the paths of a revision, or of the index, at which models of several files may be."""
    listing = ["ls-tree", "-r", "-z", "--name-only", "--full-tree", revision] if revision else ["ls-files", "-z"]
    paths = map(os.fsdecode, repository.git(*listing).split(b"\0")[:-1])
    return [path for path in paths if may_be_several(path, tracked.get(path))]


def revision_of(repository: Repository, revision: str | None) -> str:
    """Return the oid of a commit; empty for the index, which bare repositories do not have."""
    return resolve(repository, revision or "HEAD", "commit") if revision or repository.work_tree is None else ""


def tracked_files(repository: Repository, revision: str) -> dict[str, TrackedFile]:
    """Return the tracked files of a revision, or of the index if it is empty, by their paths."""
    found = tracked_in_tree(repository, revision) if revision else tracked_in_index(repository)
    return {file.path: file for file in found}


def files_of(repository: Repository, revision: str, path: str, tracked: Mapping[str, TrackedFile]) -> ModelFiles | None:
    """Return what the model at a path is made of; None where there is no model at just this path.

    Args:
        repository: whose it is.
        revision: oid of the commit; empty for the index.
        path: from the top.
        tracked: what is tracked there.

    Raises:
        PathMissingError: one of its files is not there.
        MalformedError: what names the others is no such file.
        RemoteError: it is in no store that can be reached.
    """
    if path in tracked and not names_others(tracked[path].format, path):
        return ModelFiles(path, (tracked[path],), revision)
    if path.endswith(INDEX_SUFFIX) and path not in tracked:
        return ModelFiles(path, _shards(repository, revision, path, tracked), revision)
    if path in tracked or path.endswith(TABLE_SUFFIXES):
        return _told(repository, revision, path, tracked)
    return None


def may_be_several(path: str, file: TrackedFile | None) -> bool:
    """Tell whether the model at a path may be of several files; None is a file that git keeps itself."""
    return names_others(file.format, path) if file else path.endswith((INDEX_SUFFIX, *TABLE_SUFFIXES))


def with_shards(repository: Repository, paths: Sequence[str], directory: str) -> list[str]:
    """Return paths as they were given, and for each that is a list of shards in the index the shards themselves."""
    if repository.work_tree is None or not any(path.endswith(INDEX_SUFFIX) for path in paths):
        return list(paths)
    tracked = tracked_files(repository, "")
    found: list[str] = []
    for path in paths:
        try:
            from_top = path_from_top(repository, FileName(None, path), directory)
            model = files_of(repository, "", from_top, tracked) if path.endswith(INDEX_SUFFIX) else None
        except PathMissingError:  # whoever looks the path up says so
            model = None
        found += [os.path.join(repository.work_tree, file.path) for file in model.files] if model else [path]
    return found


def open_tensors(
    repository: Repository, store: Store, model: ModelFiles, names: Sequence[str], report: Report | None = None
) -> dict[str, TensorReader]:
    """Return what reads some tensors of a model, by their names, after fetching the chunks that hold them.

    Args:
        repository: whose remotes are asked for what the local store lacks.
        store: the local store.
        model: what the model is made of.
        names: of tensors that it has.
        report: see `fetching.Report`.

    Raises:
        MalformedError, RemoteError: as `open_joined`.
    """
    wants: Wants = named_wants(names)
    if model.outside:  # their names are in one file, and their bytes in others
        wants = ranges_in((reader, names) for reader in open_joined(repository, store, model))
    fetch_manifests(repository, store, model.files, None, model.revision or None, report, wants=wants)
    readers = open_joined(repository, store, model)
    return {name: reader for reader in reversed(readers) for name in names if name in reader}


def ranges_in(wanted: Iterable[tuple[TensorReader, Sequence[str]]]) -> dict[Digest, Ranges]:
    """Return the bytes of files that tensors take, by the files' manifests: of a file that is there twice, all."""
    tensors: dict[Digest, list[Tensor]] = {}
    for reader, names in wanted:
        for holder, tensor in reader.places(names):
            tensors.setdefault(holder.manifest_digest, []).append(tensor)
    return {digest: Ranges(found, lambda _: True) for digest, found in tensors.items()}


def open_joined(repository: Repository, store: Store, model: ModelFiles) -> list[TensorReader]:
    """Return the readers of a model's files, in their order; then that of the file which git keeps itself, if any.

    Of the files that name no others, only the manifests are fetched.

    Raises:
        MalformedError: the files do not belong together.
        RemoteError: one of them is in no store that can be reached.
    """
    paths = [file.path for file in model.files] + ([model.path] if model.plain_oid else [])
    return joined(_open_readers(repository, store, model), paths)


def _open_readers(repository: Repository, store: Store, model: ModelFiles) -> list[TensorReader]:
    tables = {file.manifest_digest: Ranges.whole() for file in model.files if names_others(file.format, file.path)}
    fetch_manifests(repository, store, model.files, None, model.revision or None, wants=tables or named_wants(()))
    readers = [reader_of(repository, store, file) for file in model.files]
    return readers + ([_put(repository, store, model.plain_oid)] if model.plain_oid else [])


def _told(repository: Repository, revision: str, path: str, tracked: Mapping[str, TrackedFile]) -> ModelFiles | None:
    """Return a file that names others, and these; None where git keeps the file, and it names none."""
    own = (tracked[path],) if path in tracked else ()
    oid = "" if own else _plain_oid(repository, revision, path)
    if not own and not (oid and may_name_others(repository.read_object(oid)[:_HEAD_BYTES], path)):
        return None
    model = ModelFiles(path, own, revision, oid)
    find_elsewhere(repository, own, revision)
    with repository.open_store() as store:
        places = tensors_outside(_open_readers(repository, store, model)[-1], path)
    if not places:
        return None
    files = _beside(path, {place: place for place in sorted(places)}, tracked, "says that tensors are in")
    outside = tuple(PointerTensor(Digest(), one.dtype, one.shape, one.name) for one in named_outside(places))
    return model._replace(files=own + files, outside=outside)


def find_elsewhere(repository: Repository, files: Sequence[TrackedFile], revision: str) -> None:
    """Raise where no store can be reached that has the files, before one is made here for nothing."""
    if not files or os.path.lexists(repository.store_path()):
        return
    import tempfile

    from thetastore.store import Store

    with tempfile.TemporaryDirectory(prefix="theta-") as directory, Store.open(directory, create=True) as trial:
        fetch_manifests(repository, trial, files, None, revision or None, wants=named_wants(()))


def _plain_oid(repository: Repository, revision: str, path: str) -> str:
    """Return the oid of a file that git keeps itself; empty if there is none, or it is too long to name others."""
    line = repository.git("cat-file", "--batch-check", input=f"{revision}:{path}\n".encode(errors="surrogateescape"))
    words = line.split()
    is_short_blob = len(words) == 3 and words[1] == b"blob" and int(words[2]) <= MAX_PLAIN_BYTES
    return words[0].decode() if is_short_blob else ""


def _put(repository: Repository, store: Store, oid: str) -> TensorReader:
    """Put a file that git keeps into the local store, where it takes its few bytes until the next collection."""
    digest, manifest = store.put_file(io.BytesIO(repository.read_object(oid)))
    return store.tensors(manifest, digest)


def _shards(
    repository: Repository, revision: str, path: str, tracked: Mapping[str, TrackedFile]
) -> tuple[TrackedFile, ...]:
    """Return the files that a list of shards names; they lie beside it."""
    import json

    try:
        weight_map = json.loads(repository.read_object(f"{revision}:{path}"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except RevisionError:
        raise PathMissingError(f"there is no file '{path}' in {revision[:12] or 'the index'}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise PathMissingError(f"'{path}' does not say which file holds which tensor: it has no 'weight_map'") from None
    directory = path.rpartition("/")[0]
    places = {name: f"{directory}/{name}" if directory else name for name in names}
    return _beside(path, places, tracked, "names the shard")


def _beside(
    path: str, places: Mapping[str, str], tracked: Mapping[str, TrackedFile], says: str
) -> tuple[TrackedFile, ...]:
    """Return the files at places, which are told by the names that the file at the path has for them."""
    for name, place in places.items():
        if place not in tracked:
            meant = did_you_mean(near_names(place, list(tracked)))
            raise PathMissingError(
                f"'{path}' {says} '{name}', which is not tracked there{meant}",
                f"git theta track '{place}', then git add and commit it",
            )
    return tuple(tracked[place] for place in places.values())
