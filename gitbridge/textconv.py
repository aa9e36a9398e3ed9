"""The text that stands for a tracked file in `git diff`, `log -p` and `show`.

One line a tensor, in the order of names, and nothing in a line that depends on another: so that a diff of two
texts is the list of what changed. Git caches it by blob, so it must be a function of the pointer alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from gitbridge.errors import BridgeError, PointerError, RepositoryMissingError
from gitbridge.pointers import MAX_POINTER_BYTES, Pointer, PointerTensor, is_pointer, parse_pointer
from gitbridge.render import printable, shape_text
from gitbridge.repository import Repository
from thetastore.comparing.sides import FileSide
from thetastore.digest import Digest
from thetastore.errors import ThetaError
from thetastore.manifest import Tensor


def text_of(path: str) -> bytes:
    """Return the text for a file that holds a pointer, or the weights themselves (a work-tree file)."""
    with open(path, "rb") as stream:
        head = stream.read(256)
        if is_pointer(head):
            content = head + stream.read(MAX_POINTER_BYTES)
            try:
                return pointer_as_text(parse_pointer(content))
            except PointerError:
                return content
    if not head:
        return b""
    pointer = _pointer_in_index(path)
    return pointer_as_text(pointer) if pointer else _weights_as_text(path)


def pointer_as_text(pointer: Pointer) -> bytes:
    """Return the text for a pointer."""
    return _text(pointer.format, pointer.file_bytes, pointer.file_digest, pointer.tensors)


def _weights_as_text(path: str) -> bytes:
    """Read a file of weights as it lies there; whoever looks at a diff stores nothing."""
    with FileSide(path) as side:
        return _text(side.layout.format, side.file.size, side.file_digest(), side.named_tensors())


def _text(format: str, file_bytes: int, file_digest: Digest, tensors: Sequence[PointerTensor | Tensor]) -> bytes:
    lines = [f"{format}, {file_bytes} bytes, {len(tensors)} tensors", f"blake3 {file_digest}", ""]
    lines += [f"{printable(t.name)}: {t.dtype} {shape_text(t.shape)} {str(t.digest)[:16]}" for t in tensors]
    return ("\n".join(lines) + "\n").encode()


def _pointer_in_index(path: str) -> Pointer | None:
    """Return the pointer of a file of the work tree that is as the index says; None for any other."""
    try:
        repository = Repository.discover()
    except RepositoryMissingError:
        return None
    with repository:
        return _unchanged(repository, path)


def _unchanged(repository: Repository, path: str) -> Pointer | None:
    if repository.work_tree is None or not _is_inside(repository.work_tree, path):
        return None
    name = os.path.abspath(path)
    try:
        if repository.git("--literal-pathspecs", "diff-files", "--name-only", "-z", "--", name):
            return None
        listed = repository.git("--literal-pathspecs", "ls-files", "-z", "--stage", "--", name).split(b"\0")[0]
        words = listed.split(b"\t")[0].split()
        return parse_pointer(repository.read_object(words[1].decode())) if len(words) == 3 else None
    except (BridgeError, ThetaError):
        return None


def _is_inside(top: str, path: str) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(top) + os.sep)
