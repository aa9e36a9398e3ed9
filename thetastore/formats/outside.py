"""Tensors that a file names and other files hold.

A layout is of one file's bytes alone, so such a tensor is in none. What its file says of it is read when somebody asks
for the tensor, and the file that holds it is opaque.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from thetastore.errors import NotThisFormat
from thetastore.formats import RandomAccess
from thetastore.layout import MAX_FILE_BYTES, MAX_NAME_BYTES, MAX_TENSORS, Tensor, check_tensor


class Whole(NamedTuple):
    """A tensor that lies in several pieces, and where one of these is in it."""

    name: str
    shape: tuple[int, ...]
    at: tuple[int, ...]
    """Index of the first element of the piece."""


class Outside(NamedTuple):
    """A tensor or a piece of one, and the file that it lies in."""

    file_name: str
    """Relative to the directory of the file that names the tensor, `/` between parts, none of them `..`."""
    tensor: Tensor
    """Of a piece, the name says which: `piece_name`."""
    whole: Whole | None = None
    """What this is a piece of; None where it is all of a tensor."""
    enclosing_bytes: int = 0
    """Where it is not 0, the tensor is the one that the other file says it has in so many bytes from `offset` on."""


def piece(
    file_name: str, tensor: Tensor, shape: tuple[int, ...], at: tuple[int, ...], enclosing_bytes: int = 0
) -> Outside:
    """Return a piece of the tensor of this name and shape; what is all of it is no piece."""
    if tensor.shape == shape and not any(at):
        return Outside(file_name, tensor, None, enclosing_bytes)
    named = tensor._replace(name=piece_name(tensor.name, at, tensor.shape))
    return Outside(file_name, named, Whole(tensor.name, shape, at), enclosing_bytes)


def piece_name(name: str, at: Sequence[int], shape: Sequence[int]) -> str:
    """Return what a piece of a tensor is called, as numpy would take it: `table[0:4,0:8]`."""
    return f"{name}[{','.join(f'{first}:{first + length}' for first, length in zip(at, shape, strict=True))}]"


class TableFormat(Protocol):
    """A format whose files name tensors in other files."""

    def outside(self, file: RandomAccess, file_name: str) -> list[Outside]:
        """Return the tensors that a file says lie in others.

        Args:
            file: the one that names them.
            file_name: the last part of its path, on which the names of the others may depend.

        Raises:
            NotThisFormat: the file breaks a rule of the format, or is called as none of them is.
        """


class CalledTable(TableFormat, Protocol):
    """What is known by the name of its files, too."""

    def sniff(self, head: bytes) -> bool:
        """Tell, from the first `SNIFF_BYTES`, whether the file may be one."""


def checked_outside(found: Sequence[Outside]) -> list[Outside]:
    """Check what a file says of tensors in others: what the tensors are, and where.

    How long the other files are is not known here.

    Raises:
        NotThisFormat: too many tensors, two of one name, one that no file could hold, or a name that is no path below
            the directory of the file.
    """
    if len(found) > MAX_TENSORS:
        raise NotThisFormat(f"{len(found)} tensors in other files, more than {MAX_TENSORS}")
    if len({outside.tensor.name for outside in found}) != len(found):
        raise NotThisFormat("two tensors in other files have the same name")
    for outside in found:
        check_tensor(outside.tensor, MAX_FILE_BYTES)
        if outside.enclosing_bytes < 0 or outside.tensor.offset + outside.enclosing_bytes > MAX_FILE_BYTES:
            raise NotThisFormat(f"tensor '{outside.tensor.name[:80]}' lies where no file reaches")
    _check_pieces(found)
    for file_name in {outside.file_name for outside in found}:
        _check_below(file_name)
    return list(found)


def _check_pieces(found: Sequence[Outside]) -> None:
    """Check that pieces of one tensor are of one type and lie in it. Whether they fill it: `checkpoints.pieces`."""
    names = {outside.tensor.name for outside in found}
    wholes: dict[str, tuple[str, tuple[int, ...]]] = {}
    for outside in found:
        whole, tensor = outside.whole, outside.tensor
        if whole is None:
            continue
        if wholes.setdefault(whole.name, (tensor.dtype, whole.shape)) != (tensor.dtype, whole.shape):
            raise NotThisFormat(f"pieces of '{whole.name[:80]}' are not of one tensor")
        if whole.name in names:
            raise NotThisFormat(f"'{whole.name[:80]}' is there whole and in pieces")
        check_tensor(Tensor(whole.name, tensor.dtype, whole.shape, 0), MAX_FILE_BYTES)
        axes = list(zip(whole.at, tensor.shape, whole.shape, strict=False))
        fits = len(whole.at) == len(tensor.shape) == len(whole.shape)
        if not fits or not all(0 <= first <= first + length <= end for first, length, end in axes):
            raise NotThisFormat(f"'{tensor.name[:80]}' is no part of '{whole.name[:80]}' {whole.shape}")


def _check_below(file_name: str) -> None:
    parts = file_name.split("/")
    if len(file_name) > MAX_NAME_BYTES or "\0" in file_name or any(part in ("", ".", "..") for part in parts):
        raise NotThisFormat(f"'{file_name[:80]}' does not name a file beside this one, or below")
