"""Codecs: reversible transforms of bytes, each under a released name.

`encode` picks the codec that suits the bytes and their element type, `encode_difference` tries them against a base,
`encode_copies` takes ranges of several; `decode` undoes any of them into memory that the caller allocated, so that no
stored length is believed before it was checked.

| name | for | stored bytes |
| --- | --- | --- |
| `literal` | what nothing else makes smaller | the raw bytes |
| `constant` | one pattern of 1 to 16 bytes, repeated | the pattern |
| `zstd` | opaque bytes, repetitive integers | one zstd frame |
| `planes` | floats and most integers | byte planes, each as it is smallest (`thetastore.codecs.planes`) |
| `difference` | a chunk whose base is known | what it has more than its base (`thetastore.codecs.difference`) |
| `copies` | a chunk made of pieces of others | ranges of its bases, and what they lack (`thetastore.codecs.copies`) |
| `update` | a chunk made from its base by a recipe | factors, and what they lack (`thetastore.codecs.update`) |

No codec of this version has parameters: `Coded.params` is empty. The bytes are specified in
`docs/format/codecs.md`. numpy is imported when the first typed chunk of `_PLANES_FROM_BYTES` comes, not before:
it costs 50 ms, and a filter that sees only opaque bytes never needs it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

from thetastore.codecs import constant, frames
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from thetastore.codecs.copies import Recipe
    from thetastore.digest import Buffer
    from thetastore.updates.recipe import Window

__all__ = [
    "CODEC_NAMES",
    "SHARED_FROM",
    "Coded",
    "decode",
    "encode",
    "encode_copies",
    "encode_difference",
    "encode_update",
]

CODEC_NAMES = ("literal", "constant", "zstd", "planes", "difference", "copies", "update")
"""Every codec that this version writes and reads."""

_PLANES_FROM_BYTES = 4096
"""Below this planes save little and cost much: for 1,000 files of four such tensors each, a third of the time of a
checkout, and the import of numpy."""

_DIFFERENCE_FROM_BYTES = 256
"""Below this headers outweigh what a difference saves, and a second record has to be read."""

_BASE_COUNTS = {"difference": range(1, 2), "copies": range(1, 17), "update": range(1, 3)}
"""How many bases a record must have; none, where the codec is not listed."""
_NO_BASES = range(1)
SHARED_FROM: Final = {"update": 1}
"""From which of its bases on a record's bases are no objects of files, but parts that records of one tensor share: they
exist for them alone, and go where they go."""

_ZSTD_FROM_BYTES = 64
_SAMPLE_PIECES = 2
_SAMPLE_PIECE_BYTES = 16 << 10
_ZSTD_ADVANTAGE = 0.95
"""zstd is taken in place of planes only where it makes a sample this much smaller: it is 2-4x slower both ways."""


class Coded(NamedTuple):
    """Raw bytes as they are to be stored."""

    codec: str
    """Released name, at most 16 ASCII bytes."""
    params: bytes
    """What the codec needs besides the stored bytes; empty in this version."""
    stored: Buffer
    """For `literal` this is the caller's own memory, not a copy: it has to stay unchanged until it is written."""


def encode(raw: Buffer, dtype: str | None = None) -> Coded:
    """Code `raw` by whichever codec makes it smallest at a reasonable price; never larger than it was.

    Thread-safe; most of the time is spent without the GIL. Any length will do, also none and one that is no
    multiple of the element's width.

    Args:
        raw: contiguous bytes. 1 MiB is what the scratch memory and the sampling are tuned for.
        dtype: a name of `thetastore.dtypes.DTYPES`; None or an unknown name means opaque bytes.
    """
    view = memoryview(raw).cast("B")
    pattern = constant.find_pattern(view)
    if pattern is not None:
        return Coded("constant", b"", pattern)
    if dtype in DTYPES and view.nbytes >= _PLANES_FROM_BYTES:
        return _encode_typed(view, dtype)
    return _encode_opaque(view)


def _encode_opaque(raw: memoryview) -> Coded:
    """Code by zstd where that saves 1/64 or more, else literally.

    No sample is taken first: zstd gives up on incompressible bytes by itself, at 7 GB/s (measured, level 3).
    """
    if raw.nbytes >= _ZSTD_FROM_BYTES:
        frame = frames.compress(raw)
        if frames.pays(len(frame), raw.nbytes):
            return Coded("zstd", b"", frame)
    return Coded("literal", b"", raw)


def _encode_typed(raw: memoryview, dtype: str) -> Coded:
    from thetastore.codecs import planes

    plan = planes.plan(raw, dtype)
    if plan.is_repetitive and _zstd_suits_better(raw, dtype):
        return _encode_opaque(raw)
    payload = planes.encode(raw, plan)
    if payload is not None:
        return Coded("planes", b"", payload)
    return _encode_opaque(raw) if plan.is_repetitive else Coded("literal", b"", raw)


def encode_difference(
    raw: Buffer, base: Buffer, dtype: str | None = None, *, columns: int = 0, is_thorough: bool = False
) -> Coded | None:
    """Code `raw` as its difference from `base`, or return None where that cannot be, or promises to be no smaller.

    A sample decides first, in some 50 us, so that a wrong guess costs little. What it lets through is nearly always
    smaller than what `encode` gives, but not always: keep the smaller. Thread-safe.

    Args:
        raw: as for `encode`.
        base: contiguous bytes, as many as `raw` has.
        dtype: as for `encode`; both are taken for this type.
        columns: elements of a row, if `raw` is a part of a matrix; else 0. Steps of a training are smaller with it.
        is_thorough: for archives: a fifth less for 16-bit floats of which most changed, at a fourth of the speed.
    """
    view, base_view = memoryview(raw).cast("B"), memoryview(base).cast("B")
    if view.nbytes != base_view.nbytes or view.nbytes < _DIFFERENCE_FROM_BYTES:
        return None
    from thetastore.codecs import difference

    payload = difference.encode(view, base_view, dtype, columns=columns, is_thorough=is_thorough)
    return None if payload is None or payload.nbytes >= view.nbytes else Coded("difference", b"", payload)


def encode_copies(raw: Buffer, recipe: Recipe, dtype: str | None = None) -> Coded | None:
    """Code `raw` as copies and literals for the rest, or return None where that is no smaller. Thread-safe.

    Args:
        raw: as for `encode`.
        recipe: which ranges of which bases: `thetastore.representations.matching.find_copies` finds and compares them.
        dtype: as for `encode`, for the literals.
    """
    from thetastore.codecs import copies

    payload = copies.encode(memoryview(raw).cast("B"), recipe, dtype)
    return None if len(payload) >= memoryview(raw).nbytes else Coded("copies", b"", payload)


def encode_update(
    raw: Buffer, base: Buffer | None, dtype: str, window: Window, shared: tuple[int, int] | None = None
) -> Coded | None:
    """Code `raw` as what an update makes of `base`, or return None where that does not help. Thread-safe.

    Args:
        raw: as for `encode`.
        base: as many bytes; None where the caller made `raw` by this very update, so that nothing need be compared.
        dtype: of both, of `thetastore.updates.recipe.DTYPES`.
        window: the parts of the update.
        shared: see `thetastore.codecs.update.encode`.
    """
    from thetastore.codecs import update

    base_view = None if base is None else memoryview(base).cast("B")
    payload = update.encode(memoryview(raw).cast("B"), base_view, dtype, window, shared)
    return None if payload is None else Coded("update", b"", payload)


def _zstd_suits_better(raw: memoryview, dtype: str) -> bool:
    """Tell by a sample whether whole values repeat, so that a dictionary coder beats the planes."""
    from thetastore.codecs import planes

    sample = _sample(raw)
    payload = planes.encode(sample, planes.plan(sample, dtype))
    planes_bytes = sample.nbytes if payload is None else payload.nbytes
    return len(frames.compress(sample)) < _ZSTD_ADVANTAGE * planes_bytes


def _sample(raw: memoryview) -> memoryview:
    """Copy evenly spread pieces, each at an offset that is a multiple of every element's width."""
    if raw.nbytes <= _SAMPLE_PIECES * _SAMPLE_PIECE_BYTES:
        return raw
    stride = raw.nbytes // _SAMPLE_PIECES & ~15
    starts = (index * stride for index in range(_SAMPLE_PIECES))
    return memoryview(b"".join(raw[start : start + _SAMPLE_PIECE_BYTES] for start in starts))


def decode(codec: str, params: bytes, stored: Buffer, out: memoryview, bases: Sequence[Buffer] = ()) -> None:
    """Fill `out` with the raw bytes. Thread-safe; needs no memory that depends on what `stored` claims.

    Args:
        codec: name of the codec.
        params: as `encode` gave them.
        stored: as `encode` gave them; not kept.
        out: writable, contiguous, exactly as long as the raw bytes; its content is undefined after an error.
        bases: raw bytes of the objects that the record names as its bases, in that order: one for `difference`, which
            may be `out` itself; 1 to 16 for `copies`, 1 or 2 for `update`, none of which may; else none.

    Raises:
        MalformedError: `stored` is not what the codec writes for that many raw bytes, or the bases are not as many
            or not as long as the codec needs.
        UnsupportedError: the codec is of a newer version, or of a plug-in that is not installed.
    """
    if codec not in CODEC_NAMES:
        _decode_by_plugin(codec, params, stored, out, bases)
        return
    if params:
        raise MalformedError(f"codec '{codec}' has no parameters, {len(params)} bytes of them are stored")
    base_counts = _BASE_COUNTS.get(codec, _NO_BASES)
    if len(bases) not in base_counts:
        raise MalformedError(f"codec '{codec}' has {base_counts[0]} to {base_counts[-1]} bases, {len(bases)} are given")
    if codec == "difference":
        from thetastore.codecs import difference

        difference.decode(memoryview(stored).cast("B"), memoryview(bases[0]).cast("B"), out.cast("B"))
    elif codec == "copies":
        from thetastore.codecs import copies

        copies.decode(memoryview(stored).cast("B"), out.cast("B"), bases)
    elif codec == "update":
        from thetastore.codecs import update

        update.decode(memoryview(stored).cast("B"), out.cast("B"), [memoryview(base).cast("B") for base in bases])
    else:
        _DECODERS[codec](memoryview(stored).cast("B"), out.cast("B"))


@functools.cache
def _plugin(codec: str) -> Callable[..., None]:
    from thetastore import plugins

    decode: Callable[..., None] = plugins.load(plugins.CODECS, codec, CODEC_NAMES)
    return decode


def _decode_by_plugin(codec: str, params: bytes, stored: Buffer, out: memoryview, bases: Sequence[Buffer]) -> None:
    """Let a plug-in decode. Whatever it does, the caller compares the digest of what it wrote."""
    decode = _plugin(codec)
    try:
        decode(params, memoryview(stored).cast("B"), out.cast("B"), bases)
    except Exception as error:
        raise MalformedError(f"the plug-in for codec '{codec}' failed: {type(error).__name__}: {error}") from error


def _decode_literal(stored: memoryview, out: memoryview) -> None:
    if stored.nbytes != out.nbytes:
        raise MalformedError(f"literal has {stored.nbytes} bytes, {out.nbytes} were expected")
    out[:] = stored


def _decode_planes(stored: memoryview, out: memoryview) -> None:
    from thetastore.codecs import planes

    planes.decode(stored, out)


_DECODERS: dict[str, Callable[[memoryview, memoryview], None]] = {
    "literal": _decode_literal,
    "constant": constant.decode,
    "zstd": frames.decompress_into,
    "planes": _decode_planes,
}
