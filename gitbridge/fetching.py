"""Weights that files need, from remote stores into the local one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from gitbridge.errors import RemoteError
from gitbridge.profile import EVERYTHING, Profile, profile_of
from gitbridge.remotes import COMMITTED_NAME, Place, default_remote, open_place, places
from gitbridge.repository import Repository
from thetastore.digest import Digest
from thetastore.errors import MalformedError, ObjectCorruptError, ObjectMissingError, ThetaError, UnsupportedError
from thetastore.transfers.transfer import CopyReport

if TYPE_CHECKING:
    from thetastore.selection import Wants
    from thetastore.store import Store

Report = Callable[[int, int], None]
"""Called with the objects and the stored bytes copied so far."""
NOTHING = CopyReport(0, 0, 0)
_UNREADABLE = (ObjectCorruptError, MalformedError, UnsupportedError)


class HasManifest(Protocol):
    """A pointer, a tracked file: what names a manifest."""

    @property
    def manifest_digest(self) -> Digest:
        """Digest of the manifest."""


def fetch_manifests(
    repository: Repository,
    local: Store,
    pointers: Sequence[HasManifest],
    remote: str | None,
    treeish: str | None = None,
    report: Report | None = None,
    profile: Profile | None = None,
    wants: Wants | None = None,
) -> CopyReport:
    """Bring what is kept of files into the local store; opens no remote where nothing is missing.

    Args:
        repository: whose remotes are asked.
        local: the local store.
        pointers: what names the files; a `path` attribute makes better messages.
        remote: the Git remote whose stores are asked; None is the one that `git fetch` would use.
        treeish: the tree being checked out, where it is known.
        report: see `Report`.
        profile: which files and tensors; None for what this clone is set to keep.
        wants: which tensors, whatever the profile says of files and tensors.

    Raises:
        RemoteError: something is in no store that was asked; what could be had was fetched.
    """
    profile = EVERYTHING if wants is not None else profile_of(repository) if profile is None else profile
    kept = [pointer for pointer in pointers if profile.wants_path(getattr(pointer, "path", ""))]
    wants = wants or profile.wants()
    wanted = list(dict.fromkeys(pointer.manifest_digest for pointer in kept))
    lacking = incomplete(local, wanted, wants)
    copied = NOTHING
    tried: list[str] = []
    closed: list[RemoteError] = []
    damaged: Place | None = None
    if lacking:
        for place in places(repository, remote, treeish):
            try:
                with open_place(place, expected=lacking) as source:
                    arrived, failure = send_what_is_there(source, local, lacking, report, wants)
                copied = sum_of(copied, arrived)
                tried.append(f"'{place.url}'" + (f" ({failure})" if failure else ""))
                damaged = damaged or (place if failure else None)
            except RemoteError as error:
                closed.append(error)
            lacking = incomplete(local, lacking, wants)
            if not lacking:
                return copied
        missing = local.missing_objects(lacking, wants)
        raise _not_found(repository, missing, pointers, remote, tried, closed, damaged)
    return copied


def send_what_is_there(
    source: Store, target: Store, lacking: list[Digest], report: Report | None, wants: Wants | None
) -> tuple[CopyReport, ThetaError | None]:
    """Copy what a store has of some files, what it has wholly at once; tell what is wrong with the rest."""
    copied = NOTHING
    partly = lacking
    try:
        partly = incomplete(source, lacking, wants)
        copied = source.send_to(target, [digest for digest in lacking if digest not in partly], report, wants)
    except _UNREADABLE:
        partly = lacking
    failure: ThetaError | None = None
    for digest in partly:
        try:
            copied = sum_of(copied, source.send_to(target, [digest], report, wants))
        except ObjectMissingError:
            continue  # another place may have it, and `incomplete` is asked again
        except _UNREADABLE as error:
            failure = failure or error  # so it is here, and one damaged file must not keep the others from coming
    return copied, failure


def incomplete(store: Store, manifests: Iterable[Digest], wants: Wants | None = None) -> list[Digest]:
    """Return the files of which a store lacks something."""
    return list(dict.fromkeys(manifest for manifest, _ in store.missing_objects(manifests, wants)))


def sum_of(one: CopyReport, other: CopyReport) -> CopyReport:
    """Return what two copies came to together."""
    return CopyReport(*(a + b for a, b in zip(one, other, strict=True)))


def _not_found(
    repository: Repository,
    missing: list[tuple[Digest, Digest]],
    pointers: Sequence[HasManifest],
    remote: str | None,
    tried: list[str],
    closed: list[RemoteError],
    damaged: Place | None,
) -> RemoteError:
    from shlex import quote

    manifest, digest = missing[0]
    others_count = len({other for other, _ in missing}) - 1
    paths = [getattr(p, "path", None) for p in pointers if p.manifest_digest == manifest]
    what = f"the weights of '{paths[0]}'" if paths and paths[0] else f"the weights of manifest '{str(manifest)[:16]}…'"
    if others_count:
        what += f" (and of {others_count} more)"
    name = remote or default_remote(repository)
    lacks = f"object '{str(digest)[:16]}…' is not in the local store"
    if not tried and not closed:
        whose = f"remote '{name}'" if name else "this repository, which has no remote"
        return RemoteError(f"{what} are missing: {lacks}, and no store is known for {whose}", how_to_name_a_store())
    told = [f"nor to be had from {', '.join(tried)}"] if tried else []
    told += [error.message for error in closed]
    if closed:  # what is missing may be there
        return RemoteError(f"{what} are missing: {lacks}; {'; '.join(told)}", closed[0].hint)
    mend = f"thetastore mend {quote(damaged.location)}; then, " if damaged else ""
    return RemoteError(
        f"{what} are missing: {lacks}, {told[0]}",
        f"{mend}where they were committed, run: git theta push --all",
    )


def how_to_name_a_store() -> str:
    """Return the command that says where weights are."""
    return f"git config theta.url /path/to/store (or, for everybody: git config -f {COMMITTED_NAME} theta.url …)"
