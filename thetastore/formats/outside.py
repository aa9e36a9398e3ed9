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


class Outside(NamedTuple):
    """A tensor, and the file that it lies in."""

    file_name: str
    """Relative to the directory of the file that names the tensor, `/` between parts, none of them `..`."""
    tensor: Tensor


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
    for file_name in {outside.file_name for outside in found}:
        _check_below(file_name)
    return list(found)


def _check_below(file_name: str) -> None:
    parts = file_name.split("/")
    if len(file_name) > MAX_NAME_BYTES or "\0" in file_name or any(part in ("", ".", "..") for part in parts):
        raise NotThisFormat(f"'{file_name[:80]}' does not name a file beside this one, or below")
