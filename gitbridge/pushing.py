"""Weights that commits hold, from the local store to a remote one.

What a push must send is judged against the store that it sends to: the history of commits that are pinned
there is left out, and of the rest everything that the store lacks is sent. Git's remote-tracking refs are
about another server and play no part. Objects are durable in the store before its pin is written, and the
pin before git sends the commits.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from gitbridge.errors import ConfigError, RemoteError, WeightsMissingError, how_to_replace
from gitbridge.excludes import exclude_directory
from gitbridge.fetching import (
    NOTHING,
    Report,
    fetch_manifests,
    how_to_name_a_store,
    incomplete,
    send_what_is_there,
    sum_of,
)
from gitbridge.known_stores import remember, was_there
from gitbridge.pins import git_urls, identity
from gitbridge.profile import EVERYTHING
from gitbridge.remotes import (
    COMMITTED_NAME,
    Place,
    consent,
    name_in_bare_remote,
    open_place,
    open_place_if_there,
    places,
    remote_names,
)
from gitbridge.repository import Repository
from gitbridge.trees import TrackedFile
from gitbridge.unpushed import Scan, independent, peeled, remember_without_pointers, scan
from thetastore.digest import Digest
from thetastore.errors import ObjectCorruptError, StoreMissingError, ThetaError
from thetastore.pins import Pin, leanable, pin_history, repository_of
from thetastore.transfers.transfer import CopyReport

if TYPE_CHECKING:
    from thetastore.store import Store


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

    place: Place | None = None
    """The remote store; None where there was nothing to push and none is known."""
    files: tuple[TrackedFile, ...] = ()
    """Distinct contents that the commits hold and no pin covered."""
    sent: frozenset[Digest] = frozenset()
    """Manifests of those that the store lacked something of."""
    absent: frozenset[Digest] = frozenset()
    """Manifests of those that no store has all of."""
    copied: CopyReport = NOTHING
    told: str | None = None
    """Path of the Git remote that was told where its weights are."""
    is_for_many_writers: bool = True
    """Whether others may push to the store at the same time."""

    @property
    def file_count(self) -> int:
        """How many distinct contents were looked for."""
        return len(self.files)

    @property
    def sent_count(self) -> int:
        """How many of them were sent."""
        return len(self.sent)

    @property
    def logical_bytes(self) -> int:
        """Length of the files that were sent: what they would take if nothing were shared, nor coded."""
        return sum(file.file_bytes for file in self.files if file.manifest_digest in self.sent)


def parse_updates(lines: bytes) -> list[RefUpdate]:
    """Read what git gives a pre-push hook on standard input."""
    updates = []
    for line in lines.decode("utf-8", "surrogateescape").splitlines():
        parts = line.rsplit(" ", 3)  # the local ref is what the user typed: it may hold spaces
        if len(parts) == 4:
            updates.append(RefUpdate(*parts))
    return updates


def push(
    repository: Repository,
    remote: str,
    git_url: str | None,
    refs: Mapping[str, Sequence[str]],
    *,
    everything: bool = False,
    dry_run: bool = False,
    may_lack: bool = False,
    report: Report | None = None,
) -> Pushed:
    """Send the weights of commits to a remote's store, and pin the commits there.

    Args:
        repository: where the commits are.
        remote: name (or URL) of the Git remote.
        git_url: where git pushes to, where that is known.
        refs: commits, tags or other objects to push, by oid, each with the refs of the remote that it is for.
        everything: look at the whole history again, whatever pins say; and make a new store, too, where this clone
            knows one that is gone.
        dry_run: send nothing, write nothing.
        may_lack: send and pin what there is, where something is in neither store.
        report: see `Report`.

    Raises:
        RemoteError: no store is known, or it refused, or something is missing in both.
        ConsentError: only a committed file names the store, and nobody agreed.
    """
    tips = independent(repository, refs)
    if not tips:
        return Pushed()
    found = places(repository, remote, tips[0], git_url)
    place = found[0] if found else None
    url = identity(repository, git_url or git_urls(repository, remote)[0])
    is_there, known = _leanable(place, repository_of(url))
    scans = scan(repository, tips, () if everything else known)
    files = _files_of(scans)
    if not files and not known:
        remember_without_pointers(repository, scans)
        return Pushed(place)
    if place is None:
        raise _no_store(repository, remote, list(files.values()))
    _check_is_elsewhere(repository, place)
    if not is_there and not everything and was_there(repository, place.location):
        raise _gone(place)
    if dry_run:
        with _refusals_told(place):
            return _would_send(place, files)
    consent(repository, place)
    with _refusals_told(place), repository.open_store() as local, _made(repository, place) as target:
        pushed = _Sending(repository, place, local, target, tips, scans, report).send(url, refs, everything, may_lack)
    remember(repository, place.location)
    return pushed._replace(told=name_in_bare_remote(repository, git_url or remote, place))


@contextmanager
def _refusals_told(place: Place) -> Iterator[None]:
    """Say of what the system refuses that the weights were not all sent."""
    try:
        yield
    except OSError as error:  # BackendError is one
        if isinstance(error, StoreMissingError):
            raise
        way = "mend it and push again: what arrived stays, and the rest is sent then"
        if error.errno == errno.EROFS and place.directory is None:
            way = f"name a place that can be written to: git config {place.setting} s3://bucket/prefix, or a directory"
        raise RemoteError(
            f"the weights could not all be sent to '{place.url}': {error.strerror or error}", way
        ) from error


def _would_send(place: Place, files: dict[Digest, TrackedFile]) -> Pushed:
    """Say what a push would send; a store that is not there yet is not made."""
    opened = open_place_if_there(place)
    if opened is None:
        return Pushed(place, tuple(files.values()), frozenset(files))
    with opened as target:
        target.count_only_durable()
        return Pushed(place, tuple(files.values()), frozenset(incomplete(target, files)))


def _check_is_elsewhere(repository: Repository, place: Place) -> None:
    if place.directory is None:
        return
    own = os.path.join(os.path.realpath(repository.common_dir), "")
    if os.path.join(os.path.realpath(place.directory), "").startswith(own):
        raise RemoteError(
            f"'{place.url}' (from {place.source}) lies in this repository's own git directory, where no clone finds it",
            f"git config {place.setting} /path/to/another/directory",
        )


def _made(repository: Repository, place: Place) -> Store:
    """Open the store of a place, which the first push makes."""
    if place.directory and not os.path.exists(place.directory):
        exclude_directory(repository.common_dir, repository.root, place.directory)
    return open_place(place, create=True)


def _files_of(scans: Iterable[Scan]) -> dict[Digest, TrackedFile]:
    return {file.manifest_digest: file for one in scans for file in one.files}


class _Sending:
    """One push to a store that is open: what it has found, and what it has done so far."""

    def __init__(
        self,
        repository: Repository,
        place: Place,
        local: Store,
        target: Store,
        tips: list[str],
        scans: list[Scan],
        report: Report | None,
    ) -> None:
        self._repository = repository
        self._place = place
        self._local = local
        self._target = target
        self._tips = tips
        self._scans = scans
        self._report = report
        self._files = _files_of(scans)
        self._sent: set[Digest] = set()
        self._absent: set[Digest] = set()
        self._copied = NOTHING

    def send(self, url: str, refs: Mapping[str, Sequence[str]], everything: bool, may_lack: bool) -> Pushed:
        """Send what the store lacks, and pin the tips."""
        target = self._target
        target.begin_session()  # whatever is there by now, a collector leaves it there until the pin is written
        target.count_only_durable()  # the pin must not depend on what another push has not finished

        def attempt(pinned: set[str]) -> list[Pin]:
            self._look_again(set() if everything else pinned)
            self._absent = self._send_what_lacks(may_lack)
            return self._pins(url, refs, self._absent)

        pin_history(target.backend, repository_of(url), self._tips, attempt, target.objects)
        files, many = tuple(self._files.values()), target.is_for_many_writers
        return Pushed(self._place, files, frozenset(self._sent), frozenset(self._absent), self._copied, None, many)

    def _look_again(self, pinned: set[str]) -> None:
        """Scan anew if a pin that was leant on, or that a tip had, is none to lean on any more."""
        covered = pinned.union(one.oid for one in self._scans)
        if not covered.issuperset(self._tips) or any(not covered.issuperset(one.leans_on) for one in self._scans):
            self._scans = scan(self._repository, self._tips, pinned)
            self._files.update(_files_of(self._scans))

    def _send_what_lacks(self, may_lack: bool) -> set[Digest]:
        """Make durable what the store lacks; return the manifests that cannot be had."""
        lacking = incomplete(self._target, self._files)
        absent = _made_available(self._repository, self._local, self._target, self._place, lacking, self._files)
        if absent and not may_lack and not self._repository.config_bool("theta.allowIncompletePush", False):
            raise _nowhere(self._repository, self._files, absent, self._place, self._tips)
        sendable = [manifest for manifest in lacking if manifest not in absent]
        self._copied = sum_of(self._copied, _send(self._local, self._target, sendable, self._files, self._report))
        self._sent.update(sendable)
        if not sendable:
            # What is there may be what a push left that was killed: readable, and not yet durable.
            self._target.seal()
        self._finish(set(self._files).difference(lacking))
        return set(absent)

    def _finish(self, whole: set[Digest]) -> None:
        """Do what a push that was broken off has left undone: only hints, and no reason to fail."""
        try:
            self._local.finish_sending(self._target, sorted(whole))
        except ThetaError:
            pass  # whoever reads these files takes more round trips

    def _pins(self, url: str, refs: Mapping[str, Sequence[str]], absent: set[Digest]) -> list[Pin]:
        named: dict[str, set[str]] = {}
        for oid, (commit, _) in peeled(self._repository, refs).items():
            named.setdefault(commit, set()).update(refs[oid])
        partial = absent.intersection(_files_of(self._scans))
        return [
            Pin(
                url=url,
                commit=one.oid,
                manifests=tuple(sorted(_files_of([one]).keys() - absent)),
                leans_on=one.leans_on,
                refs=tuple(sorted(named.get(one.oid, ()))),
                is_partial=one.is_shallow or bool(partial),
            )
            for one in self._scans
        ]


def _send(
    local: Store, target: Store, lacking: list[Digest], files: dict[Digest, TrackedFile], report: Report | None
) -> CopyReport:
    if not lacking:
        return NOTHING
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
) -> dict[Digest, Digest]:
    """Fetch from other remotes what this clone never had; return what is nowhere: manifest, and an object of it."""
    absent = _absent(local, target, lacking)
    if absent:
        needed = [files[manifest] for manifest in absent]
        # It may take days, in which nothing is sent.
        _fetch_from_others(repository, local, place, needed, lambda *_: target.objects.keep_alive())
        absent = _absent(local, target, lacking)
    return absent


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


def _fetch_from_others(
    repository: Repository, local: Store, place: Place, files: list[TrackedFile], report: Report
) -> None:
    with open_place(place) as condemned:  # what a writer must not rely on can be read, and is stored again then
        lacking = incomplete(local, [file.manifest_digest for file in files])
        send_what_is_there(condemned, local, lacking, report, None)
    for name in remote_names(repository):
        try:
            if any(other.location != place.location for other in places(repository, name)):
                fetch_manifests(repository, local, files, name, report=report, profile=EVERYTHING)
                return
        except (RemoteError, ConfigError):
            continue


def _nowhere(
    repository: Repository,
    files: dict[Digest, TrackedFile],
    absent: dict[Digest, Digest],
    place: Place,
    tips: list[str],
) -> WeightsMissingError:
    manifest, digest = next(iter(absent.items()))
    file, count = files[manifest], len(absent)
    words = repository.git("log", "-1", "--format=%h", f"--find-object={file.oid}", *tips, "--", check=False).split()
    commit = words[0].decode() if words else tips[0][:12]
    others = f" ({count - 1} more files lack objects too)" if count > 1 else ""
    return WeightsMissingError(
        f"'{file.path}' of commit {commit} cannot be pushed: its object '{str(digest)[:16]}…' is neither in the local "
        f"store nor in '{place.url}'{others}",
        "fetch its weights (git theta fetch --all), or push from where it was committed; "
        "where they are lost: git config theta.allowIncompletePush true",
        tuple(sorted(files[one].path for one in absent)),
    )


def _no_store(repository: Repository, remote: str, files: list[TrackedFile]) -> RemoteError:
    count = len(files)
    what = f"'{files[0].path}'" if files else "commits that follow pinned ones"
    what += f" (and {count - 1} more)" if count > 1 else ""
    uncommitted = os.path.join(repository.work_tree or repository.git_dir, COMMITTED_NAME)
    hint = how_to_name_a_store()
    if os.path.exists(uncommitted):
        hint = f"git add {COMMITTED_NAME} (it is there, but not added, or has no theta.url)"
    return RemoteError(f"the weights of {what} have nowhere to go: no store is known for remote '{remote}'", hint)


def _gone(place: Place) -> RemoteError:
    way = "mount it, or mend the path" if place.directory else "mend the URL"
    return RemoteError(
        f"there is no store at '{place.url}' (from {place.source}) any more, and this clone has used the one that was "
        "there: no new one is made in its place by itself",
        f"{way}; if it is lost, what is in the local store goes to a new one: git theta push --all",
    )


def _leanable(place: Place | None, repository: str) -> tuple[bool, set[str]]:
    """Tell whether there is a store yet, and return the commits that new pins can lean on in it."""
    opened = open_place_if_there(place) if place is not None else None
    if opened is None:
        return False, set()
    with opened as target:
        return True, leanable(target.backend, repository)
