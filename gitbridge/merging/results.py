"""A merge that is decided becomes a file in the store, and its pointer; how it came to be is kept beside it."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from typing import IO, Any, NamedTuple

from gitbridge.pointers import render_pointer
from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.manifest import Manifest
from thetastore.merge_records import put_record
from thetastore.merging import MergeError
from thetastore.merging.checkpoints import StoredCheckpoint
from thetastore.merging.merge import Merge, Sides, source_of
from thetastore.store import Store


class Merged(NamedTuple):
    """A result that is durable in the local store."""

    pointer: bytes
    manifest_digest: Digest


def store_result(repository: Repository, store: Store, merge: Merge, path: str) -> Merged:
    """Put the file of a merge without conflicts into the store, and make it durable.

    Raises:
        MergeError: the numbers, or the format of ours, do not allow the result. Nothing refers to what was written.
        BackendError: the disk is full or failing.
    """
    ours = merge.sides.ours
    parent = ours.digest if isinstance(ours, StoredCheckpoint) else None
    with ExitStack() as stack:

        def scratch() -> IO[bytes]:
            directory = store.url if os.path.isdir(store.url) else None
            return stack.enter_context(tempfile.TemporaryFile(dir=directory))

        stored = store.put_file(source_of(merge, scratch), parent)
    _check(merge, stored.manifest)
    put_record(store.backend, stored.manifest_digest, _record(merge, path))
    store.seal()
    return Merged(render_pointer(stored.manifest, stored.manifest_digest), stored.manifest_digest)


def _check(merge: Merge, manifest: Manifest) -> None:
    """Compare what a fresh look at the file sees with what it was to hold."""
    wanted = {result.name: (result.dtype, result.shape) for result in merge.results}
    if {tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors} != wanted:
        raise MergeError("the file that was made does not hold the tensors that it was to hold", "take one side whole")


def _record(merge: Merge, path: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "three-way",
        "path": path,
        **{f"{side}_manifest": _manifest(merge.sides, side) for side in ("base", "ours", "theirs")},
        "taken_from_theirs": len(merge.taken("theirs")),
        "rules": [
            {"rule": text, "source": source, "tensors": names} for (text, source), names in rules_used(merge).items()
        ],
    }


def _manifest(sides: Sides, side: str) -> str | None:
    checkpoint = getattr(sides, side)
    return str(checkpoint.digest) if isinstance(checkpoint, StoredCheckpoint) else None


def rules_used(merge: Merge) -> dict[tuple[str, str], list[str]]:
    """Return the tensors that each rule decided, by the rule's text and source."""
    found: dict[tuple[str, str], list[str]] = {}
    for decision, rule in merge.mixed:
        found.setdefault((rule.text(), rule.source), []).append(decision.name)
    return found
