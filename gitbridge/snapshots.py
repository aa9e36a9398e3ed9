"""All files of a revision in a directory, without a work tree: what `from_pretrained` and the like take.

Weights come from the store, whole and verified, all else from Git. A file that is there already, with the right bytes,
stays as it is, so that a download that was cut off goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from gitbridge.clones import cache_directory, clone_of, is_url
from gitbridge.errors import PathMissingError, RevisionError, UsageError
from gitbridge.fetching import fetch_manifests
from gitbridge.journal import is_safe_path
from gitbridge.profile import EVERYTHING
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.trees import TrackedFile, tracked_in_tree
from thetastore.digest import new_hasher
from thetastore.open_file import Replacing
from thetastore.store import Store

Patterns = str | Sequence[str] | None
_READ_BYTES = 1 << 20


def snapshot_download(
    repo_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_dir: str | os.PathLike[str] | None = None,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    local_files_only: bool = False,
    max_workers: int | None = None,
) -> str:
    """Write the files of a revision into a directory; return its path. As `huggingface_hub.snapshot_download`.

    Args:
        repo_id: a repository on this machine, or the URL of one elsewhere.
        revision: branch, tag or commit; None for HEAD.
        cache_dir: where the snapshot goes if `local_dir` is not given; None for the user's cache.
        local_dir: where the files go. Others that are there are left alone.
        allow_patterns: globs of the paths to write; None for all.
        ignore_patterns: globs of paths not to write; goes first.
        local_files_only: for people who pass it: True is refused, since what is in the local store is not fetched
            anyway.
        max_workers: has no effect: a file is decoded by as many threads as there are processors.

    Raises:
        RepositoryMissingError, RevisionError, RemoteError: as `gitbridge.open`.
        PathMissingError: the patterns allow no file.
        OSError: the directory cannot be written.
    """
    if local_files_only:
        raise UsageError("local_files_only is not known here: what the local store has is never fetched again")
    text = os.fspath(repo_id)
    if is_url(text):
        repository, oid = clone_of(text, revision, os.fspath(cache_dir) if cache_dir is not None else None)
    else:
        repository = Repository.discover(text)
        oid = resolve(repository, revision or "HEAD", "commit")
    with repository:
        target = os.fspath(local_dir) if local_dir is not None else _cached(repository, oid, cache_dir)
        _write(repository, oid, target, _listed(allow_patterns), _listed(ignore_patterns) or [])
    return os.path.abspath(target)


def _cached(repository: Repository, oid: str, cache_dir: str | os.PathLike[str] | None) -> str:
    name = hashlib.sha256(os.fsencode(repository.common_dir)).hexdigest()[:32]
    return os.path.join(cache_dir if cache_dir is not None else cache_directory(), "snapshots", name, oid)


def _listed(patterns: Patterns) -> list[str] | None:
    return None if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)


def _write(repository: Repository, oid: str, target: str, allow: list[str] | None, ignore: list[str]) -> None:
    tracked = {file.path: file for file in tracked_in_tree(repository, oid)}
    plain = _plain_files(repository, oid, tracked)
    chosen = {path for path in (*tracked, *plain) if _is_chosen(path, allow, ignore)}
    if not chosen:
        raise PathMissingError(f"no file of {oid[:12]} is allowed by {allow} and not ignored by {ignore}")
    os.makedirs(target, exist_ok=True)
    for path, blob in plain.items():
        if path in chosen:
            _write_plain(repository, blob, _place(target, path))
    _write_weights(repository, oid, [file for path, file in tracked.items() if path in chosen], target)


def _plain_files(repository: Repository, oid: str, tracked: Iterable[str]) -> dict[str, str]:
    """Return the regular files of a commit that git holds itself, with their blobs; no links, no submodules."""
    found = {}
    for item in repository.git("ls-tree", "-r", "-z", "--full-tree", oid).split(b"\0")[:-1]:
        head, _, name = item.partition(b"\t")
        mode, _, blob = head.split()
        path = os.fsdecode(name)
        if mode.startswith(b"100") and path not in tracked:
            found[path] = blob.decode()
    return found


def _is_chosen(path: str, allow: list[str] | None, ignore: list[str]) -> bool:
    def matches(globs: list[str]) -> bool:
        return any(fnmatchcase(path, glob + "*" if glob.endswith("/") else glob) for glob in globs)

    return (allow is None or matches(allow)) and not matches(ignore)


def _place(target: str, path: str) -> str:
    """Return where a file goes, its directory made; what would lead out of the target is refused."""
    if not is_safe_path(os.fsencode(path)):
        raise RevisionError(f"'{path}' is not a path in a work tree")
    place = os.path.join(target, path)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    root = os.path.realpath(target)
    if not os.path.realpath(os.path.dirname(place)).startswith(os.path.join(root, "")) and (
        os.path.realpath(os.path.dirname(place)) != root
    ):
        raise UsageError(f"'{os.path.dirname(place)}' leads out of '{target}'")
    if os.path.islink(place):
        os.unlink(place)
    return place


def _write_plain(repository: Repository, blob: str, place: str) -> None:
    content = repository.read_object(blob)
    if _has(place, len(content), hashlib.sha256(content).digest(), hashlib.sha256):
        return
    with Replacing(place) as descriptor, os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(content)


def _write_weights(repository: Repository, oid: str, files: list[TrackedFile], target: str) -> None:
    places = {file.path: _place(target, file.path) for file in files}
    wanted = [file for file in files if not _has(places[file.path], file.file_bytes, file.file_digest, new_hasher)]
    if not wanted:
        return
    with repository.open_store() as store:
        fetch_manifests(repository, store, wanted, None, oid, profile=EVERYTHING)
        for file in wanted:
            _write_file(store, file, places[file.path])


def _write_file(store: Store, file: TrackedFile, place: str) -> None:
    manifest = store.get_manifest(file.manifest_digest)
    with Replacing(place) as descriptor:
        store.write_file(manifest, file.manifest_digest, descriptor)


def _has(place: str, file_bytes: int, digest: bytes, hasher_type: Any) -> bool:
    """Tell whether a file is there with these bytes."""
    try:
        if os.path.getsize(place) != file_bytes:
            return False
        hasher = hasher_type()
        with open(place, "rb") as stream:
            while piece := stream.read(_READ_BYTES):
                hasher.update(piece)
    except OSError:
        return False
    return bool(hasher.digest() == digest)
