"""What is needed, and where it lies: the digests that roots lead to, and what all packs hold, in 8 bytes a digest.

Two digests whose first 8 bytes are the same are taken for one. What that keeps for nothing is one object in many
billions, and nothing goes because of it: collecting keeps the one for the other, and pruning compares whole digests
where another store says that it has an object.

Time and memory: every manifest and page that is named is read, and the table of every pack; some 30 bytes are held for
each object of the store. No chunk is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy

from thetastore.collecting.roots import Root
from thetastore.digest import Digest, Kind
from thetastore.errors import MalformedError, ObjectMissingError
from thetastore.manifest import parse_manifest, parse_page
from thetastore.objects import Objects
from thetastore.packs.reader import Packs
from thetastore.packs.records import MAX_DEPTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint64]

_KINDS = frozenset(map(int, Kind))
_TABLES_AT_ONCE = 256
"""From far away: at most 64 KiB of each are announced."""


def word_of(digest: bytes) -> int:
    """Return what stands for a digest here."""
    return int.from_bytes(digest[:8], "little")


def words_of(digests: Iterable[Digest]) -> Words:
    """Return what stands for digests, ascending and distinct."""
    return _distinct(array("Q", map(word_of, digests)))


def needed_by(objects: Objects, roots: Iterable[Root], may_lack: bool = False) -> Words:
    """Return the words, ascending and distinct, of all that files need: manifests, pages, chunks; no bases.

    Args:
        objects: of the store.
        roots: the files.
        may_lack: whether manifests and pages may be missing here, as in a store that keeps some of what a remote has.

    Raises:
        ObjectMissingError, ObjectCorruptError, MalformedError, UnsupportedError: a manifest or page cannot be read, so
            that what it needs is unknown.
    """
    words = array("Q")
    manifests = dict.fromkeys(root.manifest_digest for root in roots)
    seen = set(manifests)
    objects.whereabouts.expect_manifests(manifests)
    for manifest_digest in manifests:
        words.append(word_of(manifest_digest))
        for digest in listed_by(objects, manifest_digest, seen, may_lack):
            words.append(word_of(digest))
    return _distinct(words)


def listed_by(objects: Objects, manifest_digest: Digest, seen: set[Digest], may_lack: bool = False) -> Iterator[Digest]:
    """Yield the pages of a file, but for those that were seen, and all chunks of these. Raises as `needed_by` does."""
    try:
        manifest = parse_manifest(objects.get(Kind.MANIFEST, manifest_digest))
    except ObjectMissingError:
        if may_lack:
            return
        raise
    yield from (chunk.digest for chunk in manifest.chunks)
    for page in manifest.pages:
        if page.digest in seen:
            continue
        seen.add(page.digest)
        yield page.digest
        try:
            chunks = parse_page(objects.get(Kind.PAGE, page.digest), page)
        except ObjectMissingError:
            if may_lack:
                continue
            raise
        yield from (chunk.digest for chunk in chunks)


class Edges(NamedTuple):
    """Which objects lean on which."""

    owners: Words
    bases: Words


class Table(NamedTuple):
    """What one pack holds."""

    words: Words
    """Of all its records, in order."""
    nbytes: Words
    """Length of each record."""
    is_known: NDArray[numpy.bool_]
    """Whether this version knows what kind of object it is; what it does not know, it lets nobody take away."""
    edges: Edges
    is_whole: bool
    """Whether it was read from the pack's own table; a pack with a damaged one is nothing to let go of."""

    def is_needed(self, needed: Words) -> NDArray[numpy.bool_]:
        """Tell of each record whether it has to stay."""
        kept: NDArray[numpy.bool_] = has(needed, self.words) | ~self.is_known
        return kept


def read_table(packs: Packs, name: str) -> Table:
    """Read the table of a pack: from its end, or forwards where that is damaged.

    Raises:
        FileNotFoundError: the pack is gone.
        MalformedError, UnsupportedError: it is no pack, or a newer version wrote it.
    """
    pack = packs.get(name)
    try:
        records, is_whole = pack.table(), True
    except MalformedError:
        records, is_whole = list(pack.records()), False
    words, nbytes, known = array("Q"), array("Q"), bytearray()
    owners, bases = array("Q"), array("Q")
    for _, length, entry in records:
        word = word_of(entry.digest)
        words.append(word)
        nbytes.append(length)
        known.append(entry.kind in _KINDS)
        for base in entry.bases:
            owners.append(word)
            bases.append(word_of(base))
    is_known = numpy.frombuffer(bytes(known), dtype=numpy.bool_)
    return Table(_numbers(words), _numbers(nbytes), is_known, Edges(_numbers(owners), _numbers(bases)), is_whole)


def with_bases(needed: Words, tables: Iterable[Table]) -> Words:
    """Return what is needed together with all that it leans on, at any of its places."""
    edges = [table.edges for table in tables if len(table.edges.owners)]
    if not edges:
        return needed
    owners = numpy.concatenate([some.owners for some in edges])
    bases = numpy.concatenate([some.bases for some in edges])
    for _ in range(MAX_DEPTH + 2):
        more = numpy.union1d(needed, bases[has(needed, owners)])
        if len(more) == len(needed):
            return needed
        needed = more
    return numpy.union1d(needed, bases)  # deeper than records can be: hostile, and nothing of it is let go of


def has(ascending: Words, words: Words) -> NDArray[numpy.bool_]:
    """Tell of each word whether it is among others, which are in order."""
    if not len(ascending):
        return numpy.zeros(len(words), dtype=numpy.bool_)
    at = numpy.searchsorted(ascending, words)
    at[at == len(ascending)] = 0
    found: NDArray[numpy.bool_] = ascending[at] == words
    return found


def read_tables(objects: Objects, names: Iterable[str]) -> dict[str, Table]:
    """Read the tables of packs of a store; one that is gone by now is left out.

    Raises:
        MalformedError, UnsupportedError: one is no pack, or a newer version wrote it: what leans on what is unknown.
    """
    tables = {}
    rest = iter(sorted(names))
    while window := list(islice(rest, _TABLES_AT_ONCE)):
        objects.whereabouts.expect_tables(window)
        for name in window:
            try:
                tables[name] = read_table(objects.packs, name)
            except FileNotFoundError:
                continue
    return tables


def union(words: Iterable[Words]) -> Words:
    """Return all words, ascending and distinct."""
    some = list(words)
    return numpy.unique(numpy.concatenate(some)) if some else _numbers(array("Q"))


def _distinct(words: array[int]) -> Words:
    return numpy.unique(_numbers(words))


def _numbers(words: array[int]) -> Words:
    return numpy.frombuffer(words.tobytes(), dtype=numpy.uint64)
