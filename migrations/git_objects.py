"""Trees, commits and tags as bytes, and a pack of new ones.

Objects are edited as what they are, so that whatever is not about to change stays as it is: odd headers, encodings,
modes that no git writes any more; and a commit to which nothing happens keeps its oid. New objects go into packs of
whole objects that `git index-pack` takes and checks: a process for thousands of objects, where `git hash-object`
takes one each.

Source: gitformat-pack(5).
"""

from __future__ import annotations

import hashlib
import subprocess
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from gitbridge.errors import GitError
from gitbridge.repository import Repository

TREE_MODE = b"40000"
REGULAR_MODES = (b"100644", b"100755")
SUBMODULE_MODE = b"160000"
_OID_BYTES = {"sha1": 20, "sha256": 32}
_PACK_TYPES = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}
_MOST_OBJECTS = 20_000
_MOST_BYTES = 16 << 20


class TreeEntry(NamedTuple):
    """A line of a tree."""

    mode: bytes
    name: bytes
    oid: str


def parse_tree(content: bytes, oid_bytes: int) -> list[TreeEntry]:
    """Return the entries of a tree, in order."""
    entries = []
    start = 0
    while start < len(content):
        end = content.index(b"\0", start)
        mode, _, name = content[start:end].partition(b" ")
        start = end + 1 + oid_bytes
        entries.append(TreeEntry(mode, name, content[end + 1 : start].hex()))
    return entries


def render_tree(entries: Iterable[TreeEntry]) -> bytes:
    """Return a tree of some entries, in git's order: that of names, a directory's with a slash at its end."""
    ordered = sorted(entries, key=lambda entry: entry.name + b"/" if entry.mode == TREE_MODE else entry.name)
    return b"".join(b"%b %b\0%b" % (entry.mode, entry.name, bytes.fromhex(entry.oid)) for entry in ordered)


def headers_of(content: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers of a commit or a tag, each with all of its lines, and the rest from the empty line on."""
    end = content.find(b"\n\n")
    head, rest = (content, b"") if end < 0 else (content[: end + 1], content[end + 1 :])
    headers: list[tuple[bytes, bytes]] = []
    for line in head.splitlines(keepends=True):
        if line.startswith(b" ") and headers:
            name, value = headers[-1]
            headers[-1] = (name, value + line)
        else:
            name, _, value = line.partition(b" ")
            headers.append((name, value))
    return headers, rest


def with_headers(headers: Iterable[tuple[bytes, bytes]], rest: bytes) -> bytes:
    """Return the commit or tag again."""
    return b"".join(b"%b %b" % header for header in headers) + rest


class NewObjects:
    """Objects that are about to be git's. For one thread; `flush` gives them to git."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._format = repository.object_format
        self.oid_bytes = _OID_BYTES[self._format]
        self._packed: dict[str, bytes] = {}
        self._nbytes = 0

    def add(self, kind: str, content: bytes) -> str:
        """Take an object; return its oid."""
        hasher = hashlib.new(self._format, b"%b %d\0" % (kind.encode(), len(content)), usedforsecurity=False)
        hasher.update(content)
        oid = hasher.hexdigest()
        if oid not in self._packed:
            packed = _pack_head(_PACK_TYPES[kind], len(content)) + zlib.compress(content, 1)
            self._packed[oid] = packed
            self._nbytes += len(packed)
            if len(self._packed) >= _MOST_OBJECTS or self._nbytes >= _MOST_BYTES:
                self.flush()
        return oid

    def flush(self) -> None:
        """Give git what it does not have yet: one pack.

        Raises:
            GitError: git takes it not: a full disk, say.
        """
        if not self._packed:
            return
        hasher = hashlib.new(self._format, usedforsecurity=False)
        parts = [b"PACK" + (2).to_bytes(4, "big") + len(self._packed).to_bytes(4, "big"), *self._packed.values()]
        for part in parts:
            hasher.update(part)
        self._repository.git("index-pack", "--stdin", input=b"".join([*parts, hasher.digest()]))
        self._packed.clear()
        self._nbytes = 0


def _pack_head(kind: int, nbytes: int) -> bytes:
    """Return type and length as a pack has them: 4 bits of the length first, then 7 at a time."""
    head = bytearray([kind << 4 | nbytes & 15])
    nbytes >>= 4
    while nbytes:
        head[-1] |= 0x80
        head.append(nbytes & 0x7F)
        nbytes >>= 7
    return bytes(head)


class BlobStream:
    """The bytes of a blob, as git gives them, whatever their number."""

    def __init__(self, repository: Repository, oid: str) -> None:
        self._oid = oid
        self._process = subprocess.Popen(
            ["git", "cat-file", "blob", oid],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=repository.work_tree or repository.git_dir,
            env=repository.environment,
        )

    def readinto(self, target: memoryview, /) -> int:
        """Fill `target`; 0 at the end.

        Raises:
            GitError: git ended before the blob did.
        """
        assert self._process.stdout is not None
        count = self._process.stdout.readinto(target)  # type: ignore[attr-defined]
        if not count and len(target) and self._process.wait():
            raise GitError(f"'git cat-file blob {self._oid}' failed with status {self._process.returncode}")
        return int(count)

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
