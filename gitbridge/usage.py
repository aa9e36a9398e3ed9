"""Which files and commits of a repository there are to count the bytes of: its history, or some revisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile, tracked_in_history, tracked_in_tree
from thetastore.upkeep.usage import File, Group


class Counted(NamedTuple):
    """What there is to count."""

    files: list[Group]
    """One for each path, with its versions, sorted."""
    commits: list[Group]
    """Of a history: commits with the files that they brought, parents first. Of revisions: each with all its files."""
    labels: dict[str, str]
    """What to call a commit before people."""


def of_revisions(repository: Repository, revisions: Sequence[str]) -> Counted:
    """Return the files of some revisions.

    Raises:
        RevisionError: there is no such revision.
    """
    names = dict.fromkeys(revisions)
    trees = {name: tracked_in_tree(repository, name) for name in names}
    versions: dict[str, dict[File, None]] = {}
    for file in (file for files in trees.values() for file in files):
        versions.setdefault(file.path, {})[_version(file)] = None
    commits = [Group(name, [_version(file) for file in files]) for name, files in trees.items()]
    return Counted(_by_path(versions), commits, {})


def of_history(repository: Repository) -> Counted:
    """Return the files of all that refs and HEAD reach; a shallow history ends where it was cut."""
    refs = repository.git("for-each-ref", "--format=%(objectname)").decode().split()
    head = repository.head_oid()
    tips = list(dict.fromkeys([*refs, head] if head else refs))
    if not tips:
        return Counted([], [], {})
    pointers = {file.oid: _version(file) for file in tracked_in_history(repository, tips)}
    labels = _commit_labels(repository, tips)
    versions: dict[str, dict[File, None]] = {}
    commits: list[Group] = []
    for commit, changes in _changes(repository, list(labels)):
        found = [(path, pointers[oid]) for path, oid in changes if oid in pointers]
        for path, file in found:
            versions.setdefault(path, {})[file] = None
        if found:
            commits.append(Group(commit, [file for _, file in found]))
    return Counted(_by_path(versions), commits, labels)


def _version(file: TrackedFile) -> File:
    return File(file.manifest_digest, file.file_bytes)


def _by_path(versions: dict[str, dict[File, None]]) -> list[Group]:
    return [Group(path, list(files)) for path, files in sorted(versions.items())]


def _commit_labels(repository: Repository, tips: Sequence[str]) -> dict[str, str]:
    """Return all commits, parents first, with their short name, day and subject."""
    # Replace refs do not count: `tracked_in_history` does not follow them either.
    options = ["--topo-order", "--reverse", "--stdin", "--format=%h %cs %s"]
    wanted = "".join(f"{tip}\n" for tip in tips).encode()
    lines = repository.git("--no-replace-objects", "rev-list", *options, input=wanted).decode("utf-8", "replace")
    found = lines.split("\n")[:-1]
    return {commit.removeprefix("commit "): label[:100] for commit, label in zip(found[::2], found[1::2], strict=True)}


def _changes(repository: Repository, commits: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield each commit that changes files with (path, new oid); a merge, with what differs from all its parents."""
    options = ["--stdin", "-r", "-c", "-z", "--root", "--no-renames"]
    wanted = "".join(f"{commit}\n" for commit in commits).encode()
    listing = repository.git("--no-replace-objects", "diff-tree", *options, input=wanted)
    commit, changes = "", list[tuple[str, str]]()
    items = iter(listing.decode("utf-8", "surrogateescape").split("\0")[:-1])
    for item in items:
        if not item.startswith(":"):
            if commit:
                yield commit, changes
            commit, changes = item.strip(), []
            continue
        sides = len(item) - len(item.lstrip(":")) + 1  # a mode and an oid of each parent, and of the result
        changes.append((next(items), item.split(" ")[2 * sides - 1]))
    if commit:
        yield commit, changes
