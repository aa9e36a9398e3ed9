"""Letting go of pins of histories that a Git remote has no more: what its refs reach, asked of the remote itself.

Whoever deletes by this must see everything: so a remote that does not answer, or has no refs at all, and a clone that
has only a part of the history keep all pins.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gitbridge.errors import GitError, RemoteError, UsageError
from gitbridge.fetching import Report
from gitbridge.pins import git_urls, identity, is_shallow
from gitbridge.pushing import push
from gitbridge.remotes import Place, default_remote, open_place, places
from gitbridge.repository import Repository
from gitbridge.unpushed import independent, peeled, scan
from thetastore.collecting.unpinning import Seen, Unpinned, reaches_nothing, unpin
from thetastore.digest import Digest
from thetastore.pins import leanable, repository_of

if TYPE_CHECKING:
    from thetastore.store import Store

_MOST_FETCHED = 500
"""Names of refs for one `git fetch`."""


def unpin_what_is_gone(
    repository: Repository, remote: str | None, grace_s: float | None, is_dry: bool, report: Report | None = None
) -> tuple[Place, list[tuple[str, Unpinned]]]:
    """Let go of the pins of commits that no ref of a Git remote reaches any more.

    Args:
        repository: a whole clone.
        remote: name or URL of the Git remote; None for the one that `git push` uses.
        grace_s: see `thetastore.collecting.unpinning`; None for what is usual in the store.
        is_dry: change nothing, but for Git objects that are fetched.
        report: of weights that are sent, since the remote has commits that nobody has pinned.

    Returns:
        Where the weights are, and what became of the pins of each URL that is pushed to.

    Raises:
        RemoteError: the remote, or this clone, does not tell everything.
        ThetaError: see `unpin`.
    """
    remote = remote or repository.config("remote.pushDefault") or default_remote(repository) or "origin"
    _check_is_whole(repository)
    done = []
    place = place_of(repository, remote)
    for git_url in git_urls(repository, remote):
        if place_of(repository, remote, git_url).location != place.location:
            continue
        url = identity(repository, git_url)
        with open_place(place) as store:

            def look(git_url: str = git_url, url: str = url) -> Seen:
                return _look(repository, remote, git_url, url, place, is_dry, report)

            done.append((url, unpin(store.backend, repository_of(url), look, _grace_s(store, grace_s), is_dry)))
    return place, done


def unpin_for_good(
    repository: Repository, remote: str | None, url: str, grace_s: float | None, is_dry: bool
) -> tuple[Place, list[tuple[str, Unpinned]]]:
    """Let go of all pins of a Git repository that does not exist any more.

    Args:
        repository: which knows where the weights are.
        remote: the Git remote whose store it is.
        url: of the repository that is gone, as pins have it, or as git does.
        grace_s: as above.
        is_dry: change nothing.

    Raises:
        UsageError: there are no pins of it.
        ThetaError: see `unpin`.
    """
    place = place_of(repository, remote)
    with open_place(place) as store:
        from thetastore.collecting.roots import pins_of

        known = {pin.url for pin in pins_of(store.backend).values()}
        if url not in known:
            url = identity(repository, url)
        if url not in known:
            raise UsageError(f"'{place.url}' has no pins of '{url}'", "git theta unpin --list")
        return place, [
            (url, unpin(store.backend, repository_of(url), reaches_nothing, _grace_s(store, grace_s), is_dry))
        ]


def place_of(repository: Repository, remote: str | None, git_url: str | None = None) -> Place:
    """Return where the weights of a Git remote are.

    Raises:
        RemoteError: nothing says so.
    """
    found = places(repository, remote, git_url=git_url)
    if not found:
        name = remote or default_remote(repository) or "(there is none)"
        raise RemoteError(f"no store is known for the remote '{name}'", "git config theta.url /path/to/store")
    return found[0]


def _grace_s(store: Store, grace_s: float | None) -> float:
    from thetastore.collecting.collect import usual_terms

    return usual_terms(store.backend).grace_s if grace_s is None else grace_s


def _check_is_whole(repository: Repository) -> None:
    if is_shallow(repository):
        raise RemoteError("a shallow clone cannot tell which commits refs reach", "git fetch --unshallow")
    grafts = os.path.join(repository.common_dir, "info", "grafts")
    if os.path.exists(grafts):
        raise RemoteError(f"'{grafts}' changes what commits reach", "do this in another clone")


def _look(
    repository: Repository,
    remote: str,
    git_url: str,
    url: str,
    place: Place,
    is_dry: bool,
    report: Report | None,
) -> Seen:
    refs = _refs_of(repository, git_url)
    _bring(repository, git_url, refs)
    unpinned: frozenset[Digest] = frozenset()
    if is_dry:
        with open_place(place) as store:
            known = leanable(store.backend, repository_of(url))
        scans = scan(repository, independent(repository, refs), known)
        unpinned = frozenset(file.manifest_digest for one in scans for file in one.files)
    else:
        push(repository, remote, git_url, refs, may_lack=True, report=report)
    tips = {oid for oid, _ in peeled(repository, refs).values()}

    def reached(commits: Iterable[str]) -> set[str]:
        lines = "".join(f"{tip}\n" for tip in tips).encode()
        listed = repository.git("--no-replace-objects", "rev-list", "--stdin", input=lines).decode().split()
        return tips.union(listed).intersection(commits)

    return Seen(reached, unpinned)


def _refs_of(repository: Repository, git_url: str) -> dict[str, list[str]]:
    """Return what all refs of a Git repository point to now, by oid.

    Raises:
        RemoteError: it does not answer, or has none.
    """
    if os.fsdecode(repository.git("ls-remote", "--get-url", git_url)).rstrip("\n") != git_url:
        words = f"'{git_url}' is where this clone pushes to, and git would read another repository in its place"
        raise RemoteError(words, "git config --get-regexp '^url\\.' says why; do this in another clone")
    try:
        listed = repository.git("ls-remote", "--quiet", git_url).decode("utf-8", "backslashreplace")
    except GitError as error:
        raise RemoteError(
            f"the refs of '{identity(repository, git_url)}' cannot be read, so all its pins stay: {error}",
            "if it is gone for good: git theta unpin --forget URL",
        ) from error
    refs: dict[str, list[str]] = {}
    for line in listed.splitlines():
        oid, _, name = line.partition("\t")
        if name.startswith("refs/") and not name.endswith("^{}"):
            refs.setdefault(oid, []).append(name)
    if not refs:
        words = f"'{identity(repository, git_url)}' has no refs at all, and it may be the wrong one: all its pins stay"
        raise RemoteError(words, "if that is meant: git theta unpin --forget URL")
    return refs


def _bring(repository: Repository, git_url: str, refs: dict[str, list[str]]) -> None:
    """Fetch the history of refs that this clone does not have; no ref is written for it.

    Raises:
        RemoteError: some of it cannot be had.
    """
    present = peeled(repository, refs)
    names = [found[0] for oid, found in refs.items() if oid not in present]
    options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"]
    try:
        for at in range(0, len(names), _MOST_FETCHED):
            repository.git("fetch", *options, "--refmap=", git_url, *names[at : at + _MOST_FETCHED])
    except GitError as error:
        words = f"'{names[0]}' is not in this clone and cannot be fetched, so all pins stay: {error}"
        raise RemoteError(words, "run it again") from error
    lacking = refs.keys() - peeled(repository, refs).keys()
    if lacking:
        words = f"'{refs[min(lacking)][0]}' has moved while this looked, or cannot be fetched: all pins stay"
        raise RemoteError(words, "run it again")
