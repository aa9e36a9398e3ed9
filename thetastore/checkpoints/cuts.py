"""A chunk between the file that it is cut from and the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from thetastore.digest import Digest
from thetastore.representations.updating import Proposal

INLINE_WORK_BYTES = 32 << 10
"""Chunks up to this length are worked on in the caller's thread."""


class Piece(NamedTuple):
    """A chunk on its way into the store."""

    offset: int
    raw: memoryview
    dtype: str | None
    columns: int
    """Elements of a row, of a part of a matrix; else 0."""
    bases: Iterator[Digest]
    """What it may be a difference of; looked for when it is asked."""
    update: Proposal | None
