"""A chunk as an update of another one: kept where applying it gives the chunk back, exactly.

Updates may stand deeper than differences: what they add to a read are factors, a hundredth of the chunk, and a chain
of them is how a model is adapted again and again.
"""

from __future__ import annotations

from typing import NamedTuple

from thetastore import codecs
from thetastore.digest import Digest
from thetastore.errors import ThetaError
from thetastore.representations.choice import Choice
from thetastore.representations.reading import Representations
from thetastore.updates.recipe import Window

UPDATE_DEPTH = 4
"""Depth of what is written as an update; a fifth one in a row is stored as if it were none."""


class Proposal(NamedTuple):
    """How a chunk may be made."""

    base: Digest
    """A chunk of as many bytes."""
    window: Window
    shared: Digest | None = None
    """The object with the parts that are the same for all chunks of the tensor; it is in the store."""
    shared_columns: int = 0
    first_column: int = 0
    """Where the chunk begins in a row of it."""
    is_certain: bool = False
    """Whether the chunk was made so a moment ago: then it is not made another time, to compare."""


def choose_update(representations: Representations, raw: memoryview, dtype: str, proposal: Proposal) -> Choice | None:
    """Return a chunk as an update, its fix-up included; None where that is not possible or makes nothing smaller."""
    bases = (proposal.base,) if proposal.shared is None else (proposal.base, proposal.shared)
    try:
        depth = 1 + max(representations.entry(base).depth for base in bases)
        if depth > UPDATE_DEPTH:
            return None
        shared = None if proposal.shared is None else (proposal.shared_columns, proposal.first_column)
        if proposal.is_certain:
            coded = codecs.encode_update(raw, None, dtype, proposal.window, shared)
            return None if coded is None else Choice(*coded, bases, depth)
        decoded = representations.decode(proposal.base, raw.nbytes)
    except (ThetaError, FileNotFoundError):
        return None
    try:
        if decoded.depth >= depth:  # it was read from another place than its entry
            return None
        coded = codecs.encode_update(raw, decoded.raw, dtype, proposal.window, shared)
    finally:
        representations.give(decoded.raw)
    return None if coded is None else Choice(*coded, bases, depth)
