"""Locators written: after the index run that covers what a manifest needs, before anything that names the manifest."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable

from thetastore.backends import Backend
from thetastore.digest import Buffer, Digest, Kind
from thetastore.errors import ThetaError
from thetastore.manifest import parse_manifest, parse_page
from thetastore.objects import Objects

GetObject = Callable[[Kind, Digest], Buffer]


def write_locators(
    objects: Objects, manifest_digests: Iterable[Digest], get: GetObject, outdated: Container[Digest] = ()
) -> int:
    """Write the locators of manifests that have none; return how many. They are hints: it is no error if that fails.

    Everything of these files must be sealed.

    Args:
        objects: the store.
        manifest_digests: of the files.
        get: returns manifests and pages, from wherever that is nearest.
        outdated: manifests whose locators, if there are any, speak of packs that are gone.
    """
    from thetastore.packs.locator import locator_name

    count = 0
    for digest in dict.fromkeys(manifest_digests):
        name = locator_name(digest)
        try:
            stored = make_locator(objects, digest, get)
            if stored is None:
                continue
            _create(objects.backend, name, stored, digest in outdated)
            count += 1
        except (ThetaError, FileExistsError):
            continue
    return count


_MOST_SIZES = 16
"""Files that are asked for one by one; for more, the directory is listed, a thousand in a request."""


def without_locator(backend: Backend, manifest_digests: Iterable[Digest]) -> list[Digest]:
    """Return those of some manifests that have no locator.

    Raises:
        BackendError: the place does not answer.
    """
    from thetastore.packs.locator import DIRECTORY, locator_name

    wanted = list(dict.fromkeys(manifest_digests))
    if len(wanted) > _MOST_SIZES:
        there = set(backend.list(DIRECTORY))
        return [digest for digest in wanted if locator_name(digest) not in there]
    return [digest for digest in wanted if not _is_there(backend, locator_name(digest))]


def _is_there(backend: Backend, name: str) -> bool:
    try:
        backend.size(name)
        return True
    except FileNotFoundError:
        return False


def _create(backend: Backend, name: str, stored: bytes, may_replace: bool) -> None:
    try:
        backend.create(name, stored, durable=False)
    except FileExistsError:
        if not may_replace:
            raise
        backend.delete(name)
        backend.create(name, stored, durable=False)


def make_locator(objects: Objects, manifest_digest: Digest, get: GetObject) -> bytes | None:
    """Return the bytes of a manifest's locator; None where the store has not all of the file.

    Raises:
        ObjectMissingError, ObjectCorruptError: the manifest or a page cannot be had.
        MalformedError: it would be too long.
    """
    from thetastore.packs.locator import encode_locator

    raw = bytes(get(Kind.MANIFEST, manifest_digest))
    manifest = parse_manifest(raw)
    chunks = [chunk.digest for chunk in manifest.chunks]
    pages = []
    for ref in manifest.pages:
        pages.append(bytes(get(Kind.PAGE, ref.digest)))
        chunks += (chunk.digest for chunk in parse_page(pages[-1], ref))
    found = objects.whereabouts.collect(chunks)
    try:
        return encode_locator(raw, pages, found, objects.catalog.snapshot().covering(found.values()))
    except KeyError:  # a chunk, or a base
        return None
