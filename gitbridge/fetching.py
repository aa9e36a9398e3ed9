"""Weights that files need, from remote stores into the local one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gitbridge.errors import RemoteError
from gitbridge.known_stores import remember
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


class Arrival(NamedTuple):
    """What came from one store."""

    place: Place
    copied: CopyReport


class Fetched(NamedTuple):
    """What a fetch brought, and what it could not bring."""

    arrivals: tuple[Arrival, ...] = ()
    brought: frozenset[Digest] = frozenset()
    """Manifests of files of which something was missing before, and now nothing is."""
    missing: frozenset[Digest] = frozenset()
    """Manifests of files of which something is missing still."""
    error: Exception | None = None
    """Why."""

    @property
    def copied(self) -> CopyReport:
        """What came from all stores together."""
        return CopyReport(*map(sum, zip(NOTHING, *(one.copied for one in self.arrivals), strict=True)))


class Found(NamedTuple):
    """What a fetch would bring."""

    offers: tuple[tuple[Place, frozenset[Digest]], ...]
    """Where it would come from: manifests of files, each once."""
    missing: frozenset[Digest]
    """Manifests of files that no store has all of."""
    error: RemoteError | None
    """Why."""


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

    Args and errors: see `fetch_what_there_is`, but what that tells is raised here.

    Raises:
        RemoteError: something is in no store that was asked; what could be had was fetched.
    """
    fetched = fetch_what_there_is(repository, local, pointers, remote, treeish, report, profile, wants)
    if fetched.error is not None:
        raise fetched.error
    return fetched.copied


def fetch_what_there_is(
    repository: Repository,
    local: Store,
    pointers: Sequence[HasManifest],
    remote: str | None,
    treeish: str | None = None,
    report: Report | None = None,
    profile: Profile | None = None,
    wants: Wants | None = None,
) -> Fetched:
    """Bring what is kept of files into the local store, and tell what could not be had.

    Args:
        repository: whose remotes are asked.
        local: the local store.
        pointers: what names the files; a `path` attribute makes better messages.
        remote: the Git remote whose stores are asked; None is the one that `git fetch` would use.
        treeish: the tree being checked out, where it is known.
        report: see `Report`.
        profile: which files and tensors; None for what this clone is set to keep.
        wants: which tensors, whatever the profile says of files and tensors.
    """
    wanted, wants = _wanted(repository, pointers, profile, wants)
    needed = lacking = incomplete(local, wanted, wants)
    asking = _Asking()
    arrivals = []
    for place in places(repository, remote, treeish) if lacking else ():
        copied = NOTHING
        with asking.telling(place), open_place(place, expected=lacking) as source:
            copied, asking.failure = send_what_is_there(source, local, lacking, report, wants)
        if copied.object_count:
            arrivals.append(Arrival(place, copied))
            remember(repository, place.location)
        lacking = incomplete(local, lacking, wants)
        if not lacking:
            break
    if not lacking:
        return Fetched(tuple(arrivals), frozenset(needed))
    error = asking.words_on(repository, local.missing_objects(lacking, wants), pointers, remote)
    return Fetched(tuple(arrivals), frozenset(needed).difference(lacking), frozenset(lacking), error)


def look_for_manifests(
    repository: Repository,
    local: Store | None,
    pointers: Sequence[HasManifest],
    remote: str | None,
    profile: Profile | None = None,
    wants: Wants | None = None,
) -> Found:
    """Find out where what is kept of files would come from; nothing is fetched, but to know what files need.

    Args:
        repository: whose remotes are asked.
        local: the local store; None where there is none yet.
        pointers: what names the files.
        remote: the Git remote whose stores are asked; None is the one that `git fetch` would use.
        profile: which files and tensors; None for what this clone is set to keep.
        wants: which tensors, whatever the profile says of files and tensors.
    """
    wanted, wants = _wanted(repository, pointers, profile, wants)
    lacking = incomplete(local, wanted, wants) if local is not None else wanted
    asking = _Asking()
    offers = []
    for place in places(repository, remote) if lacking else ():
        there = lacking
        with asking.telling(place), open_place(place, expected=lacking) as source:
            try:
                there = incomplete(source, lacking, wants)
            except _UNREADABLE as failure:
                asking.failure = failure
        offers += [(place, frozenset(lacking).difference(there))] if len(there) < len(lacking) else []
        lacking = there
        if not lacking:
            break
    error = None
    if lacking:
        first = [(manifest, manifest) for manifest in lacking]
        missing = local.missing_objects(lacking, wants) if local is not None else first
        error = asking.words_on(repository, missing, pointers, remote)
    return Found(tuple(offers), frozenset(lacking), error)


def _wanted(
    repository: Repository, pointers: Sequence[HasManifest], profile: Profile | None, wants: Wants | None
) -> tuple[list[Digest], Wants | None]:
    """Return which files are kept, and which of their tensors."""
    profile = EVERYTHING if wants is not None else profile_of(repository) if profile is None else profile
    kept = [pointer for pointer in pointers if profile.wants_path(getattr(pointer, "path", ""))]
    return list(dict.fromkeys(pointer.manifest_digest for pointer in kept)), wants or profile.wants()


class _Asking:
    """What came of asking stores one after the other, for the message if something is in none of them."""

    def __init__(self) -> None:
        self.failure: ThetaError | None = None
        """What is wrong with the store that is asked now."""
        self._tried: list[str] = []
        self._closed: list[RemoteError] = []
        self._damaged: Place | None = None

    @contextmanager
    def telling(self, place: Place) -> Iterator[None]:
        """Note that a place was asked, or why it could not be."""
        self.failure = None
        try:
            yield
        except RemoteError as error:
            self._closed.append(error)
            return
        self._tried.append(f"'{place.url}'" + (f" ({self.failure})" if self.failure else ""))
        self._damaged = self._damaged or (place if self.failure else None)

    def words_on(
        self,
        repository: Repository,
        missing: list[tuple[Digest, Digest]],
        pointers: Sequence[HasManifest],
        remote: str | None,
    ) -> RemoteError:
        """Return the error for what is missing."""
        return _not_found(repository, missing, pointers, remote, self._tried, self._closed, self._damaged)


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
