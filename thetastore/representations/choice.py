"""How to represent a chunk: coded by itself, as the difference from a base, or as copies of other chunks.

Bases are guesses. A wrong one costs reading it and looking at a sample; the whole of a difference is made only
where the sample promises something. What a difference saves is paid for at every read, by reading its base too:
so at most `HOT_DEPTH` bases stand behind an object, and all of them together are at most half as much again to read
as the object coded by itself. Where a base stands too deep or costs too much, its own base is tried in its place: a
chain of versions becomes a fan, and begins anew with a whole copy when it has moved too far.

Copies are looked for where no difference is small; `copying` bounds what they cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from thetastore import codecs
from thetastore.digest import Buffer, Digest
from thetastore.errors import ThetaError
from thetastore.packs.records import MAX_DEPTH
from thetastore.representations.reading import Representations

if TYPE_CHECKING:
    from thetastore.representations.anchors import Anchor
    from thetastore.representations.copying import Copying

HOT_DEPTH = 2
"""Depth of what is written by adding; archives may go deeper."""
MOST_READ = 1.8
"""Bytes to read for an object with bases, by those for it alone. A float32 weight that was trained on takes .61 as a
difference and .82 alone, 1.75 times as much to read: float32 chains are a sixth smaller than at 1.5."""
MOST_READ_IN_CHAINS = 1.5
"""The same where the base is a difference itself: fine-tunes are further from each other than from what they were made
of, so that the base's own base is the better one."""
LEAST_DIFFERENCE_BYTES = 512
"""Below this a digest in two heads, 64 bytes, and a second read are worth more than what could be saved."""
_CLEARLY_LESS = 7 / 8
"""What a difference takes, by its base's root coded by itself, so that it is taken for smaller than the chunk coded by
itself. A float32 weight that was trained on takes .75, and as much by itself as its base within a hundredth."""
_MOST_GUESSES = 4
_GOOD = 1 / 8
"""What a difference takes, by the raw bytes, that needs no search for copies. Where a row was inserted, a part of a
chunk is as it was, and a difference pays; copies take a tenth of it."""


class Choice(NamedTuple):
    """A representation that was chosen."""

    codec: str
    params: bytes
    stored: Buffer
    bases: tuple[Digest, ...] = ()
    depth: int = 0
    anchors: Sequence[Anchor] = ()
    """Where later chunks may find this one; for `Copying.remember`, once it is stored."""


def plain(raw: Buffer, dtype: str | None) -> Choice:
    """Return an object's representation by itself; `stored` may be `raw` itself."""
    return Choice(*codecs.encode(raw, dtype))


def choose(
    representations: Representations,
    raw: Buffer,
    dtype: str | None,
    bases: Iterable[Digest],
    alone: Choice | None = None,
    copying: Copying | None = None,
    columns: int = 0,
) -> Choice:
    """Return a chunk as a difference within the limits, where that is smaller; else as copies, else by itself.

    Args:
        representations: where bases are read.
        raw: the chunk.
        dtype: its element type.
        bases: guesses, the best first; the first of which a difference can be taken is the one that counts.
        alone: the chunk's own representation, if it is known; else it is made where it is needed.
        copying: finds copies; None where none are wanted.
        columns: elements of a row, if the chunk is a part of a matrix; else 0.
    """
    view = memoryview(raw)
    delta, alone = _best_difference(representations, view, dtype, bases, alone, columns)
    if copying is None:
        return delta or alone or plain(raw, dtype)
    anchors = copying.anchors(view, dtype)
    delta_bytes = view.nbytes if delta is None else memoryview(delta.stored).nbytes
    found = copying.find(view, dtype, anchors, HOT_DEPTH) if delta_bytes > _GOOD * view.nbytes else None
    if found is not None:
        copies = codecs.encode_copies(raw, found.plan.recipe, dtype)
        if copies is not None and memoryview(copies.stored).nbytes < delta_bytes:
            return Choice(*copies, found.plan.bases, found.depth, copying.memorable(anchors, view.nbytes, found))
    chosen = delta or alone or plain(raw, dtype)
    return chosen._replace(anchors=copying.memorable(anchors, view.nbytes, stored_bytes=delta_bytes))


def _best_difference(
    representations: Representations,
    raw: memoryview,
    dtype: str | None,
    bases: Iterable[Digest],
    alone: Choice | None,
    columns: int,
) -> tuple[Choice | None, Choice | None]:
    """Return the difference from the best guess that gives one, and the plain choice if it was made."""
    if raw.nbytes >= LEAST_DIFFERENCE_BYTES:
        for base in islice(bases, _MOST_GUESSES):
            before = alone
            delta, alone = _difference(representations, raw, dtype, base, alone, columns)
            if delta is not None or alone is not before:  # else no difference was made that was any good
                return delta, alone
    return None, alone


def _difference(
    representations: Representations,
    raw: memoryview,
    dtype: str | None,
    guess: Digest,
    alone: Choice | None,
    columns: int,
) -> tuple[Choice | None, Choice | None]:
    """Return the difference from a guessed base or from what that stands on, and the plain choice if it was made."""
    for base in _standing(representations, guess, raw.nbytes):
        try:
            decoded = representations.decode(base, raw.nbytes)
        except ThetaError:
            return None, alone
        try:
            coded = codecs.encode_difference(raw, decoded.raw, dtype, columns=columns)
        finally:
            representations.give(decoded.raw)
        if coded is None:
            return None, alone
        if decoded.depth >= HOT_DEPTH:  # it was read from another place than its entry
            continue
        delta = Choice(*coded, (base,), decoded.depth + 1)
        most = MOST_READ if decoded.depth == 0 else MOST_READ_IN_CHAINS
        stored_bytes = memoryview(coded.stored).nbytes
        read_bytes = stored_bytes + decoded.read_bytes
        # A sample said that the chunk takes more by itself; about how much, the root of the base's chain tells. To code
        # it as well takes a ninth of the time of all. Where that is not clear enough, it is done.
        if read_bytes <= most * decoded.root_bytes and stored_bytes <= _CLEARLY_LESS * decoded.root_bytes:
            return delta, alone
        alone = alone or plain(raw, dtype)
        alone_bytes = memoryview(alone.stored).nbytes
        if stored_bytes < alone_bytes and read_bytes <= most * alone_bytes:
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
        if entry.codec not in ("difference", "update") or not entry.bases:
            return
        base = entry.bases[0]
