"""Files that are one model: one names the tensors, others hold them. ONNX with external data, TensorFlow checkpoints,
distributed checkpoints of torch.

The files lie in a store each by itself, since what a file is must depend on its own bytes alone; they are joined when
they are read, by their paths. What holds the tensors may be cut by content; then a chunk that is read may have bytes of
several. A tensor in pieces is read through the file that names it.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from thetastore.checkpoints.pieces import Piece, Pieces
from thetastore.checkpoints.tensors import TensorReader
from thetastore.digest import Digest
from thetastore.errors import MalformedError, NotThisFormat
from thetastore.formats import SNIFF_BYTES, RandomAccess
from thetastore.formats.outside import Outside
from thetastore.formats.registry import candidates, table_called, table_format
from thetastore.layout import Tensor as LaidTensor
from thetastore.layout import check_amplification
from thetastore.manifest import Tensor
from thetastore.selection import NameTest, reach_bytes

Places: TypeAlias = dict[str, list[Outside]]
"""What a file says of tensors in others, by the paths of these."""


def names_others(format_name: str, path: str) -> bool:
    """Tell whether a file of a format, at a path, may name tensors in other files."""
    return table_format(format_name) is not None or table_called(posixpath.basename(path)) is not None


def may_name_others(head: bytes, path: str) -> bool:
    """Tell whether a file that begins so, in its first 64 bytes, may name tensors in others."""
    called = table_called(posixpath.basename(path))
    if called is not None:
        return called.sniff(head)
    return any(table_format(format.name) is not None for format in candidates(head))


def tensors_outside(reader: TensorReader, path: str) -> Places:
    """Return the tensors that a file says lie in others, by the paths of these; none, if it is of no such format.

    Args:
        reader: of the file.
        path: of the file; the others' are relative to its directory.

    Raises:
        MalformedError: the file is called as none of its format is.
        ObjectMissingError, ObjectCorruptError: the file cannot be read.
    """
    return outside_of(_Whole(reader), reader.manifest.format, path)


def outside_of(file: RandomAccess, format_name: str, path: str) -> Places:
    """Return what `tensors_outside` does, of any file.

    Args:
        file: what reads it.
        format_name: of its layout.
        path: of it.

    Raises as `tensors_outside` does.
    """
    directory, file_name = posixpath.split(path)
    format, called = table_format(format_name), table_called(file_name)
    try:
        if format is not None:
            found = format.outside(file, file_name)
        elif called is not None and called.sniff(file.read_at(0, SNIFF_BYTES)):
            found = called.outside(file, file_name)
        else:
            return {}
    except NotThisFormat as error:
        if format is None:  # only its name speaks for it
            return {}
        raise MalformedError(f"'{path}' does not say where its tensors are: {error}") from None
    places: Places = {}
    for outside in found:
        places.setdefault(posixpath.join(directory, outside.file_name), []).append(outside)
    return places


def named_places(file: RandomAccess, path: str) -> set[str]:
    """Return the paths of the files that a file outside of any store says its tensors lie in."""
    return set(_told_by(file, path))


def tensors_told(raw: bytes, path: str) -> Places:
    """Return what `tensors_outside` does, of the bytes of a file outside of any store; none where it is malformed."""
    return _told_by(_Bytes(raw), path)


def _told_by(file: RandomAccess, path: str) -> Places:
    head = file.read_at(0, SNIFF_BYTES)
    if not may_name_others(head, path):
        return {}
    names = [format.name for format in candidates(head)] or [""]
    told: Places = {}
    for name in names:
        try:
            told |= outside_of(file, name, path)
        except MalformedError:  # it is not of this format, or is called as none of its files is
            continue
    return told


def wanted_outside(places: Mapping[str, Iterable[Outside]], wants: NameTest) -> dict[str, list[Tensor]]:
    """Return where the tensors that are wanted lie in other files, by the paths of these; of a file none may be.

    Of a tensor that the other file knows itself, with whatever encloses it there.
    """
    found: dict[str, list[Tensor]] = {}
    for place, told in places.items():
        wanted = [one for one in told if wants(one.whole.name if one.whole else one.tensor.name)]
        found[place] = [_reach(one) for one in wanted]
    return found


def _reach(outside: Outside) -> Tensor:
    laid = outside.tensor
    if outside.enclosing_bytes:
        return Tensor(laid.name, "uint8", (outside.enclosing_bytes,), laid.offset, None, Digest())
    return Tensor(*laid, Digest())


def named_outside(places: Mapping[str, Iterable[Outside]]) -> list[LaidTensor]:
    """Return the tensors that a file names in others, those in pieces as wholes; where they lie means nothing."""
    named: dict[str, LaidTensor] = {}
    for found in places.values():
        for _, tensor, whole, _ in found:
            name, shape = (whole.name, whole.shape) if whole else (tensor.name, tensor.shape)
            named[name] = LaidTensor(name, tensor.dtype, shape, 0)
    return list(named.values())


def joined(readers: Sequence[TensorReader], paths: Sequence[str]) -> list[TensorReader]:
    """Return the readers of files, each with the tensors that others of these files say lie in it.

    A tensor in pieces is one of the file that names it.

    Args:
        readers: of the files of one model, or of several.
        paths: of the files.

    Raises:
        MalformedError: a file names one that is none of these, or bytes that it does not have.
        ObjectMissingError, ObjectCorruptError: a file that names tensors cannot be read.
    """
    found = dict(zip(paths, readers, strict=True))
    held: dict[str, dict[str, Tensor]] = {}
    pieces: dict[str, dict[str, _Parts]] = {}
    for path, reader in zip(paths, readers, strict=True):
        parts: dict[str, _Parts] = {}
        for place, outside in tensors_outside(reader, path).items():
            if place not in found:
                raise MalformedError(f"'{path}' says that tensors are in '{place}', which is not there")
            tensors = _placed(path, place, found[place], outside)
            whole = {tensor.name: tensor for one, tensor in zip(outside, tensors, strict=True) if not one.whole}
            # Models that share weights name the same tensors.
            held[place] = whole | held.get(place, {})
            _collect(parts, found[place], outside, tensors)
        if parts:
            pieces[path] = parts
    return [
        _with(reader, held[path].values() if path in held else reader.manifest.tensors, pieces.get(path, {}))
        if path in held or path in pieces
        else reader
        for path, reader in found.items()
    ]


class _Parts(NamedTuple):
    """A tensor in pieces, so far."""

    dtype: str
    shape: tuple[int, ...]
    pieces: list[Piece]


def _placed(path: str, place: str, reader: TensorReader, found: Sequence[Outside]) -> list[Tensor]:
    """Return tensors of a file as they lie there.

    Raises:
        MalformedError: the file does not have them.
    """
    own = sorted(reader.manifest.tensors, key=lambda tensor: tensor.offset)
    offsets = [tensor.offset for tensor in own]
    tensors = []
    for _, laid, _, enclosing_bytes in found:
        if not enclosing_bytes:
            tensors.append(Tensor(*laid, Digest()))
            continue
        between = own[bisect_left(offsets, laid.offset) : bisect_left(offsets, laid.offset + enclosing_bytes)]
        if len(between) != 1 or between[0][1:3] != (laid.dtype, laid.shape):
            raise MalformedError(
                f"'{path}' says that '{laid.name}' {laid.dtype} {list(laid.shape)} is in bytes {laid.offset} to "
                f"{laid.offset + enclosing_bytes} of '{place}', which does not: they are not of one version"
            )
        tensors.append(between[0]._replace(name=laid.name))
    _check_fit(path, place, tensors, reader.manifest.file_bytes)
    return tensors


def _collect(
    parts: dict[str, _Parts], reader: TensorReader, found: Sequence[Outside], tensors: Sequence[Tensor]
) -> None:
    """Add the pieces that a file has of tensors."""
    in_pieces = [(one.whole, tensor) for one, tensor in zip(found, tensors, strict=True) if one.whole]
    holder = reader.holding(tensor for _, tensor in in_pieces)
    for whole, tensor in in_pieces:
        piece = Piece(holder, tensor.name, whole.at, tensor.shape)
        parts.setdefault(whole.name, _Parts(tensor.dtype, whole.shape, [])).pieces.append(piece)


def _with(reader: TensorReader, tensors: Iterable[Tensor], parts: Mapping[str, _Parts]) -> TensorReader:
    """Return what reads tensors of a file, and some in pieces, as if these lay in it one behind another."""
    wholes, offset = [], 0
    for name, (dtype, shape, _) in parts.items():
        wholes.append(Tensor(name, dtype, shape, offset, None, Digest()))
        offset += wholes[-1].raw_bytes
    return reader.holding([*tensors, *wholes], {name: Pieces(name, *one) for name, one in parts.items()})


def _check_fit(path: str, place: str, tensors: Sequence[Tensor], file_bytes: int) -> None:
    for tensor in tensors:
        end = tensor.offset + reach_bytes(tensor)
        if end > file_bytes:
            raise MalformedError(
                f"'{path}' says that tensor '{tensor.name}' ends at byte {end} of '{place}', which has {file_bytes}: "
                "they are not of one version"
            )
    try:
        check_amplification((tensor.placed() for tensor in tensors), file_bytes)
    except NotThisFormat as error:
        raise MalformedError(f"'{path}' and '{place}' are no model: {error}") from None


class _Whole:
    """A file of a store, as format plug-ins read files."""

    def __init__(self, reader: TensorReader) -> None:
        self.size = reader.manifest.file_bytes
        self._reader = reader

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return self._reader.read_file(offset, min(offset + nbytes, self.size))


class _Bytes:
    """A file in memory, as format plug-ins read files."""

    def __init__(self, raw: bytes) -> None:
        self.size = len(raw)
        self._raw = raw

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return self._raw[offset : offset + nbytes]
