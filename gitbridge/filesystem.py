"""`theta://`: files of any revision as an fsspec file system, read-only: what takes URLs of fsspec opens them.

    theta:///srv/repository@v1.2/models/model.safetensors        a file as it was added, or one that git keeps itself
    theta:///srv/repository@v1.2/model.safetensors//lm_head      the bytes of one tensor, in C order
    theta:///srv/store/<manifest digest>                         a file of a store without Git

The location ends with the part that has an `@`; without one, it is the repository or store that holds the path, and the
revision is HEAD. A `/` in a branch's name is written `%2F`. Only the chunks that hold what is read are fetched.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from fsspec import AbstractFileSystem
from fsspec.spec import AbstractBufferedFile

from gitbridge.fetching import fetch_manifests
from gitbridge.joining import ModelFiles, files_of, may_be_several
from gitbridge.models import GitOrigin
from gitbridge.profile import EVERYTHING
from gitbridge.repository import Repository
from gitbridge.revisions import TENSOR_MARK, resolve
from gitbridge.trees import TrackedFile, tracked_in_tree
from thetastore.checkpoints.tensors import TensorReader
from thetastore.descriptor import DESCRIPTOR
from thetastore.digest import Digest
from thetastore.errors import (
    MalformedError,
    NoSuchTensorError,
    ObjectMissingError,
    ThetaError,
    did_you_mean,
    near_names,
)
from thetastore.models import Handle, Session, StoreOrigin

PROTOCOL = "theta"
_PREFIX = f"{PROTOCOL}://"


class _Plain(NamedTuple):
    """A file that git keeps itself."""

    oid: str
    size: int


class ThetaFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The files of one revision of a repository, or of a store. Read-only, thread-safe and picklable."""

    protocol = PROTOCOL
    root_marker = ""
    cachable = False
    """An instance would go on showing a branch as it was when the first one was made."""

    def __init__(self, location: str = ".", revision: str | None = None, **options: Any) -> None:
        """Show a revision.

        Args:
            location: path of a repository, of a directory in its work tree, or of a store.
            revision: branch, tag or commit; None for HEAD.
            **options: those of any fsspec file system.
        """
        super().__init__(**options)
        self.location = os.path.abspath(location)
        self.revision = revision
        self._files: dict[str, TrackedFile | _Plain] = {}
        self._directories: dict[str, set[str]] = {"": set()}
        self._handles: dict[str, Handle] = {}
        self._root = self.location
        self._oid = ""
        self._is_store = os.path.exists(os.path.join(self.location, DESCRIPTOR))
        if not self._is_store:
            self._list_revision()

    def _list_revision(self) -> None:
        if not os.path.isdir(self.location):
            raise FileNotFoundError(f"there is no Git repository and no store at '{self.location}'")
        with Repository.discover(self.location) as repository:
            self._root = repository.work_tree or repository.git_dir
            self._oid = resolve(repository, self.revision or "HEAD", "commit")
            tracked = {file.path: file for file in tracked_in_tree(repository, self._oid)}
            listing = repository.git("ls-tree", "-r", "-z", "-l", "--full-tree", self._oid)
        for item in listing.split(b"\0")[:-1]:
            head, _, name = item.partition(b"\t")
            mode, _, oid, size = head.split()
            path = os.fsdecode(name)
            if mode.startswith(b"100"):
                self._files[path] = tracked.get(path) or _Plain(oid.decode(), int(size))
                self._add_to_directories(path)

    def _add_to_directories(self, path: str) -> None:
        while path:
            parent = path.rpartition("/")[0]
            self._directories.setdefault(parent, set()).add(path)
            path = parent

    # What a URL means

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = os.fspath(path)
        if text.startswith(_PREFIX):
            text = _split(text)[2]
        return text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        location, revision, _ = _split(path)
        return {"location": location, "revision": revision}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        revision = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{_PREFIX}{self.location}{revision}/{self._strip_protocol(name)}"

    # Listing

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return name, size and type, and the digest of what has one.

        Raises:
            FileNotFoundError: there is nothing at the path.
        """
        name = self._strip_protocol(path)
        if name in self._directories and not (self._is_store and name):
            return {"name": name, "size": 0, "type": "directory"}
        file, mark, tensor = name.partition(TENSOR_MARK)
        if mark:
            if not self._may_have_tensors(file):
                raise FileNotFoundError(path)
            session, number = self._place_of(file, tensor)
            entry = session.readers[number].tensor(tensor)
            found = {"name": name, "size": entry.raw_bytes, "type": "file", "dtype": entry.dtype}
            return found | ({"digest": str(entry.digest)} if entry.digest else {})
        if self._is_store:
            manifest = self._place_of(name, None)[0].readers[0].manifest
            return {"name": name, "size": manifest.file_bytes, "type": "file", "digest": str(manifest.file_digest)}
        file_there = self._files.get(name)
        if file_there is None:
            meant = did_you_mean(near_names(name, list(self._files)))
            raise FileNotFoundError(f"there is no file '{name}' in '{self.location}'{meant}")
        if isinstance(file_there, _Plain):
            return {"name": name, "size": file_there.size, "type": "file", "oid": file_there.oid}
        return {"name": name, "size": file_there.file_bytes, "type": "file", "digest": str(file_there.file_digest)}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a directory, or a file. What a store holds cannot be listed: manifests are known by their digests."""
        name = self._strip_protocol(path)
        if name in self._directories:
            names = sorted(self._directories[name])
        else:
            self.info(name)
            names = [name]
        return [self.info(one) for one in names] if detail else names

    def created(self, path: str) -> Any:
        """Refuse: git knows when a commit was made, and not when a file was."""
        raise NotImplementedError("files of a revision have no times; their commits do")

    modified = created

    # Reading

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return the bytes of a file, or some of them; negative places count from the end."""
        size = self.info(path)["size"]
        first, last, _step = slice(start, end).indices(size)
        return self._read(self._strip_protocol(path), first, max(first, last))

    def _open(self, path: str, mode: str = "rb", block_size: Any = None, **options: Any) -> _File:
        if mode != "rb":
            raise OSError(30, "theta:// is read-only; git theta add, commit and gitbridge.commit write", path)
        options.pop("autocommit", None)
        return _File(self, path, mode, **({"block_size": block_size} if block_size else {}), **options)

    def _read(self, name: str, start: int, stop: int) -> bytes:
        file, mark, tensor = name.partition(TENSOR_MARK)
        found = self._files.get(file)
        if isinstance(found, _Plain) and not mark:
            with Repository.at(self._root) as repository:
                return repository.read_object(found.oid)[start:stop]
        session, number = self._place_of(file, tensor if mark else None)
        try:
            return _bytes_of(session.readers[number], tensor if mark else None, start, stop)
        except ObjectMissingError:
            if not isinstance(found, TrackedFile) and not mark:
                raise
            if mark:
                session.bring({number: [tensor]})
            elif isinstance(found, TrackedFile):
                self._bring(found)
            return _bytes_of(session.readers[number], tensor if mark else None, start, stop)

    def _bring(self, file: TrackedFile) -> None:
        with Repository.at(self._root) as repository, repository.open_store() as store:
            fetch_manifests(repository, store, [file], None, self._oid, profile=EVERYTHING)

    def _may_have_tensors(self, file: str) -> bool:
        found = self._files.get(file)
        return self._is_store or isinstance(found, TrackedFile) or (found is not None and may_be_several(file, None))

    def _place_of(self, file: str, tensor: str | None) -> tuple[Session, int]:
        """Return what this process has open of a file, or of those that it names, and which of them has a tensor."""
        try:
            if file not in self._handles:
                self._handles[file] = self._new_handle(file)
            session = self._handles[file].session()
        except MalformedError as error:
            raise FileNotFoundError(f"{file}: {error}") from error
        if tensor is None:
            return session, 0
        for number, reader in enumerate(session.readers):
            if tensor in reader:
                return session, number
        names = tuple(entry.name for reader in session.readers for entry in reader.manifest.tensors)
        raise FileNotFoundError(f"{file}{TENSOR_MARK}{tensor}: {NoSuchTensorError(tensor, names)}")

    def _new_handle(self, file: str) -> Handle:
        if self._is_store:
            try:
                return Handle(StoreOrigin(self.location, (Digest.parse(file),)))
            except ThetaError:
                raise FileNotFoundError(f"'{file}' is not the digest of a manifest") from None
        found = self._files[file]
        if isinstance(found, TrackedFile) and not may_be_several(file, found):
            return Handle(GitOrigin(self._root, ModelFiles(file, (found,), self._oid)))
        tracked = {path: one for path, one in self._files.items() if isinstance(one, TrackedFile)}
        with Repository.at(self._root) as repository:
            model = files_of(repository, self._oid, file, tracked)
        if model is None:
            raise FileNotFoundError(f"'{file}' has no tensors")
        return Handle(GitOrigin(self._root, model))

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.location, self._oid or self.revision, self.storage_options)


def _remade(location: str, revision: str | None, options: dict[str, Any]) -> ThetaFileSystem:
    return ThetaFileSystem(**{**options, "location": location, "revision": revision})


class _File(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.cat_file(self.path, start, end)  # type: ignore[no-any-return]


def _bytes_of(reader: TensorReader, tensor: str | None, start: int, stop: int) -> bytes:
    return reader.read_file(start, stop) if tensor is None else bytes(reader.read_range(tensor, start, stop))


def _split(url: str) -> tuple[str, str | None, str]:
    """Return location, revision and the path in it."""
    text = url.removeprefix(_PREFIX)
    model = text.split("/")
    for at, part in enumerate(model):
        if part == "" and at:  # `//` begins a tensor's name
            break
        name, mark, revision = part.rpartition("@")
        if mark:
            return "/".join([*model[:at], name]) or ".", unquote(revision) or None, "/".join(model[at + 1 :])
    location = text.split(TENSOR_MARK)[0] if not text.startswith("//") else text
    while location not in ("", "/"):
        if os.path.exists(os.path.join(location, DESCRIPTOR)) or _is_repository(location):
            return location, None, text[len(location) :].removeprefix("/")
        location = os.path.dirname(location)
    raise FileNotFoundError(f"'{url}' is in no Git repository and in no store")


def _is_repository(path: str) -> bool:
    try:
        Repository.at(path).close()
    except ThetaError:
        return False
    return True
