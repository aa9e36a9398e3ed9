"""Chunks coded as differences from bases that were chosen already: what of a repack can be done by anybody.

Which bases come into question, and how long a record may be, is decided by whoever repacks, who knows what stands on
what (`proposals`). What is left needs the chunk, its bases and time, and changes nothing: so it is done by threads, or
by the workers of any executor, who open the store for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from thetastore import codecs
from thetastore.digest import Buffer, Digest
from thetastore.errors import ThetaError
from thetastore.objects import Objects
from thetastore.representations.reading import Representations


class Guess(NamedTuple):
    """A base that a chunk may become a difference from."""

    base: Digest
    most_bytes: int
    """No longer record is worth reading together with this base."""


class Wanted(NamedTuple):
    """A chunk, and the bases that it may become a difference from."""

    digest: Digest
    raw_bytes: int
    dtype: str | None
    columns: int
    """Elements of a row, of a part of a matrix; else 0."""
    chains: tuple[tuple[Guess, ...], ...]
    """Of each chain, the first base within its limit is taken; of all of them, what is smallest."""
    below_bytes: int
    """Only a shorter record is wanted."""
    is_thorough: bool


class Difference(NamedTuple):
    """A record that gives the chunk back, as was tried."""

    base: Digest
    codec: str
    params: bytes
    stored: bytes


class HasObjects(Protocol):
    """A store, as workers need it."""

    @property
    def objects(self) -> Objects:
        """What it holds."""


Opener = Callable[[], AbstractContextManager[HasObjects]]


def differences(opener: Opener, several: Sequence[Wanted | None]) -> list[Difference | None]:
    """Return the best difference for each of several chunks of a store, or None; what executors are given."""
    if not any(several):
        return [None] * len(several)
    with opener() as store:
        return [None if wanted is None else _difference(store.objects.representations, wanted) for wanted in several]


def _difference(representations: Representations, wanted: Wanted) -> Difference | None:
    try:
        decoded = representations.decode(wanted.digest, wanted.raw_bytes)
    except ThetaError:
        return None
    try:
        return best_difference(representations, wanted, decoded.raw)
    finally:
        representations.give(decoded.raw)


def best_difference(representations: Representations, wanted: Wanted, raw: memoryview) -> Difference | None:
    """Return the smallest difference within the limits; None where there is none, or a base cannot be read."""
    best: Difference | None = None
    below_bytes = wanted.below_bytes
    for chain in wanted.chains:
        found = _first_of(representations, wanted, raw, chain, below_bytes)
        if found is not None:
            best, below_bytes = found, len(found.stored)
    return best


def _first_of(
    representations: Representations, wanted: Wanted, raw: memoryview, chain: Sequence[Guess], below_bytes: int
) -> Difference | None:
    """Return the difference from the first base within its limit; bases further down resemble the chunk less."""
    for base, most_bytes in chain:
        try:
            decoded = representations.decode(base, raw.nbytes)
        except ThetaError:
            return None
        try:
            coded = codecs.encode_difference(
                raw, decoded.raw, wanted.dtype, columns=wanted.columns, is_thorough=wanted.is_thorough
            )
            if coded is None or memoryview(coded.stored).nbytes >= below_bytes:
                return None
            if memoryview(coded.stored).nbytes <= most_bytes:
                stored = bytes(coded.stored)
                check(representations, coded.codec, coded.params, stored, raw, [decoded.raw])
                return Difference(base, coded.codec, coded.params, stored)
        finally:
            representations.give(decoded.raw)
    return None


def check(
    representations: Representations,
    codec: str,
    params: bytes,
    stored: Buffer,
    raw: memoryview,
    bases: Sequence[memoryview],
) -> None:
    """Decode a new record, whose object's other records may go because of it."""
    out = representations.take(raw.nbytes)
    try:
        codecs.decode(codec, params, stored, out, bases)
        assert out == raw, f"codec '{codec}' does not give back what it coded"
    finally:
        representations.give(out)
