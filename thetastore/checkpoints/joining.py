"""Files that are one model: one names the tensors, others hold them. ONNX with external data, TensorFlow checkpoints.

The files lie in a store each by itself, since what a file is must depend on its own bytes alone; they are joined when
they are read, by their paths. What holds the tensors is cut by content, so a chunk that is read may have bytes of
several.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence

from thetastore.checkpoints.tensors import TensorReader
from thetastore.errors import MalformedError, NotThisFormat
from thetastore.formats.registry import candidates, table_format
from thetastore.layout import Tensor, check_amplification


def names_others(format_name: str) -> bool:
    """Tell whether files of a format name tensors in other files."""
    return table_format(format_name) is not None


def may_name_others(head: bytes) -> bool:
    """Tell whether a file that begins so, in its first 64 bytes, may name tensors in others."""
    return any(names_others(format.name) for format in candidates(head))


def tensors_outside(reader: TensorReader, path: str) -> dict[str, list[Tensor]]:
    """Return the tensors that a file says lie in others, by the paths of these; none, if it is of no such format.

    Args:
        reader: of the file.
        path: of the file; the others' are relative to its directory.

    Raises:
        MalformedError: the file is called as none of its format is.
        ObjectMissingError, ObjectCorruptError: the file cannot be read.
    """
    format = table_format(reader.manifest.format)
    if format is None:
        return {}
    directory, file_name = posixpath.split(path)
    try:
        found = format.outside(_Whole(reader), file_name)
    except NotThisFormat as error:
        raise MalformedError(f"'{path}' does not say where its tensors are: {error}") from None
    places: dict[str, list[Tensor]] = {}
    for outside in found:
        places.setdefault(posixpath.join(directory, outside.file_name), []).append(outside.tensor)
    return places


def joined(readers: Sequence[TensorReader], paths: Sequence[str]) -> list[TensorReader]:
    """Return the readers of files, each with the tensors that others of these files say lie in it.

    Args:
        readers: of the files of one model, or of several.
        paths: of the files.

    Raises:
        MalformedError: a file names one that is none of these, or bytes that it does not have.
        ObjectMissingError, ObjectCorruptError: a file that names tensors cannot be read.
    """
    held: dict[str, dict[str, Tensor]] = {}
    for reader, path in zip(readers, paths, strict=True):
        for place, tensors in tensors_outside(reader, path).items():
            if place not in paths:
                raise MalformedError(f"'{path}' says that tensors are in '{place}', which is not there")
            _check_fit(path, place, tensors, readers[paths.index(place)].manifest.file_bytes)
            # Models that share weights name the same tensors.
            held[place] = {tensor.name: tensor for tensor in tensors} | held.get(place, {})
    return [_with(reader, held.get(path)) for reader, path in zip(readers, paths, strict=True)]


def _with(reader: TensorReader, tensors: Mapping[str, Tensor] | None) -> TensorReader:
    return reader.holding(tensors.values()) if tensors else reader


def _check_fit(path: str, place: str, tensors: Iterable[Tensor], file_bytes: int) -> None:
    for tensor in tensors:
        end = tensor.offset + tensor.raw_bytes
        if end > file_bytes:
            raise MalformedError(
                f"'{path}' says that tensor '{tensor.name}' ends at byte {end} of '{place}', which has {file_bytes}: "
                "they are not of one version"
            )
    try:
        check_amplification(tensors, file_bytes)
    except NotThisFormat as error:
        raise MalformedError(f"'{path}' and '{place}' are no model: {error}") from None


class _Whole:
    """A file of a store, as format plug-ins read files."""

    def __init__(self, reader: TensorReader) -> None:
        self.size = reader.manifest.file_bytes
        self._reader = reader

    def read_at(self, offset: int, nbytes: int) -> bytes:
        return self._reader.read_file(offset, min(offset + nbytes, self.size))
