"""Which tensor of another model is the same one under another name, told by its numbers.

A fine-tune is often saved by another program, which names everything otherwise: `model.` before all of it, or words of
its own. Of the tensors of the same dtype and shape that are in one of the two files only, those of the same rank in the
order of names are compared first, then their neighbours: the first whose beginning is worth a difference is the one.
What is compared in vain is bounded, and in models that have nothing to do with each other ends after some dozens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from thetastore.digest import Digest

if TYPE_CHECKING:
    from thetastore.bases.finding import Candidate, PlacedTensor

_FREE_MISSES = 24
"""Comparisons in vain, 1 ms each, until there are no more."""
_MISSES_A_HIT = 3
"""So many more are allowed by every tensor that was found."""

Form = tuple[str, tuple[int, ...]]
"""Dtype and shape."""


class Renamed:
    """The tensors of one file that a model has under other names. Not thread-safe."""

    def __init__(
        self,
        tensors: Sequence[PlacedTensor],
        candidate: Candidate,
        resembles: Callable[[Digest, memoryview, str], bool],
    ) -> None:
        """Look in `candidate` for tensors of a file; `resembles` compares a chunk with bytes of some dtype."""
        self._candidate = candidate
        self._resembles = resembles
        names = {tensor.name for tensor in tensors}
        theirs = {tensor.name for tensor in candidate.tensors}
        ours = _by_form(tensor for tensor in tensors if tensor.name not in theirs)
        self._ranks = {tensor.name: rank for same in ours.values() for rank, tensor in enumerate(same)}
        self._theirs = _by_form(tensor for tensor in candidate.tensors if tensor.name not in names)
        self._found: dict[str, PlacedTensor | None] = {}
        self._taken: set[str] = set()
        self._misses_left = _FREE_MISSES

    def chunk_like(
        self, tensor: PlacedTensor, offset: int, nbytes: int, read: Callable[[], memoryview]
    ) -> Digest | None:
        """Return the chunk at a place of the same tensor there; None where there is none of that length.

        `read` gives the bytes at that place here, or their beginning; it is called where a tensor has to be looked for.
        """
        if tensor.name not in self._found:
            self._found[tensor.name] = self._search(tensor, offset, nbytes, read)
        own = self._found[tensor.name]
        return None if own is None else self._candidate.chunk_of(own, tensor, offset, nbytes)

    def _search(
        self, tensor: PlacedTensor, offset: int, nbytes: int, read: Callable[[], memoryview]
    ) -> PlacedTensor | None:
        """Return what resembles a tensor at a place, and let no other tensor have it."""
        theirs = self._theirs.get((tensor.dtype, tensor.shape), [])
        if not self._misses_left or tensor.name not in self._ranks:
            return None
        rank = self._ranks[tensor.name]
        for _, own in sorted(enumerate(theirs), key=lambda ranked: abs(ranked[0] - rank)):
            digest = None if own.name in self._taken else self._candidate.chunk_of(own, tensor, offset, nbytes)
            if digest is None:
                continue
            if self._resembles(digest, read(), tensor.dtype):
                self._misses_left += _MISSES_A_HIT
                self._taken.add(own.name)
                return own
            self._misses_left -= 1
            if not self._misses_left:
                break
        return None


def _by_form(tensors: Iterable[PlacedTensor]) -> dict[Form, list[PlacedTensor]]:
    """Return tensors by dtype and shape, in the order of their names, numbers in these by their values."""
    import re

    def natural(tensor: PlacedTensor) -> list[tuple[int, str]]:
        parts = re.split(r"0*([0-9]+)", tensor.name)
        return [(len(part), part) if at % 2 else (0, part) for at, part in enumerate(parts)]

    found: dict[Form, list[PlacedTensor]] = {}
    for tensor in sorted(tensors, key=natural):
        found.setdefault((tensor.dtype, tensor.shape), []).append(tensor)
    return found
