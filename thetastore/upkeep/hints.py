"""Hints made anew from what a store holds: families of models, locators of manifests, anchors of chunks.

Adding reads them to find bases and copies; they are never needed to read. Lost or out of date, they cost bytes, which a
repack then cannot win back either. All chunks of tensors are decoded once, so it takes about as long as `verify`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import NamedTuple

from thetastore.bases.candidates import Candidate, TensorMap, read_manifest
from thetastore.bases.finding import MOST_SKETCHES, file_model
from thetastore.checkpoints.locating import write_locators
from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.codecs.copies import read_recipe
from thetastore.digest import Digest, Kind
from thetastore.errors import BackendError, MalformedError, ThetaError, UnsupportedError
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.pool import Pool
from thetastore.representations.anchor_table import MERGE_LOCK, AnchorTable
from thetastore.representations.anchors import MIN_CHUNK_BYTES, Anchor, to_remember
from thetastore.representations.copying import Copying


class Rebuilt(NamedTuple):
    """What the tables have now."""

    model_count: int
    """Models that were looked at; a key keeps its first few."""
    anchor_count: int
    locator_count: int
    """Models that are wholly there, and so have one."""


def rebuild_hints(objects: Objects, pool: Pool) -> Rebuilt:
    """Make the tables of families and of anchors anew, and the locators of all files.

    Others may add meanwhile; what they file or remember in between may be lost, as hints may be.

    Raises:
        BackendError: the store cannot be written to, or (`EAGAIN`) another process merges anchors.
    """
    backend = objects.backend
    objects.catalog.refresh(thorough=True)
    manifests = _manifests(objects)
    for name in list(backend.list("families")):
        backend.delete(name)
    for digest in manifests:
        manifest = read_manifest(objects, digest)
        if manifest is not None:
            file_model(backend, manifest.tensors, Candidate(objects, manifest).sketches(MOST_SKETCHES), digest)
    for name in list(backend.list("locators")):
        backend.delete(name)
    locator_count = write_locators(objects, manifests, objects.get)
    table = AnchorTable(backend)
    with backend.try_lock(MERGE_LOCK) as is_ours:
        if not is_ours:
            raise BackendError(errno.EAGAIN, "another process is merging anchors", backend.url)
        table.clear()
    for chunk, anchors in pool.map_bounded(lambda item: _anchored(objects, *item), _chunks(objects, manifests), _no):
        table.add(chunk, anchors)
    table.flush()
    return Rebuilt(len(manifests), table.anchor_count, locator_count)


def _manifests(objects: Objects) -> list[Digest]:
    """Return all manifests, in the order in which they were written."""
    found: dict[Digest, None] = {}
    snapshot = objects.catalog.snapshot()
    for name in sorted(snapshot.packs - snapshot.retired):
        try:
            records = records_of(objects.packs.get(name))
        except (FileNotFoundError, MalformedError, UnsupportedError):
            continue
        found.update((record.entry.digest, None) for record in records if record.entry.kind == Kind.MANIFEST)
    return list(found)


def _chunks(objects: Objects, manifests: list[Digest]) -> Iterator[tuple[Digest, int, str]]:
    """Yield each chunk of a tensor once, with its length and element type."""
    seen: set[Digest] = set()
    for digest in manifests:
        manifest = read_manifest(objects, digest)
        if manifest is None:
            continue
        tensors = TensorMap(manifest.tensors)
        try:
            for offset, chunk in iter_chunks(objects, manifest):
                tensor = tensors.at(offset, chunk.raw_bytes) if chunk.raw_bytes >= MIN_CHUNK_BYTES else None
                if tensor is not None and chunk.digest not in seen:
                    seen.add(chunk.digest)
                    yield chunk.digest, chunk.raw_bytes, tensor.dtype
        except ThetaError:
            continue  # a page that cannot be read


def _anchored(objects: Objects, digest: Digest, raw_bytes: int, dtype: str) -> tuple[Digest, list[Anchor]]:
    """Return a chunk's anchors that are worth remembering; none where it cannot be read."""
    representations = objects.representations
    try:
        decoded = representations.decode(digest, raw_bytes)
    except ThetaError:
        return digest, []
    try:
        anchors = Copying.anchors(decoded.raw, dtype)
        entry, stored = representations.stored(digest)
        if entry.codec == "copies":
            # Where a base has the bytes, its own anchors lead to it.
            patches = read_recipe(stored, raw_bytes)[1].patches
            anchors = [
                anchor
                for anchor in anchors
                if any(patch.start <= anchor.offset < patch.start + patch.nbytes for patch in patches)
            ]
        return digest, to_remember(anchors, raw_bytes, entry.stored_bytes)
    except ThetaError:
        return digest, []
    finally:
        representations.give(decoded.raw)


def _no(_: tuple[Digest, int, str]) -> bool:
    return False
