"""The text that stands for a tracked file in `git diff`, `log -p` and `show`.

One line a tensor, in the order of names, and nothing in a line that depends on another: so that a diff of two
texts is the list of what changed. Git caches it by blob, so it must be a function of the pointer alone.
"""

from __future__ import annotations

import os

from gitbridge.errors import BridgeError, PointerError, RepositoryMissingError
from gitbridge.pointers import MAX_POINTER_BYTES, Pointer, is_pointer, parse_pointer, pointer_of
from gitbridge.render import printable, shape_text
from gitbridge.repository import Repository
from thetastore.errors import ThetaError


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
    pointer = _pointer_of_file(path)
    return pointer_as_text(pointer) if pointer else f"{os.path.getsize(path)} bytes\n".encode()


def pointer_as_text(pointer: Pointer) -> bytes:
    """Return the text for a pointer."""
    lines = [
        f"{pointer.format}, {pointer.file_bytes} bytes, {len(pointer.tensors)} tensors",
        f"blake3 {pointer.file_digest}",
        "",
    ]
    lines += [f"{printable(t.name)}: {t.dtype} {shape_text(t.shape)} {str(t.digest)[:16]}" for t in pointer.tensors]
    return ("\n".join(lines) + "\n").encode()


def _pointer_of_file(path: str) -> Pointer | None:
    """Return the pointer of a file that holds weights: the index's if the file is unchanged, else by reading it.

    Reading stores what is new in it, as git's own call of the filter does for a changed file.
    """
    try:
        repository = Repository.discover()
    except RepositoryMissingError:
        return None
    with repository:
        pointer = _pointer_in_index(repository, path)
        if pointer is not None:
            return pointer
        with open(path, "rb", buffering=0) as stream, repository.open_store() as store:
            digest, manifest = store.put_file(stream)
        return pointer_of(manifest, digest)


def _pointer_in_index(repository: Repository, path: str) -> Pointer | None:
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
