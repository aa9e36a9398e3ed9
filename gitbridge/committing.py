"""From memory into a branch: tensors become a safetensors file in the store, and its pointer a commit.

Neither the work tree nor its index is touched: the tree is made in an index of its own. The store is durable before
the branch moves, and the branch moves only from where it was found; if somebody else was faster, the commit is made
anew on top of theirs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gitbridge.attributes import FILE_NAME, is_ours, render_line, split_line
from gitbridge.errors import GitError, RevisionError, UsageError
from gitbridge.pointers import render_pointer
from gitbridge.repository import Repository
from gitbridge.revisions import parse_name, resolve, tracked_file
from gitbridge.trees import TrackedFile
from thetastore.arrays import new_tensor
from thetastore.checkpoints.compose import SafetensorsSource, safetensors_source
from thetastore.digest import Digest

if TYPE_CHECKING:
    from thetastore.store import Store

_OTHER_SUFFIXES = (
    ".pt",
    ".pth",
    ".bin",
    ".ckpt",
    ".gguf",
    ".npz",
    ".npy",
    ".h5",
    ".hdf5",
    ".keras",
    ".onnx",
    ".msgpack",
)
_MOST_TRIES = 20
_NO_OID = "0"


def commit(
    state_dict: Mapping[str, Any],
    path: str,
    message: str,
    branch: str,
    base: str | None = None,
    metadata: Mapping[str, str] | None = None,
    repository: str | os.PathLike[str] = ".",
) -> str:
    """Commit tensors to a branch as a safetensors file; return the oid of the commit.

    Args:
        state_dict: tensors by name: numpy arrays, torch tensors, or what numpy makes an array of. Read, not copied:
            they must not change before this returns.
        path: of the file, from the top of the work tree.
        message: of the commit.
        branch: made where it is new, from HEAD. It must not be checked out: its work tree would be left behind.
        base: `REV:PATH` of a version to take differences from; None for the one that the branch has at the path.
        metadata: the file's own; if there is none, `format` says which framework the tensors are of.
        repository: the repository, or a directory in its work tree.

    Raises:
        UsageError: the path is not that of a safetensors file, or the branch is checked out.
        RevisionError: the base is not there.
        UnsupportedError: safetensors has no such element type, or a value is no array of numbers.
        GitError: git refused: no name for the author is set, say.
        BackendError: the store is full or failing; the branch has not moved.
    """
    with Repository.discover(os.fspath(repository)) as opened:
        _check_path(path)
        ref = _branch_ref(opened, branch)
        source = safetensors_source(
            [new_tensor(name, value) for name, value in state_dict.items()],
            _metadata(state_dict) if metadata is None else metadata,
        )
        with opened.open_store() as store:
            pointer = _stored(opened, store, source, _base(opened, base, ref, path))
        return _commit(opened, ref, path, pointer, message)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not parts[-1].endswith(".safetensors") and any(f"{suffix}." in f"{parts[-1]}." for suffix in _OTHER_SUFFIXES):
        raise UsageError(
            f"'{path}' has the name of another format, and tensors in memory can only be written as safetensors",
            f"name it {_without_suffixes(path)}.safetensors",
        )
    if not path or any(part in ("", ".", "..", ".git") for part in parts) or "\0" in path or "\n" in path:
        raise UsageError(f"'{path}' is not a path from the top of a work tree")


def _without_suffixes(path: str) -> str:
    directory, slash, name = path.rpartition("/")
    ends = [name.find(f"{suffix}.") for suffix in _OTHER_SUFFIXES] + [len(os.path.splitext(name)[0])]
    return directory + slash + name[: min(end for end in ends if end > 0)]


def _branch_ref(repository: Repository, branch: str) -> str:
    """Return the full name of a branch that may be moved."""
    ref = branch if branch.startswith("refs/heads/") else f"refs/heads/{branch}"
    try:
        repository.git("check-ref-format", ref)
    except GitError:
        raise RevisionError(f"'{branch}' cannot be the name of a branch") from None
    listing = repository.git("worktree", "list", "--porcelain").decode("utf-8", "surrogateescape")
    for block in listing.split("\n\n"):
        if f"branch {ref}" in block.splitlines() and "bare" not in block.splitlines():
            place = block.splitlines()[0].removeprefix("worktree ")
            raise UsageError(
                f"'{branch}' is checked out in '{place}', whose files would be left behind",
                "commit to another branch, or free this one: git switch --detach",
            )
    return ref


def _metadata(state_dict: Mapping[str, Any]) -> dict[str, str]:
    is_torch = any(type(value).__module__.partition(".")[0] == "torch" for value in state_dict.values())
    return {"format": "pt"} if is_torch else {"format": "np"}


def _base(repository: Repository, base: str | None, ref: str, path: str) -> Digest | None:
    if base is not None:
        return tracked_file(repository, parse_name(base)).manifest_digest
    found = _tracked(repository, ref, path)
    return found.manifest_digest if found else None


def _tracked(repository: Repository, ref: str, path: str) -> TrackedFile | None:
    try:
        return tracked_file(repository, parse_name(f"{ref}:{path}"))
    except RevisionError:
        return None


def _stored(repository: Repository, store: Store, source: SafetensorsSource, base: Digest | None) -> str:
    """Store a file, durably; return the oid of its pointer."""
    stored = store.put_file(source, base)
    store.seal()
    text = render_pointer(stored.manifest, stored.manifest_digest)
    return repository.git("hash-object", "-w", "--stdin", input=text).decode().strip()


def _commit(repository: Repository, ref: str, path: str, pointer: str, message: str) -> str:
    for _ in range(_MOST_TRIES):
        old = _oid_of(repository, ref)
        parent = old or _oid_of(repository, "HEAD")
        tree = _tree_with(repository, parent, path, pointer)
        parents = ["-p", parent] if parent else []
        oid = repository.git("commit-tree", tree, *parents, "-F", "-", input=message.encode()).decode().strip()
        try:
            before = old or _NO_OID * len(oid)
            repository.git("update-ref", "-m", "commit (git theta)", ref, oid, before)
        except GitError:
            if _oid_of(repository, ref) == old:
                raise  # not because somebody was faster
            continue
        return oid
    raise GitError(f"'{ref}' is moved by others all the time: {_MOST_TRIES} tries were too few")


def _oid_of(repository: Repository, revision: str) -> str:
    try:
        return resolve(repository, revision, "commit")
    except RevisionError:
        return ""


def _tree_with(repository: Repository, parent: str, path: str, pointer: str) -> str:
    """Return a tree like that of a commit, with a pointer at a path, and attributes that say that it is one."""
    with tempfile.TemporaryDirectory(dir=repository.git_dir, prefix="theta-index-") as scratch:
        environment = dict(repository.environment if repository.environment is not None else os.environ)
        environment["GIT_INDEX_FILE"] = os.path.join(scratch, "index")
        # Attributes are to be those of the index alone.
        environment["GIT_DIR"], environment["GIT_WORK_TREE"] = repository.git_dir, scratch
        inside = Repository(repository.git_dir, scratch, environment)
        if parent:
            inside.git("read-tree", parent)
        inside.git("update-index", "--add", "--cacheinfo", f"100644,{pointer},{path}")
        asked = inside.git("check-attr", "--cached", "-z", "filter", "--", path).split(b"\0")
        if asked[2:3] != [b"theta"]:
            _track(inside, parent, path)
        return inside.git("write-tree").decode().strip()


def _track(inside: Repository, parent: str, path: str) -> None:
    """Add a line to the attributes of the top directory, so that checkouts bring weights and not the pointer."""
    before = b""
    if parent:
        listed = inside.git("ls-tree", "-z", parent, "--", FILE_NAME)
        before = inside.read_object(f"{parent}:{FILE_NAME}") if listed else b""
    line = render_line("/" + path)
    assert is_ours(split_line(line)[1]), "a line that tracks is one of ours"
    text = before + (b"\n" if before and not before.endswith(b"\n") else b"") + line.encode() + b"\n"
    oid = inside.git("hash-object", "-w", "--stdin", input=text).decode().strip()
    inside.git("update-index", "--add", "--cacheinfo", f"100644,{oid},{FILE_NAME}")
    inside.close()
