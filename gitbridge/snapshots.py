"""All files of a revision in a directory, without a work tree: what `from_pretrained` and the like take.

Weights come from the store, whole and verified, all else from Git. A file that is there already, with the right bytes,
stays as it is, so that a download that was cut off goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from gitbridge.clones import clone_of, is_url
from gitbridge.errors import PathMissingError, RemoteError, RevisionError, UsageError
from gitbridge.fetching import fetch_manifests
from gitbridge.journal import is_safe_path
from gitbridge.profile import EVERYTHING
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.trees import TrackedFile, tracked_in_tree
from thetastore.digest import new_hasher
from thetastore.open_file import Replacing
from thetastore.store import Store
from thetastore.user_cache import cache_directory

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
    force_download: bool = False,
    local_files_only: bool = False,
    repo_type: str | None = None,
    dry_run: bool = False,
    max_workers: int | None = None,
    tqdm_class: Any = None,
    token: Any = None,
    endpoint: str | None = None,
    headers: Any = None,
    user_agent: Any = None,
    library_name: str | None = None,
    library_version: str | None = None,
    etag_timeout: float = 10,
) -> str:
    """Write the files of a revision into a directory; return its path. As `huggingface_hub.snapshot_download`.

    Args:
        repo_id: a repository on this machine, or the URL of one elsewhere.
        revision: branch, tag or commit; None for HEAD.
        cache_dir: where the snapshot goes if `local_dir` is not given; None for the user's cache.
        local_dir: where the files go. Others that are there are left alone.
        allow_patterns: globs of the paths to write; None for all.
        ignore_patterns: globs of paths not to write; goes first.
        force_download: write files again that are there already with the right bytes.
        local_files_only: ask no other machine: what is not here is an error.
        repo_type: `model`, for people who pass it.
        dry_run: for people who pass it: True is refused.
        max_workers: has no effect: a file is decoded by as many threads as there are processors.
        tqdm_class: has no effect, as all after it: git and the store ask with their own credentials.
        token: has no effect.
        endpoint: has no effect.
        headers: has no effect.
        user_agent: has no effect.
        library_name: has no effect.
        library_version: has no effect.
        etag_timeout: has no effect.

    Raises:
        RepositoryMissingError, RevisionError, RemoteError: as `gitbridge.open`.
        PathMissingError: a `FileNotFoundError`: the patterns allow no file.
        RemoteError: with `local_files_only`: weights, or the revision, are not here.
        OSError: the directory cannot be written.
    """
    if repo_type not in (None, "model"):
        raise UsageError(f"repo_type is '{repo_type}', and a Git repository has no type", "leave it out")
    if dry_run:
        raise UsageError("dry_run is not known here", "git theta ls-files REVISION lists files and their sizes")
    text = os.fspath(repo_id)
    if is_url(text):
        cache = os.fspath(cache_dir) if cache_dir is not None else None
        repository, oid = clone_of(text, revision, cache, local_files_only)
    else:
        repository = Repository.discover(text)
        oid = resolve(repository, revision or "HEAD", "commit")
    with repository:
        target = os.fspath(local_dir) if local_dir is not None else _cached(repository, oid, cache_dir)
        chosen = _chosen_files(repository, oid, _listed(allow_patterns), _listed(ignore_patterns) or [])
        _write(repository, oid, target, chosen, _How(force_download, local_files_only))
    return os.path.abspath(target)


class _How(NamedTuple):
    is_forced: bool
    """Files that are there are written, too."""
    is_local: bool
    """Nothing is fetched."""


def _cached(repository: Repository, oid: str, cache_dir: str | os.PathLike[str] | None) -> str:
    name = hashlib.sha256(os.fsencode(repository.common_dir)).hexdigest()[:32]
    return os.path.join(cache_dir if cache_dir is not None else cache_directory(), "snapshots", name, oid)


def _listed(patterns: Patterns) -> list[str] | None:
    return None if patterns is None else [patterns] if isinstance(patterns, str) else list(patterns)


class _Chosen(NamedTuple):
    weights: list[TrackedFile]
    plain: dict[str, str]
    """Paths of what git holds itself, with their blobs."""


def _chosen_files(repository: Repository, oid: str, allow: list[str] | None, ignore: list[str]) -> _Chosen:
    tracked = {file.path: file for file in tracked_in_tree(repository, oid)}
    plain = _plain_files(repository, oid, tracked)
    chosen = _Chosen(
        [file for path, file in tracked.items() if _is_chosen(path, allow, ignore)],
        {path: blob for path, blob in plain.items() if _is_chosen(path, allow, ignore)},
    )
    if not any(chosen):
        raise PathMissingError(f"no file of {oid[:12]} is allowed by {allow} and not ignored by {ignore}")
    return chosen


def _write(repository: Repository, oid: str, target: str, chosen: _Chosen, how: _How) -> None:
    os.makedirs(target, exist_ok=True)
    _write_weights(repository, oid, chosen.weights, target, how)  # what may be missing goes first
    for path, blob in chosen.plain.items():
        _write_plain(repository, blob, _place(target, path), how.is_forced)


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


def _write_plain(repository: Repository, blob: str, place: str, is_forced: bool) -> None:
    content = repository.read_object(blob)
    if not is_forced and _has(place, len(content), hashlib.sha256(content).digest(), hashlib.sha256):
        return
    with Replacing(place) as descriptor, os.fdopen(os.dup(descriptor), "wb") as stream:
        stream.write(content)


def _write_weights(repository: Repository, oid: str, files: list[TrackedFile], target: str, how: _How) -> None:
    places = {file.path: _place(target, file.path) for file in files}
    wanted = [
        file
        for file in files
        if how.is_forced or not _has(places[file.path], file.file_bytes, file.file_digest, new_hasher)
    ]
    if not wanted:
        return
    with repository.open_store() as store:
        if not how.is_local:
            fetch_manifests(repository, store, wanted, None, oid, profile=EVERYTHING)
        elif store.missing_objects(file.manifest_digest for file in wanted):
            raise RemoteError("weights are not in the local store, and local_files_only=True forbids to fetch them")
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
