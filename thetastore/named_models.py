"""Named models with versions from Python: the models of a store are a mapping from names to models.

    models = thetastore.Models("s3://bucket/zoo")
    models["org/bert@v3"]["lm_head.weight"][:128]         # v3, a tag, or no version: the newest
    models.put("org/bert", state_dict, "longer training") # or the path of a file or directory
    thetastore.open("s3://bucket/zoo/org/bert@prod")      # the same by one URL

Each call opens the store for itself, so that a `Models` may be pickled, shared by threads, and used after a fork.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from thetastore import models
from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import safetensors_source
from thetastore.digest import Digest
from thetastore.errors import MalformedError, NoSuchModelError
from thetastore.models import Handle, Model, Session, StoreSession
from thetastore.ref_entries import Draft, Entry, RefFile
from thetastore.store import Store
from thetastore.versions.history import Put, Versions
from thetastore.versions.names import MODELS, ModelName, find, parse_name, resolve, version_text
from thetastore.versions.published import refuse_difference
from thetastore.versions.sources import sources_of

_TENSORS_IN = ".safetensors"
"""Where a version has such files, the tensors are theirs: beside them may lie the same weights in other formats."""
Options = Mapping[str, object] | None


class Version(NamedTuple):
    """A version of a model, in its history."""

    name: str
    """Names it for good: `org/bert@v3`."""
    number: int
    time: datetime
    """When it was put, by the clock of who did it."""
    author: str
    message: str
    metadata: Mapping[str, str]
    file_bytes: int
    """Length of all files together."""
    files: tuple[RefFile, ...]


class NamedOrigin(NamedTuple):
    """A version of a model, by its files' manifests: always the same bytes, whatever becomes of the name."""

    url: str
    model: ModelName
    """The version by its number."""
    manifest_digests: tuple[Digest, ...]
    paths: tuple[str, ...]
    """Of the files, in the same order."""
    storage_options: Options = None

    def open(self) -> Session:
        """Open the store in this process."""
        store = Store.open(self.url, options=self.storage_options, expected=self.manifest_digests)
        return StoreSession(store, self.manifest_digests, self.paths)

    def __str__(self) -> str:
        return f"{self.url}/{self.model}"

    def __repr__(self) -> str:  # the options may hold credentials
        return f"<origin '{self}'>"


class NamedModel(Model):
    """A version of a named model."""

    origin: NamedOrigin

    def __init__(self, origin: NamedOrigin, handle: Handle | None = None, names: Sequence[str] | None = None) -> None:
        """Open a model; see `Models` and `open`."""
        super().__init__(origin, handle, names)

    @property
    def name(self) -> str:
        """Name of the model, without the version."""
        return self.origin.model.name

    @property
    def version(self) -> str:
        """Number of the version: `v3`."""
        return self.origin.model.version

    def pin(self) -> str:
        """Return what `open` takes and will always mean these bytes: a number, not a tag or the newest version."""
        return str(self.origin)

    def log(self) -> list[Version]:
        """Return this version and those before it, the newest first."""
        return self._models().log(str(self.origin.model))

    def tags(self) -> dict[str, str]:
        """Return the tags of the model, each with the version that it names."""
        return self._models().tags(self.name)

    def _models(self) -> Models:
        return Models(self.origin.url, self.origin.storage_options)


class Models(Mapping[str, NamedModel]):
    """The models of a store, by name. Nothing is read before it is asked for."""

    def __init__(self, url: str | os.PathLike[str], storage_options: Options = None, create: bool = False) -> None:
        """Use the models of a store.

        Args:
            url: of the store, or its directory.
            storage_options: credentials, profile, endpoint and the like, as fsspec has them.
            create: make the store, if there is none.

        Raises:
            StoreMissingError: a `FileNotFoundError`: there is no store, and `create` is not set.
        """
        self._storage_options = storage_options
        with Store.open(os.fspath(url), create, storage_options) as store:
            self.url = store.url

    def _store(self) -> Store:
        return Store.open(self.url, options=self._storage_options)

    def __getitem__(self, name: str) -> NamedModel:
        """Open a version: `NAME`, `NAME@v3` or `NAME@TAG`.

        Raises:
            NoSuchModelError: a `KeyError`: there is none; says which there are.
        """
        wanted = parse_name(name)
        with self._store() as store:
            return self._opened(resolve(store, wanted))

    def __contains__(self, name: object) -> bool:
        try:
            with self._store() as store:
                return isinstance(name, str) and bool(resolve(store, parse_name(name)))
        except NoSuchModelError:
            return False

    def __iter__(self) -> Iterator[str]:
        with self._store() as store:
            return iter([listed.name for listed in Versions(store).models()])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def put(
        self,
        name: str,
        what: Mapping[str, Any] | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        message: str = "",
        author: str = "",
        metadata: Mapping[str, str] | None = None,
        base: str | None = None,
        path: str = "model.safetensors",
    ) -> NamedModel:
        """Store the next version of a model; durable when this returns. What has not changed makes no new one.

        Args:
            name: of the model.
            what: tensors by name (numpy, torch, or what numpy makes an array of), which become a safetensors file; or
                paths of files, or of a directory.
            message: why.
            author: who.
            metadata: what else is to be known of the version.
            base: `NAME[@VERSION]` to take differences from; None for the newest version of this model.
            path: what the file of tensors is called.

        Raises:
            NoSuchModelError: there is no such base.
            MalformedError, UnsupportedError: the name is none, a value is no array, or a file names others that were
                not given; nothing is stored then.
            BackendError: the store cannot be written; there is no new version then.
        """
        draft = Draft((), message, author, metadata or {})
        with self._store() as store:
            versions = Versions(store)
            based_on = resolve(store, parse_name(base)) if base else None
            if isinstance(what, Mapping):
                put = _put_tensors(versions, name, what, draft, based_on, path)
            else:
                paths = [what] if isinstance(what, str | os.PathLike) else list(what)
                put = versions.put_files(name, sources_of([os.fspath(one) for one in paths]).files, draft, based_on)
        return self._opened(put.entry)

    def log(self, name: str) -> list[Version]:
        """Return the versions of a model that are kept, the newest first; from `NAME@VERSION` on backwards."""
        with self._store() as store:
            return [_version(entry) for entry in Versions(store).log(parse_name(name))]

    def tags(self, name: str) -> dict[str, str]:
        """Return the tags of a model, each with the version that it names."""
        with self._store() as store:
            return {tag: version_text(number) for tag, number in Versions(store).tags(parse_name(name).name).items()}

    def tag(self, name: str, tag: str, force: bool = False) -> None:
        """Name a version (`NAME@VERSION`, or the newest), which is kept as long as the tag is.

        Raises:
            NoSuchModelError: there is no such version.
            MalformedError: a `ValueError`: the tag names another version, and `force` is not set.
        """
        with self._store() as store:
            Versions(store).tag(parse_name(name), tag, Draft(()), force)

    def pin(self, name: str) -> str:
        """Return what `open` takes and will always mean the bytes that this name means now."""
        return self[name].pin()

    def delete(self, name: str, message: str = "") -> None:
        """Let go of a model: what no tag names goes with the next collection."""
        with self._store() as store:
            Versions(store).delete(parse_name(name).name, Draft((), message))

    def _opened(self, entry: Entry) -> NamedModel:
        return _open_entry(self.url, entry, self._storage_options)

    def __repr__(self) -> str:
        return f"<models of '{self.url}'>"


def open(url: str | os.PathLike[str], digest: str | None = None, storage_options: Options = None) -> Model:
    """Open a model: a version of a named one, or a file by its manifest's digest.

    >>> import tempfile, numpy, thetastore
    >>> models = thetastore.Models(tempfile.mkdtemp(), create=True)
    >>> models.put("org/tiny", {"w": numpy.arange(4)}).pin().removeprefix(models.url)
    '/org/tiny@v1'
    >>> thetastore.open(f"{models.url}/org/tiny")["w"][1:3]
    array([1, 2])

    Args:
        url: `STORE/NAME`, `STORE/NAME@VERSION`, or `STORE#DIGEST`.
        digest: of the manifest of a file, 64 hexadecimal digits; then the URL is that of the store alone.
        storage_options: credentials and the like for a URL, as fsspec has them.

    Raises:
        StoreMissingError: a `FileNotFoundError`: there is no store.
        NoSuchModelError: a `KeyError`: the store has no such model, or the model no such version.
        ObjectMissingError: a `KeyError`: the store has no such manifest.
        MalformedError: a `ValueError`: the URL names no model.
    """
    text = os.fspath(url)
    if digest is not None or "#" in text:
        return models.open(text, digest)
    store, rest = find(text, lambda _: storage_options)
    with store:
        if not rest:
            raise MalformedError(f"'{text}' is a store: name a model in it, or use thetastore.Models({text!r})")
        return _open_entry(store.url, resolve(store, parse_name(rest)), storage_options)


def _open_entry(url: str, entry: Entry, storage_options: Options) -> NamedModel:
    refuse_difference(entry)
    files = [file for file in entry.files if file.path.endswith(_TENSORS_IN)] or list(entry.files)
    model = ModelName(entry.name.removeprefix(f"{MODELS}/"), version_text(entry.number))
    digests, paths = tuple(file.manifest_digest for file in files), tuple(file.path for file in files)
    return NamedModel(NamedOrigin(url, model, digests, paths, storage_options))


def _put_tensors(
    versions: Versions, name: str, state_dict: Mapping[str, Any], draft: Draft, base: Entry | None, path: str
) -> Put:
    is_torch = any(type(value).__module__.partition(".")[0] == "torch" for value in state_dict.values())
    tensors = [new_tensor(tensor, value) for tensor, value in state_dict.items()]
    source = safetensors_source(tensors, {"format": "pt" if is_torch else "np"})
    return versions.put_stream(name, path, source, draft, base)


def _version(entry: Entry) -> Version:
    return Version(
        name=f"{entry.name.removeprefix(MODELS + '/')}@{version_text(entry.number)}",
        number=entry.number,
        time=datetime.fromtimestamp(entry.time_ms / 1000, UTC),
        author=entry.author,
        message=entry.message,
        metadata=entry.metadata,
        file_bytes=entry.file_bytes,
        files=entry.files,
    )
