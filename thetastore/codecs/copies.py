"""Codec `copies`: ranges of other objects, and literals for what they do not have.

What is stored, all numbers unsigned and little-endian:

    offset  size  field
         0     1  version, 0
         1     1  r, the number of ranges, 1 to 16
         2     1  codec of the literals: 0 literal, 1 constant, 2 zstd, 3 planes
         3     1  zero
         4     2  s, the number of patches, 0 to 256
         6     2  zero
         8     4  raw bytes
        12   16r  ranges, ascending: raw offset (4), length (4), number of the base (4), offset in the base (4)
    12+16r    8s  patches, ascending: raw offset (4), length (4)
  12+16r+8s       the literals of all patches, one after the other, coded together

Ranges are copied first, then patches over them: so a range with a few changed rows stays one range, and one read.
`docs/format/codecs.md` has the limits, the rationale and an annotated dump.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from thetastore.errors import MalformedError, UnsupportedError

if TYPE_CHECKING:
    from thetastore.digest import Buffer

VERSION: Final = 0
MAX_RANGES: Final = 16
"""Reads stay few: each range may take one."""
MIN_RANGE_BYTES: Final = 4 << 10
MAX_PATCHES: Final = 256
"""They cost no read, but a step each."""
LITERAL_CODECS: Final = ("literal", "constant", "zstd", "planes")
"""By their numbers in the header. Released: only ever appended to, and never by a codec with bases."""

_HEADER: Final = struct.Struct("<BBBBHHI")
_RANGE: Final = struct.Struct("<IIII")
_PATCH: Final = struct.Struct("<II")


class Range(NamedTuple):
    """Bytes that a base has."""

    start: int
    """Offset in the raw bytes."""
    nbytes: int
    base: int
    """Number of the base in the order of the record."""
    base_start: int
    """Offset in the base."""


class Patch(NamedTuple):
    """Bytes that no base has, or that differ within a range."""

    start: int
    nbytes: int


class Recipe(NamedTuple):
    """How to put a chunk together."""

    ranges: tuple[Range, ...]
    """Ascending, none touching another's bytes."""
    patches: tuple[Patch, ...]
    """Ascending, apart from each other; they cover at least what the ranges do not."""


def encode(raw: memoryview, recipe: Recipe, dtype: str | None) -> bytes:
    """Return the payload for `raw` by a recipe that fits it, whose bytes the caller has compared; it may be the larger.

    Args:
        raw: the chunk's bytes.
        recipe: within the limits of the format.
        dtype: element type of `raw`, for the literals.
    """
    from thetastore import codecs

    literals = b"".join([raw[patch.start : patch.start + patch.nbytes] for patch in recipe.patches])
    codec, _, stored = codecs.encode(literals, dtype)
    count, patch_count = len(recipe.ranges), len(recipe.patches)
    header = _HEADER.pack(VERSION, count, LITERAL_CODECS.index(codec), 0, patch_count, 0, raw.nbytes)
    ranges = itertools.starmap(_RANGE.pack, recipe.ranges)
    patches = itertools.starmap(_PATCH.pack, recipe.patches)
    return b"".join([header, *ranges, *patches, stored])


def decode(stored: memoryview, out: memoryview, bases: Sequence[Buffer]) -> None:
    """Fill `out` from the bases and the literals; takes memory for the literals at most, fewer than `out` has.

    Args:
        stored: the payload.
        out: writable, exactly as long as the raw bytes; shares no memory with a base.
        bases: the raw bytes of the record's bases, in its order.

    Raises:
        MalformedError: a rule of the format is broken; the payload is for another raw length or other bases.
        UnsupportedError: the payload has a later version.
    """
    from thetastore import codecs

    codec, recipe, position = read_recipe(stored, out.nbytes)
    views = [memoryview(base).cast("B") for base in bases]
    _check_bases(recipe.ranges, views)
    for start, nbytes, number, base_start in recipe.ranges:
        out[start : start + nbytes] = views[number][base_start : base_start + nbytes]
    if len(recipe.patches) == 1:
        start, nbytes = recipe.patches[0]
        codecs.decode(codec, b"", stored[position:], out[start : start + nbytes])
    else:
        literals = memoryview(bytearray(sum(patch.nbytes for patch in recipe.patches)))
        codecs.decode(codec, b"", stored[position:], literals)
        done = 0
        for start, nbytes in recipe.patches:
            out[start : start + nbytes] = literals[done : done + nbytes]
            done += nbytes


def read_recipe(stored: memoryview, raw_bytes: int) -> tuple[str, Recipe, int]:
    """Check all that can be without the bases; return the literals' codec, the recipe, and where literals begin.

    Raises:
        MalformedError, UnsupportedError: as `decode`.
    """
    if stored.nbytes < _HEADER.size:
        raise MalformedError(f"copies are truncated in their header, at byte {stored.nbytes}")
    version, count, codec, zero, patch_count, zeros, claimed_bytes = _HEADER.unpack_from(stored)
    if version != VERSION:
        raise UnsupportedError(f"copies are of version {version}, this version reads {VERSION}: upgrade")
    if claimed_bytes != raw_bytes:
        raise MalformedError(f"copies say {claimed_bytes} raw bytes, {raw_bytes} were expected")
    if not 1 <= count <= MAX_RANGES or patch_count > MAX_PATCHES or codec >= len(LITERAL_CODECS) or zero or zeros:
        raise MalformedError(f"copies have {count} ranges, {patch_count} patches, literals of codec {codec}")
    patches_at = _HEADER.size + count * _RANGE.size
    literals_at = patches_at + patch_count * _PATCH.size
    if stored.nbytes < literals_at:
        raise MalformedError(f"copies are truncated in their ranges, at byte {stored.nbytes}")
    ranges = itertools.starmap(Range, _RANGE.iter_unpack(stored[_HEADER.size : patches_at]))
    patches = itertools.starmap(Patch, _PATCH.iter_unpack(stored[patches_at:literals_at]))
    recipe = Recipe(tuple(ranges), tuple(patches))
    _check_recipe(recipe, raw_bytes)
    return LITERAL_CODECS[codec], recipe, literals_at


def _check_recipe(recipe: Recipe, raw_bytes: int) -> None:
    """Refuse ranges and patches that overlap among themselves, lie outside, or do not cover everything."""
    end = 0
    for at in recipe.ranges:
        if at.start < end or at.nbytes < MIN_RANGE_BYTES or at.start + at.nbytes > raw_bytes:
            raise MalformedError(f"copies have a range of {at.nbytes} bytes at {at.start}, of {raw_bytes} raw bytes")
        end = at.start + at.nbytes
    end = -1
    for patch in recipe.patches:
        # Patches that touch would be one: so there is one way to write them, and no flood of empty ones.
        if patch.start <= end or not patch.nbytes or patch.start + patch.nbytes > raw_bytes:
            raise MalformedError(f"copies have a patch of {patch.nbytes} bytes at {patch.start}, after one to {end}")
        end = patch.start + patch.nbytes
    for start, stop in gaps(((at.start, at.start + at.nbytes) for at in recipe.ranges), raw_bytes):
        if not any(patch.start <= start and patch.start + patch.nbytes >= stop for patch in recipe.patches):
            raise MalformedError(f"copies do not say what the raw bytes from {start} to {stop} are")


def gaps(covered: Iterable[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """Yield what ascending (start, stop) pairs leave uncovered of [0, end)."""
    position = 0
    for start, stop in covered:
        if position < start:
            yield position, start
        position = stop
    if position < end:
        yield position, end


def _check_bases(ranges: Iterable[Range], bases: Sequence[memoryview]) -> None:
    """Refuse ranges outside of their bases, and bases that no range needs: reading them would be for nothing."""
    unused = set(range(len(bases)))
    for _, nbytes, number, base_start in ranges:
        if number >= len(bases):
            raise MalformedError(f"copies need base {number}, the record has {len(bases)}")
        if base_start + nbytes > bases[number].nbytes:
            raise MalformedError(
                f"copies need bytes {base_start} to {base_start + nbytes} of base {number}, "
                f"which has {bases[number].nbytes}"
            )
        unused.discard(number)
    if unused:
        raise MalformedError(f"copies have {len(bases)} bases and do not use number {min(unused)}")
