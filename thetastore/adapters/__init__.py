"""Adapters: files that say how the tensors of a model change, rather than what they become.

An *update type* reads one kind of such files: Git-Theta's side files (`side_files`), directories of PEFT (`peft`), or
what another package offers under the entry point group `thetastore.updates` (`thetastore.testing.updates` is its
conformance suite). It answers with the tensors that change: as recipes where they can be stored as such
(`thetastore.updates`), else as bytes. `docs/updates.md` says what is read and how it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

from thetastore.digest import Buffer
from thetastore.layout import Tensor
from thetastore.updates.recipe import Recipe


class Base(Protocol):
    """The model that is updated: tensors by name, read in parts."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors; `offset` means nothing."""

    def read(self, name: str, start: int, stop: int) -> Buffer:
        """Return the bytes `[start, stop)` of a tensor in C order."""


class Change(NamedTuple):
    """What an adapter makes of one tensor."""

    name: str
    """As the base calls it; a new one where the base has none of the name."""
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[Buffer]]
    """Gives the bytes of the result in C order. Raises `UpdateError` where the numbers do not allow it."""
    recipe: Callable[[], Recipe] | None = None
    """Gives the recipe that `pieces` follows; None where there is none: then the tensor is stored as any other."""
    is_applied: bool = False
    """Whether `pieces` are the recipe applied by us (`changes.by_recipe`), so that not every one of them is compared
    with what the recipe makes."""


class Adapter(NamedTuple):
    """A file of changes that was opened for one base."""

    kind: str
    """For people: `low-rank`, `LoRA`."""
    changes: Mapping[str, Change]
    """By the name of the tensor."""
    unused: tuple[str, ...]
    """Keys of the file that found no tensor in the base."""


class UpdateType(NamedTuple):
    """A way to read adapters. Plug-ins name one."""

    name: str
    """What `--update-type` is given."""
    summary: str
    """What the files look like, in a line."""
    open: Callable[[str, Base], Adapter]
    """Reads what lies at a path. It may keep the file open until the changes are forgotten. Raises `UpdateError` where
    it cannot be read or does not fit the base; nothing is changed by it."""
