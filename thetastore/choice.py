"""How to represent a chunk: coded by itself, or as the difference from a base.

Bases are guesses. A wrong one costs reading it and looking at a sample; the whole of a difference is made only
where the sample promises something. What a difference saves is paid for at every read, by reading its base too:
so at most `HOT_DEPTH` bases stand behind an object, and all of them together are at most half as much again to read
as the object coded by itself. Where a base stands too deep or costs too much, its own base is tried in its place: a
chain of versions becomes a fan, and begins anew with a whole copy when it has moved too far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from thetastore import codecs
from thetastore.digest import Buffer, Digest
from thetastore.errors import ThetaError
from thetastore.packs.records import MAX_DEPTH
from thetastore.representations import Representations

HOT_DEPTH = 2
"""Depth of what is written by adding; archives may go deeper."""
MOST_READ = 1.5
"""Bytes to read for an object with bases, by those for it alone."""
LEAST_DIFFERENCE_BYTES = 4096
"""Below this a head of 32 bytes more, and a second read, are worth more than what could be saved."""
_MOST_GUESSES = 4


class Choice(NamedTuple):
    """A representation that was chosen."""

    codec: str
    params: bytes
    stored: Buffer
    bases: tuple[Digest, ...] = ()
    depth: int = 0


def plain(raw: Buffer, dtype: str | None) -> Choice:
    """Return an object's representation by itself; `stored` may be `raw` itself."""
    return Choice(*codecs.encode(raw, dtype))


def choose(
    representations: Representations,
    raw: Buffer,
    dtype: str | None,
    bases: Iterable[Digest],
    alone: Choice | None = None,
) -> Choice:
    """Return the smaller of a chunk's own representation and a difference that stays within the limits.

    Args:
        representations: where bases are read.
        raw: the chunk.
        dtype: its element type.
        bases: guesses, the best first; the first of which a difference can be taken is the one that counts.
        alone: the chunk's own representation, if it is known; else it is made where it is needed.
    """
    view = memoryview(raw)
    if view.nbytes >= LEAST_DIFFERENCE_BYTES:
        for base in islice(bases, _MOST_GUESSES):
            before = alone
            delta, alone = _difference(representations, view, dtype, base, alone)
            if delta is not None:
                return delta
            if alone is not before:
                break  # a difference was made and was no good
    return alone or plain(raw, dtype)


def _difference(
    representations: Representations, raw: memoryview, dtype: str | None, guess: Digest, alone: Choice | None
) -> tuple[Choice | None, Choice | None]:
    """Return the difference from a guessed base or from what that stands on, and the plain choice if it was made."""
    for base in _standing(representations, guess, raw.nbytes):
        try:
            decoded = representations.decode(base, raw.nbytes)
        except ThetaError:
            return None, alone
        try:
            coded = codecs.encode_difference(raw, decoded.raw, dtype)
        finally:
            representations.give(decoded.raw)
        if coded is None:
            return None, alone
        if decoded.depth >= HOT_DEPTH:  # it was read from another place than its entry
            continue
        delta = Choice(*coded, (base,), decoded.depth + 1)
        stored_bytes = memoryview(coded.stored).nbytes
        read_bytes = stored_bytes + decoded.read_bytes
        # The root of the base's chain, coded by itself, tells well what this chunk would take: coding it as well
        # would double the time. Where that is not clear enough, it is done.
        if read_bytes <= MOST_READ * decoded.root_bytes and 2 * stored_bytes <= decoded.root_bytes:
            return delta, alone
        alone = alone or plain(raw, dtype)
        alone_bytes = memoryview(alone.stored).nbytes
        if stored_bytes < alone_bytes and read_bytes <= MOST_READ * alone_bytes:
            return delta, alone
        if stored_bytes >= alone_bytes:
            return None, alone
    return None, alone


def _standing(representations: Representations, guess: Digest, raw_bytes: int) -> Iterator[Digest]:
    """Yield a guess and the bases behind it, those alone of which a difference is shallow enough."""
    base = guess
    for _ in range(MAX_DEPTH + 1):  # in a hostile store a chain may have no end
        try:
            entry = representations.entry(base)
        except ThetaError:
            return
        if entry.raw_bytes != raw_bytes:
            return
        if entry.depth < HOT_DEPTH:
            yield base
        if entry.codec != "difference" or not entry.bases:
            return
        base = entry.bases[0]
