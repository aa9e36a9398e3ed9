"""What a revision, or the index, has that its base has not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gitbridge.pointers import MAX_POINTER_BYTES
from gitbridge.repository import Repository
from gitbridge.revisions import resolve
from gitbridge.trees import Entry, index_entries, regular_entries

_HEAD_BYTES = 64


def new_and_old(repository: Repository, revision: str, base: str) -> tuple[list[Entry], list[Entry]]:
    """Return the files that a revision has and its base has not, and those that the base has and it has not.

    Args:
        repository: whose revision it is.
        revision: empty for the index.
        base: a commit; empty for none: then every file is new.

    Raises:
        RevisionError: there is no such revision.
    """
    after = regular_entries(repository, revision) if revision else list(index_entries(repository))
    before = regular_entries(repository, base) if base else []
    return sorted(set(after) - set(before)), sorted(set(before) - set(after))


def merge_base(repository: Repository, revision: str, base: str) -> str:
    """Return the commit at which a revision (empty: HEAD) left a base; the base itself where they share none.

    Before the first commit, the base HEAD is nothing: an empty name.

    Raises:
        RevisionError: there is no such base.
    """
    if base == "HEAD" and repository.head_oid() is None:
        return ""
    oid = resolve(repository, base, "commit")
    shared = repository.git("merge-base", resolve(repository, revision or "HEAD", "commit"), oid, check=False)
    return shared.decode().strip() or oid


def heads(repository: Repository, entries: Sequence[Entry]) -> Iterator[tuple[Entry, int, bytes]]:
    """Yield each file with its length and its first 64 bytes; none of a file that is too long for a pointer."""
    asked = "".join(f"{entry.oid}\n" for entry in entries).encode()
    sizes = [int(size) for size in repository.git("cat-file", "--batch-check=%(objectsize)", input=asked).split()]
    short = [entry.oid for entry, size in zip(entries, sizes, strict=True) if size <= MAX_POINTER_BYTES]
    found = repository.cat_file().read_heads(short, _HEAD_BYTES)
    begins = iter([blob.head for blob in found])  # all at once: the consumer reads other objects meanwhile
    for entry, size in zip(entries, sizes, strict=True):
        yield entry, size, next(begins) if size <= MAX_POINTER_BYTES else b""
