"""How a repository names itself in pins, which say that a store has all weights of a history (`thetastore.pins`)."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gitbridge.remotes import local_path
from gitbridge.repository import Repository

_HOSTS_OF_ONE_SPELLING = ("github.com", "gitlab.com", "bitbucket.org", "huggingface.co")
"""There a repository has one path for all protocols, with or without `.git`."""
_MOST_CHARACTERS = 2000


def git_urls(repository: Repository, remote: str) -> list[str]:
    """Return where pushes to a remote go, as git has it, rewritten and with whatever credentials it holds.

    A remote that has no URL stands for this repository itself.
    """
    found = repository.git("remote", "get-url", "--push", "--all", "--", remote, check=False)
    urls = os.fsdecode(found).splitlines()
    if urls:
        return urls
    return [remote] if "/" in remote or ":" in remote else [repository.common_dir]


def identity(repository: Repository, git_url: str) -> str:
    """Return the text that stands for a Git repository in pins: its URL, without credentials, always the same.

    Whatever is not certain to be the same repository gets another text: that only keeps pins apart which could have
    leant on each other. A directory is named together with the machine that it is on.
    """
    path = local_path(repository, git_url)
    if path is not None:
        import socket

        return _shortened(f"file://{socket.gethostname()}{os.path.realpath(path)}")
    scheme, separator, rest = git_url.partition("://")
    if not separator or "::" in scheme:
        return _without_helper(git_url)
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    host = host.lower()
    path, mark, query = path.partition("?")
    if host in _HOSTS_OF_ONE_SPELLING:
        return _shortened(f"https://{host}/{path.rstrip('/').removesuffix('.git').lower()}")
    user = user.partition(":")[0] + at if scheme in ("ssh", "git+ssh", "ssh+git") else ""
    tail = f"?{_digest(query)}" if mark else ""
    return _shortened(f"{scheme.lower()}://{user}{host}{slash}{path.rstrip('/')}{tail}")


def _without_helper(git_url: str) -> str:
    """Name what is reached over ssh as `user@host:path`, or by a program of the user's, whose words may be secrets."""
    helper, separator, address = git_url.partition("::")
    if separator:
        return _shortened(f"{helper}::{_digest(address)}")
    host, _, path = git_url.partition(":")
    if host.rpartition("@")[2].lower() in _HOSTS_OF_ONE_SPELLING:
        return _shortened(f"https://{host.rpartition('@')[2].lower()}/{path.strip('/').removesuffix('.git').lower()}")
    return _shortened(git_url.rstrip("/"))


def _digest(text: str) -> str:
    from thetastore.digest import digest_of

    return str(digest_of(os.fsencode(text)))[:16]


def _shortened(text: str) -> str:
    """Return printable ASCII of bounded length, different for different texts."""
    from urllib.parse import quote

    plain = quote(os.fsencode(text), safe="/:@?&=+$,;~!*'()[]%")
    return plain if len(plain) <= _MOST_CHARACTERS else f"{plain[:_MOST_CHARACTERS]}…{_digest(plain)}".replace("…", "~")


def is_shallow(repository: Repository) -> bool:
    """Tell whether this clone lacks a part of its history."""
    return os.path.exists(os.path.join(repository.common_dir, "shallow"))


def present_commits(repository: Repository, oids: Iterable[str]) -> list[str]:
    """Return those of the named objects that are commits of this repository."""
    asked = "".join(f"{oid}\n" for oid in oids).encode()
    if not asked:
        return []
    answer = repository.git("cat-file", "--batch-check=%(objectname) %(objecttype)", input=asked)
    pairs = (line.split() for line in answer.decode().splitlines())
    return [oid for oid, kind in pairs if kind == "commit"]
