"""What a digest is of, or the digits that it begins with: any that we print, anywhere.

People copy what they see: the digest of a file from `ls-files --long`, that of a tensor, ten digits of either, or an
object's from an error with its `…`. Objects are found by the tables of packs; files and tensors, which are no objects,
by the manifests that have a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from thetastore.checkpoints.rebuild import iter_chunks
from thetastore.collecting.roots import Root
from thetastore.digest import Digest, Kind
from thetastore.errors import MalformedError, UnsupportedError
from thetastore.manifest import Manifest, Tensor, parse_manifest
from thetastore.objects import Objects
from thetastore.packs.catalog import records_of
from thetastore.selection import reach_bytes

_LEAST_DIGITS = 4
_MOST_SHOWN = 5


class Meaning(NamedTuple):
    """What a digest is of."""

    digest: Digest
    words: tuple[str, ...]
    """Each thing that it names: `chunk`, `tensor 'w' of the file 4a1b…`. The same bytes may be several."""
    objects: tuple[Digest, ...]
    """What has to be there for it: itself, if it is an object; else what the file or tensor is made of."""


def meaning_of(objects: Objects, roots: Iterable[Root], text: str) -> Meaning | None:
    """Return what the one digest is of that begins so; None where none does.

    Args:
        objects: of the store, which has just been listed.
        roots: whose files and tensors are looked through.
        text: at least four hexadecimal digits, perhaps with the `…` behind them that messages have.

    Raises:
        MalformedError: these are no digits, or several digests begin so; the message has these.
        ThetaError: a manifest that is named cannot be read.
    """
    digits = text.strip().removesuffix("…").removesuffix("...").lower()
    if not re.fullmatch(f"[0-9a-f]{{{_LEAST_DIGITS},64}}", digits):
        raise MalformedError(
            f"'{text[:80]}' is no digest, expected {_LEAST_DIGITS} to 64 hexadecimal digits, those that it begins with"
        )
    found: dict[Digest, dict[str, tuple[Digest, ...]]] = {}
    manifests = dict.fromkeys(root.manifest_digest for root in roots)
    for digest, words, needed in [*_of_objects(objects, digits), *_of_files(objects, manifests, digits)]:
        things = found.setdefault(digest, {})
        things[words] = tuple(dict.fromkeys([*things.get(words, ()), *needed]))
    if len(found) > 1:
        raise MalformedError(_several(digits, found))
    for digest, things in found.items():
        telling = [thing for thing in things if thing not in _PLAIN.values()] or list(things)
        return Meaning(digest, tuple(telling), tuple(dict.fromkeys(one for some in things.values() for one in some)))
    return None


def _several(digits: str, found: dict[Digest, dict[str, tuple[Digest, ...]]]) -> str:
    shown = [f"{str(digest)[: len(digits) + 8]}… ({list(things)[-1]})" for digest, things in sorted(found.items())]
    more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    return f"{len(found)} digests begin with '{digits}', more digits are needed: {'; '.join(shown[:_MOST_SHOWN])}{more}"


_Found = tuple[Digest, str, tuple[Digest, ...]]
_PLAIN = {int(Kind.CHUNK): "chunk", int(Kind.MANIFEST): "manifest", int(Kind.PAGE): "page of a manifest"}
"""What is said of an object of which nothing that has a name says more."""


def _of_objects(objects: Objects, digits: str) -> Iterator[_Found]:
    snapshot = objects.catalog.snapshot()
    names = dict.fromkeys([*snapshot.packs, *(name for note in snapshot.notes for name in note.file_names)])
    for name in names:
        try:
            records = records_of(objects.packs.get(name))
        except (FileNotFoundError, MalformedError, UnsupportedError):
            continue
        for _, _, entry in records:
            if str(entry.digest).startswith(digits):
                yield entry.digest, _PLAIN.get(entry.kind, "object of a kind that is not known here"), (entry.digest,)


def _of_files(objects: Objects, manifests: Iterable[Digest], digits: str) -> Iterator[_Found]:
    for digest in manifests:
        manifest = parse_manifest(objects.get(Kind.MANIFEST, digest))
        file = f"the file {str(manifest.file_digest)[:16]}… (manifest {str(digest)[:16]}…)"
        if str(digest).startswith(digits):
            yield digest, f"manifest of the file {str(manifest.file_digest)[:16]}…", (digest,)
        if str(manifest.file_digest).startswith(digits):
            chunks = (placed.chunk.digest for placed in iter_chunks(objects, manifest))
            pages = (page.digest for page in manifest.pages)
            yield manifest.file_digest, f"the file of manifest {str(digest)[:16]}…", (digest, *pages, *chunks)
        for tensor in manifest.tensors:
            if str(tensor.digest).startswith(digits):
                words = f"tensor '{tensor.name}' of {file}"
                yield tensor.digest, words, tuple(_chunks_of(objects, manifest, tensor))
        whole = {tensor.digest for tensor in manifest.tensors}
        for placed in iter_chunks(objects, manifest):
            if str(placed.chunk.digest).startswith(digits) and placed.chunk.digest not in whole:
                words = _chunk_words(manifest, placed.offset, placed.chunk.raw_bytes)
                yield placed.chunk.digest, f"{words} of {file}", (placed.chunk.digest,)


def _chunks_of(objects: Objects, manifest: Manifest, tensor: Tensor) -> Iterator[Digest]:
    start, stop = tensor.offset, tensor.offset + reach_bytes(tensor)
    for placed in iter_chunks(objects, manifest):
        if placed.offset < stop and start < placed.offset + placed.chunk.raw_bytes:
            yield placed.chunk.digest


def _chunk_words(manifest: Manifest, offset: int, nbytes: int) -> str:
    for tensor in manifest.tensors:
        if tensor.offset < offset + nbytes and offset < tensor.offset + reach_bytes(tensor):
            return f"chunk of tensor '{tensor.name}'"
    return f"chunk at byte {offset}"
