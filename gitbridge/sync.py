"""Weights between the local store and a remote one: fetch what files need, push what commits hold.

What a push must send is judged against the store that it sends to: the history of commits that are pinned
there is left out, and of the rest everything that the store lacks is sent. Git's remote-tracking refs are
about another server and play no part. Objects are durable in the store before its pin is written, and the
pin before git sends the commits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gitbridge.errors import ConfigError, RemoteError, how_to_replace
from gitbridge.excludes import exclude_directory
from gitbridge.pins import Pin, PinName, pin_names, repository_id, write_pin
from gitbridge.profile import EVERYTHING, Profile, profile_of
from gitbridge.remotes import (
    COMMITTED_NAME,
    Place,
    consent,
    default_remote,
    name_in_bare_remote,
    open_place,
    open_place_if_there,
    places,
    remote_names,
)
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile
from gitbridge.unpushed import Scan, independent, remember_without_pointers, scan
from thetastore.digest import Digest
from thetastore.errors import (
    MalformedError,
    ObjectCorruptError,
    ObjectMissingError,
    StoreMissingError,
    ThetaError,
    UnsupportedError,
)
from thetastore.transfers.transfer import CopyReport

if TYPE_CHECKING:
    from thetastore.selection import Wants
    from thetastore.store import Store

Report = Callable[[int, int], None]
"""Called with the objects and the stored bytes copied so far."""


class HasManifest(Protocol):
    """A pointer, a tracked file: what names a manifest."""

    @property
    def manifest_digest(self) -> Digest:
        """Digest of the manifest."""


class RefUpdate(NamedTuple):
    """One line that git gives a pre-push hook."""

    local_ref: str
    local_oid: str
    remote_ref: str
    remote_oid: str

    @property
    def is_delete(self) -> bool:
        """Whether the ref goes away at the remote; nothing is sent for it."""
        return not self.local_oid.strip("0")


class Pushed(NamedTuple):
    """What a push did, or would do."""

    place: Place | None
    """The remote store; None where there was nothing to push and none is known."""
    file_count: int
    """Distinct contents that the commits hold and no pin covered."""
    sent_count: int
    """Those of them that the store lacked something of."""
    copied: CopyReport
    told: str | None = None
    """Path of the Git remote that was told where its weights are."""
    logical_bytes: int = 0
    """Length of the files that were sent: what they would take if nothing were shared, nor coded."""
    is_for_many_writers: bool = True
    """Whether others may push to the store at the same time."""


_NOTHING = CopyReport(0, 0, 0)
_MOST_COLLECTIONS = 3
"""Each takes a day without a sign of life from this process."""
_UNREADABLE = (ObjectCorruptError, MalformedError, UnsupportedError)


def parse_updates(lines: bytes) -> list[RefUpdate]:
    """Read what git gives a pre-push hook on standard input."""
    updates = []
    for line in lines.decode("utf-8", "surrogateescape").splitlines():
        parts = line.rsplit(" ", 3)  # the local ref is what the user typed: it may hold spaces
        if len(parts) == 4:
            updates.append(RefUpdate(*parts))
    return updates


# Fetching


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
    lacking = _incomplete(local, wanted, wants)
    copied = _NOTHING
    tried: list[str] = []
    closed: list[RemoteError] = []
    damaged: Place | None = None
    if lacking:
        for place in places(repository, remote, treeish):
            try:
                with open_place(place, expected=lacking) as source:
                    arrived, failure = _send_what_is_there(source, local, lacking, report, wants)
                copied = _sum(copied, arrived)
                tried.append(f"'{place.url}'" + (f" ({failure})" if failure else ""))
                damaged = damaged or (place if failure else None)
            except RemoteError as error:
                closed.append(error)
            lacking = _incomplete(local, lacking, wants)
            if not lacking:
                return copied
        missing = local.missing_objects(lacking, wants)
        raise _not_found(repository, missing, pointers, remote, tried, closed, damaged)
    return copied


def _send_what_is_there(
    source: Store, target: Store, lacking: list[Digest], report: Report | None, wants: Wants | None
) -> tuple[CopyReport, ThetaError | None]:
    """Copy what a store has of some files, what it has wholly at once; tell what is wrong with the rest."""
    copied = _NOTHING
    partly = lacking
    try:
        partly = _incomplete(source, lacking, wants)
        copied = source.send_to(target, [digest for digest in lacking if digest not in partly], report, wants)
    except _UNREADABLE:
        partly = lacking
    failure: ThetaError | None = None
    for digest in partly:
        try:
            copied = _sum(copied, source.send_to(target, [digest], report, wants))
        except ObjectMissingError:
            continue  # another place may have it, and `_incomplete` is asked again
        except _UNREADABLE as error:
            failure = failure or error  # so it is here, and one damaged file must not keep the others from coming
    return copied, failure


def _incomplete(store: Store, manifests: Iterable[Digest], wants: Wants | None = None) -> list[Digest]:
    return list(dict.fromkeys(manifest for manifest, _ in store.missing_objects(manifests, wants)))


def _sum(one: CopyReport, other: CopyReport) -> CopyReport:
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
        return RemoteError(f"{what} are missing: {lacks}, and no store is known for {whose}", _how_to_name_a_store())
    told = [f"nor to be had from {', '.join(tried)}"] if tried else []
    told += [error.message for error in closed]
    if closed:  # what is missing may be there
        return RemoteError(f"{what} are missing: {lacks}; {'; '.join(told)}", closed[0].hint)
    mend = f"thetastore mend {quote(damaged.location)}; then, " if damaged else ""
    return RemoteError(
        f"{what} are missing: {lacks}, {told[0]}",
        f"{mend}where they were committed, run: git theta push --all",
    )


def _how_to_name_a_store() -> str:
    return f"git config theta.url /path/to/store (or, for everybody: git config -f {COMMITTED_NAME} theta.url …)"


# Pushing


def push(
    repository: Repository,
    remote: str,
    git_url: str | None,
    oids: Iterable[str],
    *,
    everything: bool = False,
    dry_run: bool = False,
    report: Report | None = None,
) -> Pushed:
    """Send the weights of commits to a remote's store, and pin the commits there.

    Args:
        repository: where the commits are.
        remote: name (or URL) of the Git remote.
        git_url: where git pushes to, where that is known.
        oids: commits, tags or other objects to push.
        everything: look at the whole history again, whatever pins say.
        dry_run: send nothing, write nothing.
        report: see `Report`.

    Raises:
        RemoteError: no store is known, or it refused, or something is missing in both.
        ConsentError: only a committed file names the store, and nobody agreed.
    """
    tips = independent(repository, oids)
    if not tips:
        return Pushed(None, 0, 0, _NOTHING)
    found = places(repository, remote, tips[0], git_url)
    place = found[0] if found else None
    known = _pins_of(place)
    excluded = [] if everything else [name.commit for name in known if not name.is_shallow]
    scans = scan(repository, tips, excluded)
    files = {file.manifest_digest: file for scan in scans for file in scan.files}
    if not files and not known:
        remember_without_pointers(repository, scans)
        return Pushed(place, 0, 0, _NOTHING)
    if place is None:
        raise _no_store(repository, remote, list(files.values()))
    _check_is_elsewhere(repository, place)
    if not dry_run:
        consent(repository, place)
    try:
        pushed = _push_to(repository, place, scans, files, known, dry_run, report)
    except OSError as error:  # BackendError is one
        if isinstance(error, StoreMissingError):
            raise
        raise RemoteError(
            f"the weights could not all be sent to '{place.url}': {error.strerror or error}",
            "mend it and push again: what arrived stays, and the rest is sent then",
        ) from error
    if not dry_run:
        pushed = pushed._replace(told=name_in_bare_remote(repository, git_url or remote, place))
    return pushed


def _check_is_elsewhere(repository: Repository, place: Place) -> None:
    if place.directory is None:
        return
    own = os.path.join(os.path.realpath(repository.common_dir), "")
    if os.path.join(os.path.realpath(place.directory), "").startswith(own):
        raise RemoteError(
            f"'{place.url}' (from {place.source}) lies in this repository's own git directory, where no clone finds it",
            f"git config {place.setting} /path/to/another/directory",
        )


def _push_to(
    repository: Repository,
    place: Place,
    scans: list[Scan],
    files: dict[Digest, TrackedFile],
    known: list[PinName],
    dry_run: bool,
    report: Report | None,
) -> Pushed:
    if place.directory and not dry_run and not os.path.exists(place.directory):
        exclude_directory(repository.common_dir, repository.root, place.directory)
    opened = open_place_if_there(place) if dry_run else open_place(place, create=True)
    if opened is None:
        return Pushed(place, len(files), len(files), _NOTHING)
    with repository.open_store() as local, opened as target:
        if not dry_run:
            target.begin_session()  # whatever is there by now, a collector leaves it there until the pin is written
        target.count_only_durable()  # the pin must not depend on what another push has not finished
        lacking = _incomplete(target, files)
        if dry_run:
            return Pushed(place, len(files), len(lacking), _NOTHING)
        sendable = _made_available(repository, local, target, place, lacking, files, scans)
        copied = _send(local, target, sendable, files, report)
        if len(sendable) == len(lacking):
            if not sendable:
                # What is there may be what a push left that was killed: readable, and not yet durable.
                target.seal()
            _pin(repository, target, scans, known)
            _make_sure(local, target, files, report)
        logical_bytes = sum(files[manifest].file_bytes for manifest in sendable)
        many = target.is_for_many_writers
    return Pushed(place, len(files), len(sendable), copied, None, logical_bytes, many)


def _make_sure(local: Store, target: Store, files: dict[Digest, TrackedFile], report: Report | None) -> None:
    """Send again what a collector took while this process slept for a day: only now is it known that the pin holds."""
    for _ in range(_MOST_COLLECTIONS):
        lost = {manifest for manifest, _ in target.lost_meanwhile(files)}
        if not lost:
            return
        _send(local, target, [manifest for manifest in files if manifest in lost], files, report)
    raise RemoteError(
        f"'{target.url}' was collected again and again while this push slept, and does not have everything",
        "git theta push --all",
    )


def _send(
    local: Store, target: Store, lacking: list[Digest], files: dict[Digest, TrackedFile], report: Report | None
) -> CopyReport:
    if not lacking:
        return _NOTHING
    try:
        # What is in the local store was made here, or proven when it was fetched.
        return local.send_to(target, lacking, report, proves=False)
    except ObjectCorruptError as error:
        digest = Digest.parse(error.digest)
        paths = [files[manifest].path for manifest in lacking if _needs(local, manifest, digest)]
        whose = f"'{paths[0]}'" if paths else "a file"
        raise RemoteError(f"{whose} cannot be sent: {error}", how_to_replace(error.place)) from error


def _needs(local: Store, manifest: Digest, digest: Digest) -> bool:
    try:
        return digest in local.iter_objects(manifest)
    except ThetaError:
        return manifest == digest


def _made_available(
    repository: Repository,
    local: Store,
    target: Store,
    place: Place,
    lacking: list[Digest],
    files: dict[Digest, TrackedFile],
    scans: list[Scan],
) -> list[Digest]:
    """Return the manifests that can be sent, after fetching from other remotes what this clone never had.

    Raises:
        RemoteError: something is nowhere, and `theta.allowIncompletePush` is not set.
    """
    absent = _absent(local, target, lacking)
    if absent:
        _fetch_from_others(repository, local, place, [files[manifest] for manifest in absent])
        absent = _absent(local, target, lacking)
    if absent and not repository.config_bool("theta.allowIncompletePush", False):
        manifest, digest = next(iter(absent.items()))
        raise _nowhere(repository, files[manifest], digest, len(absent), place, scans)
    return [manifest for manifest in lacking if manifest not in absent]


def _absent(local: Store, target: Store, lacking: list[Digest]) -> dict[Digest, Digest]:
    """Return the manifests that cannot be sent, each with an object that is in neither store."""
    missing = local.missing_objects(lacking)
    absent = {manifest: digest for manifest, digest in missing if not target.objects.contains(digest)}
    for manifest in {manifest for manifest, digest in missing if manifest not in absent}:
        # A manifest or page that only the target has hides what it lists: ask the target for what that lacks.
        for _, digest in target.missing_objects([manifest]):
            if not local.objects.contains(digest):
                absent[manifest] = digest
    return absent


def _fetch_from_others(repository: Repository, local: Store, place: Place, files: list[TrackedFile]) -> None:
    for name in remote_names(repository):
        try:
            if any(other.location != place.location for other in places(repository, name)):
                fetch_manifests(repository, local, files, name, profile=EVERYTHING)
                return
        except (RemoteError, ConfigError):
            continue


def _nowhere(
    repository: Repository, file: TrackedFile, digest: Digest, count: int, place: Place, scans: list[Scan]
) -> RemoteError:
    tips = [scan.oid for scan in scans]
    words = repository.git("log", "-1", "--format=%h", f"--find-object={file.oid}", *tips, "--", check=False).split()
    commit = words[0].decode() if words else tips[0][:12]
    others = f" ({count - 1} more files lack objects too)" if count > 1 else ""
    return RemoteError(
        f"'{file.path}' of commit {commit} cannot be pushed: its object '{str(digest)[:16]}…' is neither in the local "
        f"store nor in '{place.url}'{others}",
        "fetch its weights (git theta fetch --all), or push from where it was committed; "
        "where they are lost: git config theta.allowIncompletePush true",
    )


def _no_store(repository: Repository, remote: str, files: list[TrackedFile]) -> RemoteError:
    count = len(files)
    what = f"'{files[0].path}'" if files else "commits that follow pinned ones"
    what += f" (and {count - 1} more)" if count > 1 else ""
    uncommitted = os.path.join(repository.work_tree or repository.git_dir, COMMITTED_NAME)
    hint = _how_to_name_a_store()
    if os.path.exists(uncommitted):
        hint = f"git add {COMMITTED_NAME} (it is there, but not added, or has no theta.url)"
    return RemoteError(f"the weights of {what} have nowhere to go: no store is known for remote '{remote}'", hint)


def _pins_of(place: Place | None) -> list[PinName]:
    """Return the pins of a place; none where there is no store yet."""
    opened = open_place_if_there(place) if place is not None else None
    if opened is None:
        return []
    with opened as target:
        return pin_names(target.backend)


def _pin(repository: Repository, target: Store, scans: list[Scan], known: list[PinName]) -> None:
    owner = repository_id(repository, scans[0].oid, known)
    for one in scans:
        manifests = tuple(sorted({file.manifest_digest for file in one.files}))
        write_pin(target.backend, Pin(owner, one.oid, one.is_whole, manifests, one.is_shallow))
