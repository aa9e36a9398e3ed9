"""Which files of a Git tree are in a store: from any revision, the index, or a range of history.

A tracked file is known by its content, a pointer, and not by attributes: those of old revisions may be
lost or edited, and history may be older than the tool. Only the first bytes of a blob are looked at here;
`TrackedFile.pointer` reads the whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.errors import GitError, PointerError, RevisionError
from gitbridge.pointers import MAX_POINTER_BYTES, MIN_POINTER_BYTES, Pointer, is_pointer, parse_pointer
from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.errors import MalformedError, did_you_mean, near_names

if TYPE_CHECKING:
    import subprocess

HEAD_BYTES = 2048
"""Enough for everything of a pointer but its tensors."""


class TrackedFile(NamedTuple):
    """A pointer blob at a path."""

    path: str
    """From the top of the work tree, `/` between parts; bytes that are not UTF-8 as surrogates."""
    oid: str
    """Git's name for the blob."""
    format: str
    file_bytes: int
    file_digest: Digest
    manifest_digest: Digest
    tensor_count: int

    def pointer(self, repository: Repository) -> Pointer:
        """Read the whole pointer, and check it.

        Raises:
            PointerError: it was edited.
        """
        try:
            return parse_pointer(repository.read_object(self.oid))
        except PointerError as error:
            raise PointerError(f"'{self.path}': {error}") from None


class Entry(NamedTuple):
    """A regular file in a tree or in the index."""

    path: str
    oid: str


def tracked_in_tree(repository: Repository, revision: str) -> list[TrackedFile]:
    """Return the tracked files of a revision, in git's order.

    Raises:
        RevisionError: there is no such revision.
    """
    return list(_tracked(repository, tree_entries(repository, revision)))


def tracked_in_index(repository: Repository) -> list[TrackedFile]:
    """Return the tracked files of the index; of a path in conflict, our side."""
    return list(_tracked(repository, index_entries(repository)))


def tracked_blob(repository: Repository, path: str, oid: str) -> TrackedFile | None:
    """Return the tracked file whose pointer a blob is, or None where it is something else."""
    return next(_tracked(repository, [Entry(path, oid)]), None)


def tree_entries(repository: Repository, revision: str) -> Iterator[Entry]:
    """Yield the files of a revision whose length could be a pointer's."""
    listing = _ls_tree(repository, revision)
    for item in listing.split(b"\0")[:-1]:
        head, _, path = item.partition(b"\t")
        mode, _, oid, size = head.split()
        if mode in _REGULAR and MIN_POINTER_BYTES <= int(size) <= MAX_POINTER_BYTES:
            yield Entry(os.fsdecode(path), oid.decode())


def regular_entries(repository: Repository, revision: str) -> list[Entry]:
    """Return all regular files of a revision, whatever their length.

    Raises:
        RevisionError: there is no such revision.
    """
    found = []
    for item in _ls_tree(repository, revision).split(b"\0")[:-1]:
        head, _, path = item.partition(b"\t")
        mode, _, oid, _ = head.split()
        if mode in _REGULAR:
            found.append(Entry(os.fsdecode(path), oid.decode()))
    return found


def tree_sizes(repository: Repository, revision: str) -> dict[str, int]:
    """Return the length of every regular file of a revision, by path.

    Raises:
        RevisionError: there is no such revision.
    """
    sizes = {}
    for item in _ls_tree(repository, revision).split(b"\0")[:-1]:
        head, _, path = item.partition(b"\t")
        mode, _, _, size = head.split()
        if mode in _REGULAR:
            sizes[os.fsdecode(path)] = int(size)
    return sizes


def index_entries(repository: Repository) -> Iterator[Entry]:
    """Yield the regular files of the index; of a path in conflict, our side, else theirs."""
    found: dict[str, tuple[int, str]] = {}
    for item in repository.git("ls-files", "-z", "--stage").split(b"\0")[:-1]:
        head, _, path = item.partition(b"\t")
        mode, oid, stage = head.split()
        name = os.fsdecode(path)
        # Stages: 0 merged, 1 base, 2 ours, 3 theirs. The base alone is no file of anybody.
        if mode in _REGULAR and stage != b"1" and (name not in found or int(stage) < found[name][0]):
            found[name] = (int(stage), oid.decode())
    return (Entry(path, oid) for path, (_, oid) in found.items())


def all_refs(repository: Repository) -> list[str]:
    """Return what all branches and tags point to, those of remotes too."""
    listed = repository.git("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/tags", "refs/remotes")
    return listed.decode().split()


def tracked_in_history(
    repository: Repository, tips: Iterable[str], excluded: Iterable[str] = (), more: Sequence[str] = ()
) -> Iterator[TrackedFile]:
    """Yield the distinct pointer blobs that commits reach and the excluded ones do not, each with one path.

    Replace refs do not count: what is pushed is what was replaced. Excluded commits that this repository does
    not have are ignored.

    Args:
        repository: whose history it is.
        tips: commits, tags, trees or blobs by oid.
        excluded: commits whose history is left out.
        more: further options of `git rev-list`, which may name more to begin with.
    """
    import subprocess

    wanted = list(tips)
    blobs_only = f"--filter=combine:object:type=blob+blob:limit={MAX_POINTER_BYTES + 1}"
    options = ["--objects", "--ignore-missing", "--stdin", blobs_only, "--filter-provided-objects"]
    process = subprocess.Popen(
        ["git", "--no-replace-objects", "rev-list", *options, *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=repository.work_tree or repository.git_dir,
        env=repository.environment,
    )
    with process:
        assert process.stdin is not None
        lines = [*wanted, *("^" + oid for oid in excluded)]
        process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        process.stdin.close()
        yield from _tracked(repository, _listed_blobs(process))
        assert process.stderr is not None
        words = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode:
        raise GitError(f"'git rev-list' failed with status {process.returncode}: {words}")


def _listed_blobs(process: subprocess.Popen[bytes]) -> Iterator[Entry]:
    assert process.stdout is not None
    for line in process.stdout:
        oid, _, path = line.rstrip(b"\n").partition(b" ")
        yield Entry(os.fsdecode(path), oid.decode())


_REGULAR = (b"100644", b"100755", b"100664")


def _ls_tree(repository: Repository, revision: str) -> bytes:
    # A revision that begins with a dash would be an option; git refuses such names for refs.
    if revision.startswith("-"):
        raise RevisionError(f"'{revision}' is not a revision", "git branch --all; git tag")
    try:
        return repository.git("ls-tree", "-r", "-z", "-l", "--full-tree", revision)
    except GitError:
        raise no_revision(repository, revision) from None


def _tracked(repository: Repository, entries: Iterable[Entry]) -> Iterator[TrackedFile]:
    """Keep the entries whose blobs begin as pointers do; what only pretends to be one is left out."""
    asked: list[Entry] = []

    def names() -> Iterator[str]:
        for entry in entries:
            asked.append(entry)
            yield entry.oid

    for position, blob in enumerate(repository.cat_file().read_heads(names(), HEAD_BYTES)):
        entry = asked[position]
        asked[position] = _DONE
        if is_pointer(blob.head):
            found = _from_head(entry, blob.head)
            if found is not None:
                yield found


_DONE = Entry("", "")


def _from_head(entry: Entry, head: bytes) -> TrackedFile | None:
    """Read the values before the tensors; None where they are not there (`pointers` is the strict reader)."""
    lines = (line.partition(b" ") for line in head.split(b"\n") if not line.startswith(b"#"))
    values = {name: value for name, space, value in lines if space}
    try:
        return TrackedFile(
            entry.path,
            entry.oid,
            values[b"format"].partition(b" ")[0].decode("ascii"),
            int(values[b"size"]),
            Digest.parse(values[b"digest"]),
            Digest.parse(values[b"manifest"]),
            int(values[b"tensors"]),
        )
    except (KeyError, ValueError, MalformedError):
        return None


def no_revision(repository: Repository, name: str) -> RevisionError:
    """Return an error that says what is near, or that there is nothing yet."""
    if name in ("HEAD", "@") and repository.head_oid() is None:
        return RevisionError("there is no commit here yet", "git add the files, then git commit")
    near = near_revisions(repository, name)
    return RevisionError(f"'{name}' is not a commit, tag or tree of this repository{near}", "git branch --all; git tag")


def near_revisions(repository: Repository, name: str) -> str:
    """Return what a message adds where branches and tags have names that look like one."""
    listed = repository.git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
    return did_you_mean(near_names(name, os.fsdecode(listed).splitlines()))
