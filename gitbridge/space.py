"""Whether there is room for what is about to be written: said before the disk is full, not after.

Files that are filled take exactly their length, so too little room for them is an error at once. What a fetch takes is
known only afterwards (most of it may be differences), so that is only remarked on.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from gitbridge.errors import BridgeError
from thetastore.tables import count_text, size_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gitbridge.fill import Wanted
    from gitbridge.trees import TrackedFile
    from thetastore.store import Store


class SpaceError(BridgeError):
    """There is not enough room for what is about to be written."""

    code = "space"


def free_bytes(directory: str) -> int:
    """Return what this user may still write where a directory is, or will be."""
    while not os.path.isdir(directory) and os.path.dirname(directory) != directory:
        directory = os.path.dirname(directory)
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def no_room_to_fill(work_tree: str, sizes: Sequence[int]) -> SpaceError | None:
    """Return what is wrong if files of some lengths in bytes do not fit into a work tree."""
    needed, free = sum(sizes), free_bytes(work_tree)
    if needed <= free:
        return None
    return SpaceError(
        f"filling {count_text(len(sizes), 'file')} takes {size_text(needed)}, and {size_text(free)} are free where "
        f"'{work_tree}' is",
        "make room; or leave pointers (GIT_THETA_SKIP_SMUDGE=1 git checkout …), and fill some: git theta checkout FILE",
    )


def remark_on_fetch(store: Store, directory: str, wanted: Sequence[Wanted | TrackedFile]) -> None:
    """Say so if what is to be fetched may not fit where the local store is."""
    free = free_bytes(directory)
    lengths = {one.manifest_digest: one.file_bytes for one in wanted}
    if sum(lengths.values()) <= free:
        return
    most = sum(lengths[manifest] for manifest in {manifest for manifest, _ in store.missing_objects(lengths)})
    if most > free:
        print(
            f"git theta: fetching takes up to {size_text(most)}, and {size_text(free)} are free where '{directory}' is",
            file=sys.stderr,
        )
