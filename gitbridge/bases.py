"""The base that a user names for new files: against which version of which file differences are taken.

It is named as git names things: `REV:PATH` is a file of a revision, `REV` alone the file of the same path there. What
`git theta add --base` says goes before what Git holds at the path already; what is set for good goes after it:
the attribute `theta.base` of the path, then the setting `theta.base`. A name that stands for nothing there is
remarked on once, and costs no more than that: a base only saves bytes.

The filter asks here only about files that may be worth a difference, and git is asked only where something is set.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gitbridge.errors import GitError, RevisionError
from gitbridge.pointers import MAX_POINTER_BYTES, is_pointer
from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.errors import MalformedError

if TYPE_CHECKING:
    from gitbridge.cat_file import BlobHead

SETTING = ATTRIBUTE = "theta.base"
ADD_SETTING = "theta.addBase"
"""What `git theta add --base` sets, for the one `git add` that it runs: the oid of a tree or of a pointer."""
_HEAD_BYTES = 2048
"""Holds all of a pointer but its tensors."""
_NO_VALUES = (b"unspecified", b"unset", b"set", b"")


def manifest_at(repository: Repository, name: str, path: str) -> Digest | None:
    """Return the manifest of the file that a name stands for.

    Args:
        repository: whose revisions and files are named.
        name: `REV:PATH`, the oid of a pointer, or `REV`.
        path: the file looked for where the name is of a revision; None is returned if it is not tracked there.

    Raises:
        RevisionError: the name stands for nothing, or for something that is not a tracked file.
    """
    found = _head(repository, name)
    if ":" not in name and found.type != "blob":
        try:
            found = _head(repository, f"{name}:{path}")
        except RevisionError:
            return None
        return _manifest(found)
    digest = _manifest(found)
    if digest is None:
        raise RevisionError(
            f"'{name}' is not a file that git theta tracks", "git theta ls-files REV lists those of REV"
        )
    return digest


def _head(repository: Repository, name: str) -> BlobHead:
    return next(iter(repository.cat_file().read_heads([name], _HEAD_BYTES)))


def _manifest(found: BlobHead) -> Digest | None:
    if found.type != "blob" or found.size_bytes > MAX_POINTER_BYTES or not is_pointer(found.head):
        return None
    try:
        return Digest.parse(found.head.partition(b"\nmanifest ")[2][:64])
    except MalformedError:
        return None


class NamedBases:
    """Finds the bases that were named for the files of one repository. For one thread."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._mentions: dict[str, bool] = {}
        self._said: set[str] = set()

    def for_this_add(self, path: bytes) -> Digest | None:
        """Return the base that `git theta add --base` was given."""
        return self._found(ADD_SETTING, self._repository.config(ADD_SETTING), path)

    def usual(self, path: bytes) -> Digest | None:
        """Return the base that the attribute of a path names, else the one that is set for all files."""
        name = self._attribute(path) or self._repository.config(SETTING)
        return self._found(SETTING, name, path)

    def _found(self, setting: str, name: str | None, path: bytes) -> Digest | None:
        if not name:
            return None
        try:
            return manifest_at(self._repository, name, os.fsdecode(path))
        except (RevisionError, GitError) as error:
            if name not in self._said:
                self._said.add(name)
                text = f"git theta: no base is taken from {setting} '{name}': {error.message}"
                print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
            return None

    def _attribute(self, path: bytes) -> str | None:
        if not self._is_mentioned(os.fsdecode(path)):
            return None
        try:
            answer = self._repository.git("check-attr", "-z", "--stdin", ATTRIBUTE, input=path + b"\0").split(b"\0")
        except GitError:
            return None
        return None if len(answer) < 3 or answer[2] in _NO_VALUES else os.fsdecode(answer[2])

    def _is_mentioned(self, path: str) -> bool:
        """Tell whether a file of attributes that may be about a path speaks of bases at all; git costs 3 ms."""
        top = self._repository.work_tree
        if top is None:
            return False
        user_file = self._repository.config_path("core.attributesFile") or os.path.join(
            os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "git", "attributes"
        )
        names = [user_file, os.path.join(self._repository.common_dir, "info", "attributes")]
        parts = path.split("/")[:-1]
        names += [os.path.join(top, *parts[:depth], ".gitattributes") for depth in range(len(parts) + 1)]
        return any(self._mentions_bases(name) for name in names)

    def _mentions_bases(self, name: str) -> bool:
        known = self._mentions.get(name)
        if known is None:
            try:
                with open(name, "rb") as stream:
                    known = ATTRIBUTE.encode() in stream.read()
            except OSError:
                known = False
            self._mentions[name] = known
        return known
