"""What git calls when both sides changed a tracked file: `%O %A %B %L %P`.

It sees pointers, in temporary files. Where the sides agree after all, or only one changed, nothing is loaded to say so.
Else `merging` decides by tensor. A conflict leaves our pointer whole in the work tree, never a text with markers in it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gitbridge.repository import Repository

_USUAL_MARKER_SIZE = 7


def merge(base: str, ours: str, theirs: str, marker_size: str, path: str) -> int:
    """Leave the result in the file `ours`; return 0, or 1 for a conflict or where what was set cannot be done.

    Args:
        base: path of a file; it is empty where there is no common ancestor.
        ours: path of a file.
        theirs: path of a file.
        marker_size: length of conflict markers; git makes them longer while it merges merge bases.
        path: of the merged file, from the top of the work tree.
    """
    base_text, ours_text, theirs_text = _read(base), _read(ours), _read(theirs)
    if theirs_text in (ours_text, base_text):
        return 0
    from gitbridge.merging.driver import Texts, merge_texts, write_whole
    from gitbridge.repository import Repository

    if ours_text == base_text:
        write_whole(ours, theirs_text)
        return 0
    with Repository.discover() as repository:
        is_virtual = _is_virtual(repository, marker_size, path)
        outcome = merge_texts(repository, Texts(base_text, ours_text, theirs_text), path, is_virtual)
    for line in outcome.lines:
        prefix = "" if line.startswith(("hint: ", "  ")) else "git theta: "
        sys.stderr.write(f"{prefix}{line}\n".encode("utf-8", "backslashreplace").decode())
    if outcome.pointer is not None:
        write_whole(ours, outcome.pointer)
    return outcome.status


def _is_virtual(repository: Repository, marker_size: str, path: str) -> bool:
    """Tell whether git merges two merge bases, from the length of markers: two more for each level (`merge-ort.c`)."""
    size = int(marker_size) if marker_size.isdecimal() else _USUAL_MARKER_SIZE
    if size <= _USUAL_MARKER_SIZE:
        return False
    from gitbridge.merging.rules import attribute_of

    usual = attribute_of(repository, "conflict-marker-size", path) or ""
    return size > (int(usual) if usual.isdecimal() else _USUAL_MARKER_SIZE)


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()
