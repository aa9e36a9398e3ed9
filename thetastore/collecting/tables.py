"""What packs hold, in 8 bytes a digest.

Two digests whose first 8 bytes are the same are taken for one. What that keeps for nothing is one object in many
billions, and nothing goes because of it: collecting keeps the one for the other, and pruning compares whole digests
where another store says that it has an object.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

from thetastore.digest import Digest, Kind
from thetastore.errors import MalformedError
from thetastore.packs.reader import Packs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[numpy.uint64]

_KINDS = numpy.array(sorted(map(int, Kind)), dtype=numpy.uint8)


def word_of(digest: bytes) -> int:
    """Return what stands for a digest here."""
    return int.from_bytes(digest[:8], "little")


def words_of(digests: Iterable[Digest]) -> Words:
    """Return what stands for digests, ascending and distinct."""
    return distinct(numbers(array("Q", map(word_of, digests))))


def distinct(words: Words) -> Words:
    """Return words ascending, each once. `numpy.unique` hashes them first, which takes seven times as long."""
    ascending = numpy.sort(words)
    is_first = numpy.ones(len(words), dtype=numpy.bool_)
    numpy.not_equal(ascending[1:], ascending[:-1], out=is_first[1:])
    return ascending[is_first]


def numbers(items: array[Any]) -> Any:
    """Return an array of numpy's with the same items."""
    return numpy.frombuffer(items.tobytes(), dtype=items.typecode)


def has(ascending: Words, words: Words) -> NDArray[numpy.bool_]:
    """Tell of each word whether it is among others, which are in order."""
    if not len(ascending):
        return numpy.zeros(len(words), dtype=numpy.bool_)
    at = numpy.searchsorted(ascending, words)
    at[at == len(ascending)] = 0
    found: NDArray[numpy.bool_] = ascending[at] == words
    return found


def union(words: Iterable[Words]) -> Words:
    """Return all words, ascending and distinct."""
    return distinct(numpy.concatenate([numbers(array("Q")), *words]))


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
    kinds: NDArray[numpy.uint8]
    """Of the object in each; there may be some that this version does not know."""
    edges: Edges
    is_whole: bool
    """Whether it was read from the pack's own table; a pack with a damaged one is nothing to let go of."""

    def is_needed(self, needed: Words) -> NDArray[numpy.bool_]:
        """Tell of each record whether it has to stay: what this version does not know, it lets nobody take away."""
        kept: NDArray[numpy.bool_] = has(needed, self.words) | ~numpy.isin(self.kinds, _KINDS)
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
    words, nbytes, kinds = array("Q"), array("Q"), array("B")
    owners, bases = array("Q"), array("Q")
    for _, length, entry in records:
        word = word_of(entry.digest)
        words.append(word)
        nbytes.append(length)
        kinds.append(entry.kind)
        for base in entry.bases:
            owners.append(word)
            bases.append(word_of(base))
    return Table(numbers(words), numbers(nbytes), numbers(kinds), Edges(numbers(owners), numbers(bases)), is_whole)
