"""What a filter works with: the repository, its store, and how files come out of it.

Made when the first file comes, not before: git starts the filter for many commands that then ask nothing of it. What
only files on their way out need is imported when the first of them comes: that is a third of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gitbridge import hooks
from gitbridge.cleaning import Cleaner
from gitbridge.repository import Repository

if TYPE_CHECKING:
    from gitbridge.fill import Wanted
    from gitbridge.profile import Profile
    from thetastore.store import Store


class Session:
    """What both kinds of filter share: the repository, its store, and how files come out of it."""

    def __init__(self) -> None:
        self.repository = Repository.discover()
        self.cleaner = Cleaner(self.repository, is_forkable=True)
        self._profile: Profile | None = None
        if self.repository.work_tree is not None:
            hooks.install_missing(self.repository)

    @property
    def store(self) -> Store:
        """The local store, made if there is none."""
        return self.cleaner.store()

    def keeps_pointer(self, wanted: Wanted) -> bool:
        """Tell whether a file stays a pointer, because this clone is not set to keep all of its weights."""
        if self._profile is None:
            from gitbridge.profile import profile_of

            self._profile = profile_of(self.repository)
        return self._profile.keeps_pointer(self.store, wanted.path, wanted.manifest_digest)

    @property
    def skips_smudge(self) -> bool:
        """Whether pointers are to stay pointers, as the environment or the configuration says."""
        from gitbridge.settings import skips_smudge

        return skips_smudge(self.repository.config_bool("theta.skipSmudge", False))

    def fetch(self, wanted: list[Wanted], treeish: str | None) -> Exception | None:
        """Bring files into the local store; return why that failed, if it did."""
        from gitbridge import materialize

        return materialize.fetch(self.repository, self.store, wanted, treeish)

    def pieces(self, wanted: Wanted) -> Iterator[memoryview]:
        """Yield a file's bytes; each piece is valid until the next. See `Store.read_file` for what is checked when."""
        manifest, _ = wanted.manifest(self.store)
        return self.store.read_file(manifest, wanted.manifest_digest)

    def fetched_pieces(self, wanted: Wanted, treeish: str | None) -> Iterator[memoryview]:
        """Yield a file's bytes, from the remote store if need be."""
        why_not = self.fetch([wanted], treeish)
        if why_not is not None:
            raise why_not
        if self.keeps_pointer(wanted):
            from gitbridge.errors import RemoteError
            from gitbridge.profile import EXCLUDE, INCLUDE, TENSORS

            raise RemoteError(
                "this clone is set to keep only a part of these weights",
                f"git -c {TENSORS}= -c {INCLUDE}= -c {EXCLUDE}= theta fetch brings them",
            )
        return self.pieces(wanted)

    def close(self) -> None:
        """Make durable what was stored; say so if that fails."""
        try:
            self.cleaner.close()
        finally:
            self.repository.close()
