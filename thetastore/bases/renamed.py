"""Which tensor of another model is the same one under another name, told by its numbers.

A fine-tune is often saved by another program, which names everything otherwise: `model.` before all of it, or words of
its own. Of the tensors of the same dtype and shape that are in one of the two files only, those of the same rank in the
order of names, or of places in the file, are compared first, then their neighbours: the first whose beginning is worth
a difference is the one. Where there are none, those are that differ in the number of rows alone. What is compared in
vain is bounded, and in models that have nothing to do with each other ends after some dozens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from thetastore.bases.candidates import Candidate, PlacedTensor
from thetastore.digest import Digest
from thetastore.manifest import Chunk

_FREE_MISSES = 24
"""Comparisons in vain, 1 ms each, until there are no more."""
_NEIGHBOURS = 12
"""On either side of a rank, that are compared: of some experts' thousands of tensors of one form."""
_MISSES_A_HIT = 3
"""So many more are allowed by every tensor that was found."""

Form = tuple[str, tuple[int, ...]]
"""Dtype and shape."""


class Patience:
    """How many comparisons in vain are left."""

    def __init__(self) -> None:
        self._misses_left = _FREE_MISSES

    @property
    def is_left(self) -> bool:
        """Whether another comparison may be made."""
        return self._misses_left > 0

    def learn(self, is_hit: bool) -> None:
        """Take note of what a comparison led to."""
        self._misses_left += _MISSES_A_HIT if is_hit else -1


class Renamed:
    """The tensors of one file that a model has under other names. Not thread-safe."""

    def __init__(
        self,
        tensors: Sequence[PlacedTensor],
        candidate: Candidate,
        resembles: Callable[[Chunk, memoryview, str], bool],
        patience: Patience | None = None,
    ) -> None:
        """Look for tensors of a file.

        Args:
            tensors: of the file.
            candidate: where they are looked for.
            resembles: compares a chunk with bytes of some dtype.
            patience: what other candidates for the same file share; None where there are none.
        """
        self._candidate = candidate
        self._resembles = resembles
        names = {tensor.name for tensor in tensors}
        theirs = {tensor.name for tensor in candidate.tensors}
        ours = _by_form(tensor for tensor in tensors if tensor.name not in theirs)
        self._ranks = _ranks(ours)
        self._theirs = _by_form(tensor for tensor in candidate.tensors if tensor.name not in names)
        self._theirs_by_place = {form: sorted(same, key=_offset) for form, same in self._theirs.items()}
        self._with_other_rows = [
            tensor for form, same in self._theirs.items() if form not in ours and len(form[1]) > 1 for tensor in same
        ]
        """Of forms that no tensor here has, as of a vocabulary that was extended."""
        self._found: dict[str, PlacedTensor | None] = {}
        self._taken: set[str] = set()
        self._patience = patience or Patience()

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

    def likely(self, tensor: PlacedTensor, offset: int, nbytes: int) -> Digest | None:
        """Return what `chunk_like` will probably return; told without comparing anything."""
        own = self._found.get(tensor.name)
        if tensor.name not in self._found and self._patience.is_left and tensor.name in self._ranks:
            own = next((other for other in self._by_rank(tensor) if other.name not in self._taken), None)
        return None if own is None else self._candidate.chunk_of(own, tensor, offset, nbytes)

    def _search(
        self, tensor: PlacedTensor, offset: int, nbytes: int, read: Callable[[], memoryview]
    ) -> PlacedTensor | None:
        """Return what resembles a tensor at a place, and let no other tensor have it."""
        if not self._patience.is_left or tensor.name not in self._ranks:
            return None
        for own in self._by_rank(tensor):
            digest = None if own.name in self._taken else self._candidate.chunk_of(own, tensor, offset, nbytes)
            if digest is None:
                continue
            is_it = self._resembles(Chunk(nbytes, digest), read(), tensor.dtype)
            self._patience.learn(is_it)
            if is_it:
                self._taken.add(own.name)
                return own
            if not self._patience.is_left:
                break
        return None

    def _by_rank(self, tensor: PlacedTensor) -> list[PlacedTensor]:
        """Return the tensors of the same form there, those of the nearest rank first; else those of other rows."""
        form = tensor.dtype, tensor.shape
        if form in self._theirs:
            by_name, by_place = self._ranks[tensor.name]
            orders = _around(self._theirs[form], by_name), _around(self._theirs_by_place[form], by_place)
            near = (own for pair in zip_longest(*orders) for own in pair if own is not None)
            return list({own.name: own for own in near}.values())
        alike = (own for own in self._with_other_rows if (own.dtype, own.shape[1:]) == (tensor.dtype, tensor.shape[1:]))
        return sorted(alike, key=lambda own: abs(own.shape[0] - tensor.shape[0]))


class _Ranks(NamedTuple):
    """A tensor's among those of its form."""

    by_name: int
    by_place: int


def _ranks(forms: Mapping[Form, list[PlacedTensor]]) -> dict[str, _Ranks]:
    """Return the ranks of tensors that are in the order of their names."""
    found: dict[str, _Ranks] = {}
    for same in forms.values():
        by_place = {id(tensor): rank for rank, tensor in enumerate(sorted(same, key=_offset))}
        found.update((tensor.name, _Ranks(rank, by_place[id(tensor)])) for rank, tensor in enumerate(same))
    return found


def _offset(tensor: PlacedTensor) -> int:
    return tensor.offset


def _around(tensors: Sequence[PlacedTensor], rank: int) -> list[PlacedTensor]:
    """Return the tensors about a rank, the nearest first."""
    ranks = range(max(0, rank - _NEIGHBOURS), min(len(tensors), rank + _NEIGHBOURS + 1))
    return [tensors[at] for at in sorted(ranks, key=lambda at: abs(at - rank))]


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
