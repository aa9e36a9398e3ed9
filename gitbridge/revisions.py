"""What people name: a revision, a file of it, a tensor of that: `REV:PATH//TENSOR`.

`REV:PATH` means what it means to git: PATH counts from the top of the work tree, `./PATH` from the current directory;
`:PATH` is the index. `PATH` alone is the index, too, from the current directory, as in commands that take files.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from gitbridge.errors import GitError, PathMissingError, RevisionError
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, no_revision, tracked_blob, tracked_in_index, tracked_in_tree
from thetastore.errors import did_you_mean, near_names

TENSOR_MARK = "//"


class FileName(NamedTuple):
    """A name, taken apart."""

    revision: str | None
    """None, or empty, for the index."""
    path: str
    """As it was given."""
    tensor: str | None = None

    def __str__(self) -> str:
        start = self.path if self.revision is None else f"{self.revision}:{self.path}"
        return start if self.tensor is None else f"{start}{TENSOR_MARK}{self.tensor}"


def parse_name(text: str) -> FileName:
    """Take `[REV:]PATH[//TENSOR]` apart; nothing is looked up."""
    file, mark, tensor = text.partition(TENSOR_MARK)
    if text.startswith(TENSOR_MARK):  # an absolute path that somebody's shell has put together
        file, mark, tensor = text[1:].partition(TENSOR_MARK)
    revision, colon, path = file.partition(":")
    if not colon:
        return FileName(None, file, tensor if mark else None)
    return FileName(revision, path, tensor if mark else None)


def tracked_file(repository: Repository, name: FileName, directory: str | None = None, called: str = "") -> TrackedFile:
    """Return the tracked file that a name stands for.

    Args:
        repository: whose it is.
        name: its tensor plays no part.
        directory: what relative paths count from; None for the top of the work tree.
        called: what the user calls the revision, where that is not what the name says.

    Raises:
        RevisionError: there is no such revision.
        PathMissingError: it has no such file, or git theta does not track it; says which names are near.
    """
    path = path_from_top(repository, name, directory)
    revision = name.revision
    if not revision and repository.work_tree is None:
        revision = "HEAD"
    oid = _index_oid(repository, path) if not revision else _tree_oid(repository, revision, path)
    file = tracked_blob(repository, path, oid) if oid is not None else None
    if file is None:
        raise _missing(repository, revision, path, called or revision or "", is_there=oid is not None)
    return file


def resolve(repository: Repository, name: str, kind: str = "") -> str:
    """Return the oid of what git understands by a name.

    Args:
        repository: whose it is.
        name: of a revision, or `REV:PATH`.
        kind: `commit` or `tree`, to follow a revision to; empty for the object itself.

    Raises:
        RevisionError: there is no such thing.
    """
    spelled = f"{name}^{{{kind}}}" if kind else name
    try:
        return repository.git("rev-parse", "--verify", "--end-of-options", spelled).decode().strip()
    except GitError:
        raise no_revision(repository, name) from None


def path_from_top(repository: Repository, name: FileName, directory: str | None) -> str:
    """Return a path from the top of the work tree, without `.` and `..`.

    Raises:
        PathMissingError: it leads out of the work tree.
    """
    path, top = name.path, repository.work_tree
    is_relative = name.revision is None or path.startswith(("./", "../"))
    if top is None or not (is_relative or os.path.isabs(path)):
        return os.path.normpath(path) if path else path
    there = os.path.normpath(os.path.join(directory or top, path))
    found = os.path.relpath(there, top)
    if found.startswith("../"):  # one of the two went through a symbolic link
        found = os.path.relpath(os.path.realpath(there), os.path.realpath(top))
    if found.startswith("../"):
        raise outside(path, top)
    return found


def outside(path: str, top: str) -> PathMissingError:
    """Return the error for a path that leads out of the work tree."""
    from shlex import quote

    words = f"'{path}' is outside of this repository, whose files are in '{top}'"
    elsewhere = quote(os.path.dirname(path) or os.curdir)
    return PathMissingError(words, f"if it is in another repository: git -C {elsewhere} theta ...")


def _index_oid(repository: Repository, path: str) -> str | None:
    listed = repository.git("--literal-pathspecs", "ls-files", "-z", "--stage", "--", path).split(b"\0")[:-1]
    found = {}
    for item in listed:
        head, _, name = item.partition(b"\t")
        _, oid, stage = head.split()
        if os.fsdecode(name) == path:
            found[stage] = oid.decode()
    # Of a path in conflict our side, else theirs, as everywhere.
    return found.get(b"0") or found.get(b"2") or found.get(b"3")


def _tree_oid(repository: Repository, revision: str, path: str) -> str | None:
    try:
        tree = resolve(repository, revision, "tree")
    except RevisionError as error:
        if _index_oid(repository, os.path.normpath(f"{revision}:{path}")) is None:
            raise
        raise RevisionError(error.message, f"to name a path with a colon in it: ':{revision}:{path}'") from None
    listed = repository.git("--literal-pathspecs", "ls-tree", "-z", "--full-tree", tree, "--", path).split(b"\0")[:-1]
    for item in listed:
        head, _, name = item.partition(b"\t")
        _, kind, oid = head.split()
        if os.fsdecode(name) == path and kind == b"blob":
            return oid.decode()
    return None


def _missing(repository: Repository, revision: str | None, path: str, called: str, is_there: bool) -> PathMissingError:
    tracked = tracked_in_tree(repository, revision) if revision else tracked_in_index(repository)
    where = f"'{called}'" if revision else "the index"
    listing = f"git theta ls-files{' ' + called if revision else ''} lists what is tracked there"
    if is_there:
        return PathMissingError(f"'{path}' in {where} is not a file that git theta tracks", listing)
    if not revision and _is_commit(repository, path):
        return PathMissingError(f"'{path}' is a revision, and no file in {where}", f"{path}:PATH is a file of it")
    inside = sum(file.path.startswith(path.rstrip("/") + "/") for file in tracked)
    if inside:
        return PathMissingError(
            f"'{path}' in {where} is a directory, and none of its {inside} files has tensors", listing
        )
    meant = did_you_mean(near_names(path, [file.path for file in tracked]))
    return PathMissingError(f"there is no file '{path}' in {where}{meant}", listing)


def _is_commit(repository: Repository, name: str) -> bool:
    try:
        return bool(resolve(repository, name, "commit"))
    except RevisionError:
        return False
