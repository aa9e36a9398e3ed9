"""Which weights a clone keeps: all, or only those of some files, and of these only some tensors.

`theta.fetchInclude` and `theta.fetchExclude` name files, as git-lfs' settings of these names do; `theta.fetchTensors`
names tensors. Each holds globs, separated by commas, and may be set several times; an empty value forgets those before
it, so that `git -c theta.fetchTensors= theta pull` brings everything for once. What is not kept stays a pointer in the
work tree, unless the local store has all of it anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.errors import ThetaError

if TYPE_CHECKING:
    from thetastore.selection import NameTest
    from thetastore.store import Store

TENSORS, INCLUDE, EXCLUDE = "theta.fetchTensors", "theta.fetchInclude", "theta.fetchExclude"


class Profile(NamedTuple):
    """Globs; empty ones keep everything."""

    tensors: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    """Paths of files to fetch; all, if there are none."""
    exclude: tuple[str, ...] = ()
    """Paths of files not to fetch; goes before `include`."""

    @property
    def is_whole(self) -> bool:
        """Whether everything is kept."""
        return not any(self)

    def wants_path(self, path: str) -> bool:
        """Tell whether anything of a file is kept."""
        return (not self.include or _matches(path, self.include)) and not _matches(path, self.exclude)

    def wants(self) -> NameTest | None:
        """Return what tells which tensors are kept; None if all are."""
        if not self.tensors:
            return None
        from thetastore.selection import glob_wants

        return glob_wants(self.tensors)

    def keeps_pointer(self, store: Store, path: str, manifest_digest: Digest) -> bool:
        """Tell whether a file stays a pointer because the store is not meant to hold all of it, and does not."""
        if self.wants_path(path) and not self.tensors:
            return False
        try:
            return bool(store.missing_objects([manifest_digest]))
        except ThetaError:  # what is damaged is a failure of its own, where it is read
            return False


EVERYTHING = Profile()


def fetch_all_the_same(command: str) -> str:
    """Return the command that brings weights whatever a clone is set to keep."""
    return f"git -c {TENSORS}= -c {INCLUDE}= -c {EXCLUDE}= theta {command}"


def profile_of(repository: Repository) -> Profile:
    """Return what a repository is set to keep."""
    return Profile(*(split_globs(repository.config_all(name)) for name in (TENSORS, INCLUDE, EXCLUDE)))


def split_globs(values: Iterable[str]) -> tuple[str, ...]:
    """Return the globs of settings or options; an empty value forgets those before it."""
    globs: list[str] = []
    for value in values:
        if not value.strip():
            globs.clear()
        globs += filter(None, (glob.strip() for glob in value.split(",")))
    return tuple(globs)


def _matches(path: str, globs: Sequence[str]) -> bool:
    """Tell whether a path, its last part, or a directory above it matches, roughly as in .gitignore."""
    from fnmatch import fnmatchcase

    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for glob in globs:
        name = glob.strip("/")
        if any(fnmatchcase(one, name) for one in above):
            return True
        if "/" not in glob.rstrip("/") and any(fnmatchcase(part, name) for part in parts):
            return True
    return False
