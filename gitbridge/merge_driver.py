"""What git calls when both sides changed a tracked file.

It sees pointers, in temporary files. Where the sides agree after all, or only one changed, the answer is
clear; a true conflict leaves our pointer whole in the work tree, never a text with markers in it.
"""

from __future__ import annotations

import os
import sys


def merge(base: str, ours: str, theirs: str, path: str) -> int:
    """Leave the result in the file `ours`; return 0, or 1 for a conflict."""
    base_text, ours_text, theirs_text = _read(base), _read(ours), _read(theirs)
    if theirs_text in (ours_text, base_text):
        return 0
    if ours_text == base_text:
        _write(ours, theirs_text)
        return 0
    sys.stderr.write(
        f"git theta: both sides changed the weights of '{path}'; ours is in the work tree\n"
        f"hint: to decide: git checkout --ours (or --theirs) -- '{path}', then git add '{path}'\n"
    )
    return 1


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _write(path: str, text: bytes) -> None:
    temporary = f"{path}.theta-{os.getpid()}"
    with open(temporary, "wb") as stream:
        stream.write(text)
    os.replace(temporary, path)
