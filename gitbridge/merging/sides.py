"""The three sides that git hands over, as checkpoints: pointers of files in stores, plain files, or nothing."""

from __future__ import annotations

import io
from typing import NamedTuple

from gitbridge.errors import PointerError
from gitbridge.fetching import fetch_manifests
from gitbridge.pointers import is_pointer, parse_pointer
from gitbridge.profile import EVERYTHING
from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.merging import MergeError
from thetastore.merging.checkpoints import Checkpoint, Nothing, StoredCheckpoint
from thetastore.merging.merge import Sides
from thetastore.store import Store


class _Needed(NamedTuple):
    """What `fetch_manifests` wants to know of a file."""

    path: str
    manifest_digest: Digest


def open_sides(repository: Repository, store: Store, path: str, base: bytes, ours: bytes, theirs: bytes) -> Sides:
    """Return the checkpoints that three texts stand for; what the local store lacks is fetched.

    Args:
        repository: whose remotes are asked.
        store: the local store.
        path: of the file, for messages.
        base: a pointer, the bytes of a file that was committed before it was tracked, or nothing at all.
        ours: likewise.
        theirs: likewise.

    Raises:
        MergeError: a text begins as a pointer and is none.
        RemoteError: weights are in no store that was asked.
    """
    labels = ("base", "ours", "theirs")
    digests = [_manifest(store, text, label) for text, label in zip((base, ours, theirs), labels, strict=True)]
    fetch_manifests(
        repository, store, [_Needed(path, digest) for digest in digests if digest is not None], None, profile=EVERYTHING
    )
    found = [_opened(store, digest, label) for digest, label in zip(digests, labels, strict=True)]
    return Sides(*found)


def _manifest(store: Store, text: bytes, label: str) -> Digest | None:
    if not text:
        return None
    if is_pointer(text):
        try:
            return parse_pointer(text).manifest_digest
        except PointerError as error:
            way = "" if label == "base" else f"take the other side whole: git checkout --{_OTHER[label]} -- FILE"
            raise MergeError(f"{label} is a damaged pointer: {error}", way) from error
    return store.put_file(io.BytesIO(text)).manifest_digest


_OTHER = {"ours": "theirs", "theirs": "ours"}


def _opened(store: Store, digest: Digest | None, label: str) -> Checkpoint:
    return Nothing() if digest is None else StoredCheckpoint(store, digest, label)
