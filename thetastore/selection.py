"""Some of the tensors of files: which names are wanted, and which bytes of a file that is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self, TypeAlias

from thetastore.digest import Digest
from thetastore.dtypes import raw_bytes_of
from thetastore.errors import NoSuchTensorError
from thetastore.layout import MAX_FILE_BYTES
from thetastore.manifest import Manifest, Tensor

NameTest = Callable[[str], bool]
"""Tells of a tensor's name whether the tensor is wanted."""
Wants: TypeAlias = "NameTest | Ranges | Mapping[Digest, NameTest | Ranges]"
"""What is wanted of files: tensors, by the names that manifests have for them; or bytes, where those name none; or
either of each file, by its manifest, and nothing of the others."""


def is_glob(text: str) -> bool:
    """Tell whether a text is meant for many names; a name that is there may look so, too."""
    return any(mark in text for mark in "*?[")


def glob_wants(patterns: Sequence[str]) -> NameTest:
    """Return what tells whether a name matches any of some globs; `*` and `?` match dots and slashes, too."""
    import re
    from fnmatch import translate

    match = re.compile("|".join(map(translate, patterns))).match
    return lambda name: match(name) is not None


class Globs:
    """Globs that are asked of name after name, and of which in the end one at least should have matched something."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Take globs; with none, every name is wanted."""
        self._patterns = patterns
        self._wants = glob_wants(patterns)
        self._asked: dict[str, bool] = {}

    def __call__(self, name: str) -> bool:
        """Tell whether a name matches any of them."""
        if not self._patterns:
            return True
        if name not in self._asked:
            self._asked[name] = self._wants(name)
        return self._asked[name]

    def check(self) -> None:
        """Refuse globs that matched none of the names, if there were any.

        Raises:
            NoSuchTensorError: says which names are near.
        """
        if self._asked and not any(self._asked.values()):
            raise NoSuchTensorError(self._patterns[0], tuple(self._asked), is_pattern=True)


def named_wants(names: Iterable[str]) -> NameTest:
    """Return what tells whether a name is among these."""
    return frozenset(names).__contains__


class Ranges:
    """The bytes of a file that some of its tensors take, those between the elements of strided ones included."""

    def __init__(self, tensors: Iterable[Tensor], wants: NameTest) -> None:
        """Take the tensors that are wanted."""
        self._starts: list[int] = []
        self._stops: list[int] = []
        places = ((tensor.offset, tensor.offset + reach_bytes(tensor)) for tensor in tensors if wants(tensor.name))
        for start, stop in sorted(place for place in places if place[0] < place[1]):
            if self._stops and start <= self._stops[-1]:
                self._stops[-1] = max(stop, self._stops[-1])
            else:
                self._starts.append(start)
                self._stops.append(stop)

    @classmethod
    def whole(cls) -> Self:
        """Return all bytes of a file, however long."""
        every = cls((), lambda _: True)
        every._starts, every._stops = [0], [MAX_FILE_BYTES]
        return every

    def places(self) -> list[tuple[int, int]]:
        """Return the runs of bytes, in order, that do not touch each other."""
        return list(zip(self._starts, self._stops, strict=True))

    def overlap(self, start: int, stop: int) -> bool:
        """Tell whether any of the bytes `[start, stop)` of the file is among them."""
        at = bisect_right(self._stops, start)
        return at < len(self._starts) and self._starts[at] < stop


def wanted_of(manifest_digest: Digest, manifest: Manifest, wants: Wants) -> Ranges:
    """Return the bytes of a file that are wanted."""
    if isinstance(wants, Mapping):
        return wanted_of(manifest_digest, manifest, wants.get(manifest_digest) or Ranges((), lambda _: False))
    return wants if isinstance(wants, Ranges) else Ranges(manifest.tensors, wants)


def reach_bytes(tensor: Tensor) -> int:
    """Return the distance in the file from the start of a tensor's first element to the end of its last."""
    if tensor.strides is None or 0 in tensor.shape:
        return tensor.raw_bytes
    last = sum((length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=True))
    return raw_bytes_of(tensor.dtype, last + 1)
