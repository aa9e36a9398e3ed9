"""How tensors of a file were made from those of another one, for whoever stores the file."""

from __future__ import annotations

from collections.abc import Callable, Container
from math import prod

from thetastore.bases.candidates import Candidate, PlacedTensor
from thetastore.codecs.update import Shared, differing_count
from thetastore.digest import Digest, Kind
from thetastore.dtypes import DTYPES, raw_bytes_of
from thetastore.manifest import Manifest
from thetastore.objects import Objects, Prepared
from thetastore.representations.updating import Proposal
from thetastore.updates.recipe import DTYPES as UPDATABLE
from thetastore.updates.recipe import Recipe

LEAST_BYTES = 4096
"""Tensors below this are not looked at: the head of a record alone takes a hundred bytes."""


class RecipeUpdates:
    """Proposes updates by the recipe of each tensor. Holds one recipe at a time. For one thread."""

    def __init__(
        self,
        objects: Objects,
        base: Manifest,
        recipe_of: Callable[[str], Recipe | None],
        certain: Container[str] = frozenset(),
    ) -> None:
        """Propose what recipes make of the tensors of a file.

        Args:
            objects: where the base's chunks are; what chunks of a tensor share is put there.
            base: the file that recipes start from.
            recipe_of: gives the recipe of a tensor by its name; asked once for each, in the order of the file.
            certain: tensors that are being made by just these recipes; of such a one only the first chunk is made
                again, to compare.
        """
        self._certain = certain
        self._objects = objects
        self._base = Candidate(objects, base)
        self._recipe_of = recipe_of
        self._tensor: tuple[str, int] | None = None
        self._recipe: Recipe | None = None
        self._shared: Digest | None = None
        self.update_count = 0
        """Chunks that are stored as updates."""
        self.fixed_count = 0
        """Those of them that are not exactly what the recipe makes."""
        self.differing_count = 0
        """Elements of these that are not: they were rounded in another order, say, and are stored too."""
        self.other_count = 0
        """Chunks for which an update was no use."""
        self.present_count = 0
        """Chunks that the store had already as updates."""

    def proposal(self, tensor: PlacedTensor, offset: int, nbytes: int) -> Proposal | None:
        """Return how a chunk may be made; see `ingest.Updates`."""
        raw_bytes = raw_bytes_of(tensor.dtype, prod(tensor.shape))
        if tensor.dtype not in UPDATABLE or raw_bytes < LEAST_BYTES:
            return None
        if self._tensor != (tensor.name, tensor.offset):
            self._tensor, self._shared = (tensor.name, tensor.offset), None
            self._recipe = self._recipe_of(tensor.name)
        recipe = self._recipe
        if recipe is None:
            return None
        width = DTYPES[tensor.dtype].bits // 8
        start = (offset - tensor.offset) // width
        window = recipe.window(start, nbytes // width)
        base = self._base.chunk_like(tensor, offset, nbytes)
        if window is None or base is None:
            return None
        if nbytes == raw_bytes or (recipe.right is None and recipe.column_factors is None):
            return Proposal(base, window)
        if self._shared is None:
            shared = Shared(recipe.right, recipe.column_factors, recipe.columns)
            dtype = "float64" if tensor.dtype == "float64" else "float32"
            self._shared = self._objects.put(Kind.CHUNK, shared.raw, dtype)
        # What is about to go is nobody's base; where a base is not read, nothing else would tell.
        is_certain = start > 0 and tensor.name in self._certain and self._objects.contains(base)
        return Proposal(base, window, self._shared, recipe.columns, start % recipe.columns, is_certain)

    def learn(self, prepared: Prepared) -> None:
        """Count what became of a chunk."""
        if prepared.entry is None and self._objects.entry(prepared.digest).codec == "update":
            self.present_count += 1
        elif prepared.entry is None or prepared.entry.codec != "update":
            self.other_count += 1
        else:
            self.update_count += 1
            differing = differing_count(memoryview(prepared.stored))
            self.fixed_count += differing > 0
            self.differing_count += differing
