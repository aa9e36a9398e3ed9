"""Git repositories on other machines: a bare clone without weights, kept in a cache and brought up to date when asked.

Only commits, trees and pointers are fetched, no deeper than the revision asked for where the host allows that; which
files a store has is then read from `.thetaconfig`, as in any clone.
"""

from __future__ import annotations

import hashlib
import os
import re

from gitbridge.errors import GitError, RemoteError, RevisionError
from gitbridge.repository import LOCAL_VARIABLES, Repository
from thetastore.user_cache import cache_directory

_SCP_LIKE = re.compile(r"[A-Za-z0-9_.@-]+:[^/\\].*")


def is_url(text: str) -> bool:
    """Tell whether a text names a repository on another machine (`https://…`, `git@host:path`)."""
    return "://" in text or (_SCP_LIKE.fullmatch(text) is not None and not os.path.lexists(text))


def clone_of(
    url: str, revision: str | None, cache_dir: str | None = None, is_local: bool = False
) -> tuple[Repository, str]:
    """Return a cached clone of a repository, and the commit that a revision is there now.

    Args:
        url: as `git fetch` takes it.
        revision: branch, tag or full commit oid; None for what the host's HEAD is.
        cache_dir: where clones are kept; None for the user's cache.
        is_local: take what the revision was when it was asked for last; the other machine is not asked.

    Raises:
        RemoteError: it cannot be reached; or it may not be, and the revision was never asked for.
        RevisionError: it has no such revision.
    """
    if url.startswith("-"):
        raise RemoteError(f"'{url}' is not the URL of a repository")
    if revision is not None and (not revision or revision.startswith(("-", "+", "^")) or ":" in revision):
        raise RevisionError(f"'{revision}' is not a branch, tag or commit")
    name = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = os.path.join(cache_dir or cache_directory(), "git", name)
    repository = _opened(path, url)
    wanted = revision or "HEAD"
    if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", wanted) and _has(repository, wanted):
        return repository, wanted
    asked = f"refs/theta/asked/{hashlib.sha256(wanted.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"
    if is_local:
        oid = repository.git("rev-parse", "--verify", "--quiet", asked, check=False).decode().strip()
        if not oid:
            raise RemoteError(f"there is no copy of '{wanted}' of '{url}' here, and nothing may be fetched")
        return repository, oid
    repository.git("config", "remote.origin.url", url)
    try:
        _fetch(repository, wanted)
    except GitError as error:
        if "couldn't find remote ref" in error.message or "not our ref" in error.message:
            raise RevisionError(f"'{url}' has no revision '{wanted}'", f"git ls-remote {url} lists them") from None
        raise RemoteError(f"'{url}' cannot be fetched from: {error.message}") from error
    oid = repository.git("rev-parse", "FETCH_HEAD^{commit}").decode().strip()
    repository.git("update-ref", asked, oid)
    return repository, oid


def _opened(path: str, url: str) -> Repository:
    import subprocess

    if not os.path.exists(os.path.join(path, "HEAD")):
        os.makedirs(path, exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if key not in LOCAL_VARIABLES}
        command = ["git", "init", "--bare", "--quiet", path]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        if done.returncode:
            raise RemoteError(f"no clone of '{url}' can be made in '{path}': {done.stderr.decode('utf-8', 'replace')}")
    return Repository.at(path)


def _has(repository: Repository, oid: str) -> bool:
    return repository.git("cat-file", "-t", oid, check=False).strip() == b"commit"


def _fetch(repository: Repository, wanted: str) -> None:
    command = ["fetch", "--quiet", "--no-tags", "--depth=1", "--", "origin", wanted]
    try:
        repository.git(*command)
    except GitError as error:
        if "shallow" not in error.message and "dumb http" not in error.message:
            raise
        repository.git(*(word for word in command if word != "--depth=1"))
