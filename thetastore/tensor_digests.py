"""Digests of the tensors of a file, computed while the file's bytes go by in order.

A tensor's digest is the plain BLAKE3 of its bytes in C order. Where a tensor is exactly one chunk, that is
the chunk's own digest, and nothing is hashed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from thetastore.digest import Digest, Hasher, digest_of, new_hasher
from thetastore.formats import RandomAccess
from thetastore.layout import Tensor


class _Range(NamedTuple):
    """Bytes of a file that a contiguous tensor takes."""

    start: int
    end: int


class _Active:
    """A range that has begun and not yet ended."""

    __slots__ = ("hasher", "range")

    def __init__(self, range_: _Range, hasher: Hasher) -> None:
        self.range = range_
        self.hasher = hasher


class TensorDigests:
    """Hashes the contiguous tensors among those given; each range of bytes once, however many names it has."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        ranges = {_range_of(tensor) for tensor in tensors if tensor.strides is None}
        self._waiting = sorted(ranges, reverse=True)
        self._active: list[_Active] = []
        self._digests: dict[_Range, Digest] = {}

    def feed(self, offset: int, piece: memoryview | bytes) -> None:
        """Take the next bytes of the file; `offset` says where they lie. Pieces must come in order, without gaps."""
        end = offset + len(piece)
        while self._waiting and self._waiting[-1].start < end:
            range_ = self._waiting.pop()
            if range_.start == range_.end:
                self._digests[range_] = digest_of(b"")
            elif range_ == (offset, end):
                continue  # the chunk's digest will be told to `adopt`
            elif offset <= range_.start and range_.end <= end:
                # No hasher is kept: each takes 2 KB, and a chunk may hold 200,000 tensors.
                within = memoryview(piece)[range_.start - offset : range_.end - offset]
                self._digests[range_] = digest_of(within)
            else:
                self._active.append(_Active(range_, new_hasher()))
        finished = False
        for active in self._active:
            start, stop = max(active.range.start, offset), min(active.range.end, end)
            active.hasher.update(memoryview(piece)[start - offset : stop - offset])
            if active.range.end <= end:
                self._digests[active.range] = Digest(active.hasher.digest())
                finished = True
        if finished:
            self._active = [active for active in self._active if active.range.end > end]

    def adopt(self, offset: int, raw_bytes: int, digest: Digest) -> None:
        """Take the digest of a chunk that was fed; it may be that of a tensor."""
        self._digests[_Range(offset, offset + raw_bytes)] = digest

    def finish(self, file: RandomAccess | None) -> list[Digest]:
        """Return the digest of each tensor, in the order given, once the whole file was fed.

        Args:
            file: the file, for tensors that do not lie in C order; it is read again for them.
        """
        while self._waiting:  # empty tensors at the very end of the file
            self._digests[self._waiting.pop()] = digest_of(b"")
        strided: dict[tuple[object, ...], Digest] = {}
        digests = []
        for tensor in self._tensors:
            if tensor.strides is None:
                digests.append(self._digests[_range_of(tensor)])
                continue
            place = tensor[1:]
            if place not in strided:
                assert file is not None, "a header format may not have strided tensors"
                strided[place] = _strided_digest(file, tensor)
            digests.append(strided[place])
        return digests


def _range_of(tensor: Tensor) -> _Range:
    return _Range(tensor.offset, tensor.offset + tensor.raw_bytes)


def _strided_digest(file: RandomAccess, tensor: Tensor) -> Digest:
    from thetastore.strided import iter_c_order

    hasher = new_hasher()
    for block in iter_c_order(file, tensor):
        hasher.update(block)
    return Digest(hasher.digest())
