"""A history with other trees: commits and tags again, each with what it was, but for trees, parents and signatures.

A commit whose tree and parents stay keeps its bytes, and so its oid and its signature. One that changes loses its
signature, which was of other bytes; so do tags, and the copies of tags that merges of them hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from gitbridge.repository import Repository
from migrations.git_objects import NewObjects, headers_of, with_headers

_SIGNATURES = (b"gpgsig", b"gpgsig-sha256", b"mergetag")
_TAG_SIGNATURES = (
    b"-----BEGIN PGP SIGNATURE-----",
    b"-----BEGIN SSH SIGNATURE-----",
    b"-----BEGIN SIGNED MESSAGE-----",
)
_COMMITS_AT_ONCE = 64


class Commit(NamedTuple):
    """A commit as it is."""

    oid: str
    tree: str
    content: bytes

    @property
    def is_signed(self) -> bool:
        """Tell whether it carries a signature, its own or that of a tag that it merged."""
        return any(name in _SIGNATURES for name, _ in headers_of(self.content)[0])


def commits_of(repository: Repository, tips: Iterable[str]) -> list[str]:
    """Return the oids of all commits that some commits lead to, parents before children."""
    wanted = "".join(f"{tip}\n" for tip in tips).encode()
    listing = repository.git("rev-list", "--topo-order", "--reverse", "--stdin", input=wanted)
    return listing.decode("ascii").split()


def read_commits(repository: Repository, oids: Sequence[str]) -> Iterator[Commit]:
    """Yield commits in order. Git's reader is free for other questions between any two of them."""
    for start in range(0, len(oids), _COMMITS_AT_ONCE):
        for found in [*repository.read_objects(oids[start : start + _COMMITS_AT_ONCE])]:
            name, _, rest = found.content.partition(b" ")
            assert name == b"tree", "git keeps a commit's tree in its first line"
            yield Commit(found.oid, rest.partition(b"\n")[0].decode("ascii"), found.content)


class Rewritten(NamedTuple):
    """What became of a history."""

    commits: dict[str, str]
    """New oids by old ones, of those that changed, parents first."""
    signature_count: int
    """How many signatures of commits were dropped."""


def rewrite_commits(
    repository: Repository, objects: NewObjects, oids: Sequence[str], tree: Callable[[str], str]
) -> Rewritten:
    """Make commits anew with what `tree` makes of their trees.

    Args:
        repository: where they are.
        objects: takes the new ones; not flushed.
        oids: of the commits, parents before children.
        tree: from an old tree to a new one.
    """
    new: dict[str, str] = {}
    signature_count = 0
    for commit in read_commits(repository, oids):
        new_tree = tree(commit.tree)
        headers, rest = headers_of(commit.content)
        edited = [_edited(name, value, new_tree, new) for name, value in headers]
        if edited == headers:
            continue
        kept = [header for header in edited if header[0] not in _SIGNATURES]
        signature_count += len(kept) != len(edited)
        new[commit.oid] = objects.add("commit", with_headers(kept, rest))
    return Rewritten(new, signature_count)


def _edited(name: bytes, value: bytes, tree: str, new: dict[str, str]) -> tuple[bytes, bytes]:
    if name == b"tree":
        return name, tree.encode() + b"\n"
    if name == b"parent":
        old = value.strip().decode("ascii")
        return name, new.get(old, old).encode() + b"\n"
    return name, value


class TagRewritten(NamedTuple):
    """A tag made anew."""

    oid: str
    was_signed: bool


def rewrite_tag(repository: Repository, objects: NewObjects, oid: str, commits: dict[str, str]) -> TagRewritten | None:
    """Make a tag anew, and tags that it is of; None where nothing that it leads to has changed."""
    content = repository.cat_file().read(oid).content
    headers, rest = headers_of(content)
    named = dict(headers)
    target = named[b"object"].strip().decode("ascii")
    if named[b"type"].strip() == b"tag":
        inner = rewrite_tag(repository, objects, target, commits)
        new_target = None if inner is None else inner.oid
    else:
        new_target = commits.get(target)
    if new_target is None:
        return None
    edited = [(name, new_target.encode() + b"\n" if name == b"object" else value) for name, value in headers]
    kept = [header for header in edited if header[0] not in _SIGNATURES]
    message = _unsigned(rest)
    was_signed = message != rest or len(kept) != len(edited)
    return TagRewritten(objects.add("tag", with_headers(kept, message)), was_signed)


def _unsigned(message: bytes) -> bytes:
    starts = [at + 1 for mark in _TAG_SIGNATURES if (at := message.find(b"\n" + mark)) >= 0]
    return message[: min(starts)] if starts else message
