"""What the tensors of one version have more than those of the one before: `docs/format/weight-differences.md`.

Made from, and applied to, memory: nothing of the version before is read back. A MiB at a time, by the codecs of chunks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from thetastore import codecs
from thetastore.arrays import WritableTensor
from thetastore.chunking import columns_of
from thetastore.codecs import Coded
from thetastore.digest import Buffer, Digest, digest_of
from thetastore.dtypes import DTYPES
from thetastore.errors import MalformedError
from thetastore.packs.preamble import PREAMBLE_BYTES, check_preamble, preamble
from thetastore.pool import Pool

FILE_NAME = "difference.theta"
MAGIC = bytes.fromhex("a774686469660a00")
PIECE_BYTES = 1 << 20
MAX_TABLE_BYTES = 64 << 20
MAX_TENSORS = 200_000
_LENGTH = struct.Struct("<Q")
_CODECS = frozenset(("difference", "literal", "constant", "zstd", "planes"))
_SMALL_BYTES = 32 << 10
"""Pieces up to this length are worked on in the caller's thread."""

Piece = tuple[str, int] | None
"""Codec and length of what is stored for a MiB; None where nothing has changed."""


class Changed(NamedTuple):
    """A tensor of the version after, and where it differs."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: Digest
    """Of its bytes, after the change."""
    pieces: tuple[Piece, ...]
    """One for each MiB; none at all where nothing has changed."""


class Difference(NamedTuple):
    """A parsed file."""

    base_number: int
    """Entry whose tensors it is a difference from."""
    tensors: tuple[Changed, ...]
    payload: memoryview


def changes_of(
    name: str, dtype: str, shape: tuple[int, ...], raw: memoryview, base: memoryview, pool: Pool
) -> tuple[Changed, list[Buffer]]:
    """Compare a tensor with what it was.

    Args:
        name: of the tensor.
        dtype: of both.
        shape: of both.
        raw: its bytes now.
        base: as many bytes: what it was.
        pool: threads for the coding.

    Returns:
        Where it differs, and what is to be stored for each piece that does.
    """
    columns = columns_of(shape)

    def coded(start: int) -> Coded | None:
        now, before = raw[start : start + PIECE_BYTES], base[start : start + PIECE_BYTES]
        if np.array_equal(np.frombuffer(now, "u1"), np.frombuffer(before, "u1")):
            return None
        difference = codecs.encode_difference(now, before, dtype, columns=columns)
        # Where most has changed a difference may be larger than the piece itself, and a sample cannot tell exactly.
        if difference is not None and memoryview(difference.stored).nbytes < now.nbytes // 2:
            return difference
        alone = codecs.encode(now, dtype)
        return min((one for one in (difference, alone) if one), key=lambda one: memoryview(one.stored).nbytes)

    starts = range(0, raw.nbytes, PIECE_BYTES)
    found = list(pool.map_bounded(coded, starts, lambda start: raw.nbytes - start <= _SMALL_BYTES))
    # What is stored as it is would change with the tensor: it is copied.
    stored: list[Buffer] = [bytes(one.stored) if one.codec == "literal" else one.stored for one in found if one]
    pieces = tuple((one.codec, memoryview(one.stored).nbytes) if one else None for one in found)
    return Changed(name, dtype, shape, digest_of(raw), pieces if stored else ()), stored


class DifferenceSource:
    """The file, to be read once from its start: a `Source` for `Store.put_file`."""

    def __init__(self, base_number: int, tensors: Sequence[Changed], stored: Iterable[Buffer]) -> None:
        """Join table and payloads.

        Raises:
            MalformedError: there are more tensors than a table holds.
        """
        table = _encode_table(base_number, tensors)
        if len(tensors) > MAX_TENSORS or len(table) > MAX_TABLE_BYTES:
            raise MalformedError(f"{len(tensors)} tensors are more than a difference holds: {MAX_TENSORS}")
        self._parts: Iterator[Buffer] = iter([preamble(MAGIC), _LENGTH.pack(len(table)), table, *stored])
        self._left = memoryview(b"")

    def readinto(self, view: memoryview, /) -> int:
        """Write the next bytes into `view`; return how many, 0 at the end."""
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = memoryview(part).cast("B")
        count = min(view.nbytes, self._left.nbytes)
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _encode_table(base_number: int, tensors: Sequence[Changed]) -> bytes:
    import json

    listed = [
        {
            "name": one.name,
            "dtype": one.dtype,
            "shape": one.shape,
            "digest": str(one.digest),
            "pieces": [piece or 0 for piece in one.pieces],
        }
        for one in tensors
    ]
    return json.dumps({"from": base_number, "tensors": listed}, separators=(",", ":")).encode()


def parse_difference(raw: memoryview, where: str) -> Difference:
    """Return what a file says.

    Args:
        raw: the whole file.
        where: what it is called, for messages.

    Raises:
        MalformedError: it breaks a rule of the format.
        UnsupportedError: a newer version wrote it.
    """
    import json

    check_preamble(raw[:PREAMBLE_BYTES], MAGIC, where)
    start = PREAMBLE_BYTES + _LENGTH.size
    table_bytes = _LENGTH.unpack_from(raw, PREAMBLE_BYTES)[0] if raw.nbytes >= start else -1
    if not 0 <= table_bytes <= min(MAX_TABLE_BYTES, raw.nbytes - start):
        raise MalformedError(f"{where} is malformed: its table has a length of {table_bytes}")
    try:
        values = json.loads(bytes(raw[start : start + table_bytes]))
        tensors = tuple(_parse_tensor(one) for one in values["tensors"])
        base_number = values["from"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MalformedError(f"{where} is malformed: its table is not as it should be") from error
    payload = raw[start + table_bytes :]
    taken = sum(piece[1] for one in tensors for piece in one.pieces if piece)
    if taken != payload.nbytes or type(base_number) is not int or len(tensors) > MAX_TENSORS:
        raise MalformedError(f"{where} is malformed: {taken} bytes of payload were announced, {payload.nbytes} follow")
    return Difference(base_number, tensors, payload)


def _parse_tensor(value: Any) -> Changed:
    shape = tuple(value["shape"])
    pieces = tuple(_parse_piece(piece) for piece in value["pieces"])
    if not all(type(length) is int and length >= 0 for length in shape) or value["dtype"] not in DTYPES:
        raise TypeError
    if type(value["name"]) is not str:
        raise TypeError
    return Changed(value["name"], value["dtype"], shape, Digest.parse(value["digest"]), pieces)


def _parse_piece(value: Any) -> Piece:
    if value == 0 and type(value) is int:
        return None
    codec, stored_bytes = value
    if codec not in _CODECS or type(stored_bytes) is not int or not 0 < stored_bytes <= 2 * PIECE_BYTES:
        raise TypeError
    return codec, stored_bytes


def check_fits(difference: Difference, targets: Mapping[str, WritableTensor], where: str) -> None:
    """Refuse a difference that is not of just these tensors, before anything is changed.

    Raises:
        MalformedError: names, types or shapes are others, or the number of pieces is wrong.
    """
    for one in difference.tensors:
        target = targets.get(one.name)
        if target is None or (target.dtype, target.shape) != (one.dtype, one.shape):
            raise MalformedError(f"{where} is of a tensor '{one.name}' of {one.dtype} {one.shape}, and there is none")
        if one.pieces and len(one.pieces) != -(-target.raw.nbytes // PIECE_BYTES):
            raise MalformedError(f"{where} has {len(one.pieces)} pieces for tensor '{one.name}'")
    if len({one.name for one in difference.tensors}) != len(difference.tensors):
        raise MalformedError(f"{where} has a tensor twice")


def apply(difference: Difference, targets: Mapping[str, WritableTensor], pool: Pool) -> None:
    """Change tensors in place. Tensors that share their memory are changed once.

    Raises:
        MalformedError: a payload is not what its codec writes; some tensors are changed then.
    """
    work = []
    offset = 0
    seen: set[int] = set()
    for one in difference.tensors:
        target = targets[one.name]
        is_new = target.address not in seen
        for number, piece in enumerate(one.pieces):
            if piece is None:
                continue
            if is_new:
                out = target.raw[number * PIECE_BYTES : (number + 1) * PIECE_BYTES]
                work.append((piece[0], difference.payload[offset : offset + piece[1]], out))
            offset += piece[1]
        seen.add(target.address)

    def decode(item: tuple[str, memoryview, memoryview]) -> None:
        codec, stored, out = item
        codecs.decode(codec, b"", stored, out, [out] if codec == "difference" else [])

    for _ in pool.map_bounded(decode, work, lambda item: item[2].nbytes <= _SMALL_BYTES):
        pass


def first_wrong(difference: Difference, targets: Mapping[str, WritableTensor], pool: Pool) -> str | None:
    """Return the name of a tensor that does not have the digest that the difference says; None if all have theirs."""

    def is_right(one: Changed) -> bool:
        return digest_of(targets[one.name].raw) == one.digest

    answers = pool.map_bounded(is_right, difference.tensors, lambda one: targets[one.name].raw.nbytes <= _SMALL_BYTES)
    wrong = [one.name for one, right in zip(difference.tensors, answers, strict=True) if not right]
    return wrong[0] if wrong else None
