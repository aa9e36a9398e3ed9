"""Where the weights of tracked files are: in the work tree, in the local store, in a remote one, or nowhere.

Three states, the same for all commands:

* `full`: the weights are here. For a work tree: the file holds them (or something of the user's); for a
  revision: the local store has everything.
* `pointer`: only the pointer is here, and the weights can be had from the local store or a remote one.
* `missing`: no store that this repository knows, and can reach, has all of them.

No weights are read: a work-tree file is opened for its first bytes, a store is asked what it contains.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.errors import ConfigError, RemoteError, UsageError, words_for
from gitbridge.pointers import is_pointer
from gitbridge.remotes import Place, default_remote, is_local_store, open_place, places
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile
from thetastore.errors import StoreMissingError, ThetaError, near_names

if TYPE_CHECKING:
    from thetastore.digest import Digest
    from thetastore.store import Store

FULL, POINTER, MISSING = "full", "pointer", "missing"


class Known(NamedTuple):
    """What the stores of a repository have of some manifests."""

    local: frozenset[Digest]
    """Wholly in the local store."""
    remote: frozenset[Digest]
    """Wholly in one of the remote stores."""
    place: Place | None
    """The remote store that a push would go to."""
    holders: tuple[Place, ...]
    """The remote stores that `remote` was found in."""
    trouble: str
    """Why remote stores could not be asked; empty if all answered."""


def ask_stores(repository: Repository, manifests: Iterable[Digest], only_where_needed: bool = False) -> Known:
    """Find out which manifests the stores have everything of.

    Args:
        repository: whose stores are asked.
        manifests: what to look for.
        only_where_needed: ask remote stores only for what the local one lacks.
    """
    wanted = frozenset(manifests)
    try:
        with repository.open_store(create=False) as store:
            local = _complete(store, wanted)
    except StoreMissingError:
        local = frozenset()
    asked = wanted - local if only_where_needed else wanted
    remote: frozenset[Digest] = frozenset()
    holders, troubles = [], []
    try:
        found = places(repository, None)
    except ConfigError as error:
        found, troubles = [], [error.message]
    for place in found if asked else []:
        try:
            with open_place(place) as store:
                held = _complete(store, asked - remote)
                held = _pinned(repository, store, held) if is_local_store(repository, place) else held
            remote |= held
            holders += [place] if held else []
        except (RemoteError, ThetaError) as error:
            troubles.append(words_for(error)[0])
    return Known(local, remote, found[0] if found else None, tuple(holders), "; ".join(troubles))


def _complete(store: Store, manifests: frozenset[Digest]) -> frozenset[Digest]:
    return manifests - {manifest for manifest, _ in store.missing_objects(manifests)}


def _pinned(repository: Repository, store: Store, manifests: frozenset[Digest]) -> frozenset[Digest]:
    """Return what a push to the remote has vouched for: where local and remote store are one, lying there says nothing.

    Every pin of the remote is read until all are found; a commit's name does not tell when it was pushed.
    """
    from gitbridge.pins import git_urls, identity
    from thetastore.pins import list_pins, read_pins, repository_of

    remote = default_remote(repository)
    if remote is None or not manifests:
        return frozenset()
    ours = repository_of(identity(repository, git_urls(repository, remote)[0]))
    names = [name for name in list_pins(store.backend).names if name.repository == ours]
    found: set[Digest] = set()
    for _, pin in read_pins(store.backend, names):
        found.update(manifests.intersection(pin.manifests))
        if len(found) == len(manifests):
            break
    return frozenset(found)


def is_full(repository: Repository, path: str) -> bool:
    """Tell whether a work-tree file is there and is no pointer."""
    if repository.work_tree is None:
        return False
    try:
        descriptor = os.open(os.path.join(repository.work_tree, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not is_pointer(os.read(descriptor, 256))
    except OSError:  # a directory where the file should be
        return False
    finally:
        os.close(descriptor)


def work_tree_states(repository: Repository, files: Sequence[TrackedFile], known: Known | None = None) -> list[str]:
    """Return the state of each file in the work tree."""
    full = [is_full(repository, file.path) for file in files]
    if known is None:
        asked = [file.manifest_digest for file, here in zip(files, full, strict=True) if not here]
        known = ask_stores(repository, asked, only_where_needed=True)
    anywhere = known.local | known.remote
    return [
        FULL if here else POINTER if file.manifest_digest in anywhere else MISSING
        for file, here in zip(files, full, strict=True)
    ]


def revision_states(repository: Repository, files: Sequence[TrackedFile]) -> list[str]:
    """Return the state of each file of a revision."""
    known = ask_stores(repository, [file.manifest_digest for file in files], only_where_needed=True)
    return [
        FULL if file.manifest_digest in known.local else POINTER if file.manifest_digest in known.remote else MISSING
        for file in files
    ]


def select(repository: Repository, files: list[TrackedFile], arguments: Sequence[str]) -> list[TrackedFile]:
    """Return the files that arguments name: paths, directories or globs, from the current directory.

    Raises:
        UsageError: an argument names no tracked file.
        PathMissingError: it leads out of the work tree.
    """
    if not arguments:
        return files
    from fnmatch import fnmatchcase

    top = repository.work_tree
    chosen: set[str] = set()
    for argument in arguments:
        name = argument if top is None else os.path.relpath(os.path.abspath(argument), os.path.realpath(top))
        if top is not None and name.startswith("../"):
            name = os.path.relpath(os.path.abspath(argument), top)
        if top is not None and name.startswith("../"):
            from gitbridge.revisions import outside

            raise outside(argument, top)
        hits = [f.path for f in files if name in (".", f.path) or f.path.startswith(name + "/")]
        hits = hits or [f.path for f in files if fnmatchcase(f.path, name)]
        if not hits:
            raise UsageError(f"'{argument}' names no file that git theta tracks", _hint(name, files))
        chosen.update(hits)
    return [file for file in files if file.path in chosen]


def _hint(name: str, files: Sequence[TrackedFile]) -> str:
    near = near_names(name, [file.path for file in files], 1)
    return f"did you mean '{near[0]}'" if near else "git theta ls-files lists them"
