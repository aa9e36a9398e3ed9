"""URLs of stores: what they may hold, and when they mean the same place. Imports nothing, asks nobody.

A URL is written into commits and shown in messages, so it carries no secret: no password, no query (which is where
signatures stand), no fragment. How to get in is said elsewhere: see docs/remotes.md.
"""

from __future__ import annotations

from typing import NamedTuple

from thetastore.errors import MalformedError

SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
    "http": "http",
    "https": "http",
}
"""The kinds of places that are known to keep the promises of `Backend`, by scheme."""
_CANONICAL = {"s3a": "s3", "gcs": "gs", "az": "abfs", "ssh": "sftp"}
_MAX_URL_LENGTH = 2048
_AUTHORITY = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~@:[]")
"""Others write URLs into commits, and this part goes into host names, and into the commands of SSH's settings."""


class Url(NamedTuple):
    """A URL of a store that is not a directory of this machine."""

    scheme: str
    """In lower case, one for each kind of place."""
    authority: str
    """Bucket, container or host, with user and port."""
    path: str
    """Without slashes at its ends."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}" + (f"/{self.path}" if self.path else "")

    @property
    def kind(self) -> str | None:
        """The kind of place; None for schemes that are used at the user's risk."""
        return SCHEMES.get(self.scheme)

    def is_below(self, prefix: str) -> bool:
        """Tell whether a prefix, cut at a slash, covers this URL: `s3://`, `s3://bucket`, `s3://bucket/team`."""
        if prefix == f"{self.scheme}://":
            return True
        try:
            above = parse_url(prefix)
        except MalformedError:
            return False
        return (str(self) + "/").startswith(str(above) + "/")


def is_url(text: str) -> bool:
    """Tell whether a text is meant for a URL other than `file://`, as `parse_url` takes it."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme.lower() != "file" and _is_scheme(scheme)


def parse_url(text: str) -> Url:
    """Read a URL.

    Raises:
        MalformedError: it is none, or holds what a URL of a store must not; the message shows no secret.
    """
    scheme, mark, rest = text.partition("://")
    scheme = scheme.lower()
    shown = f"{scheme:.20}://{rest.rpartition('@')[2].partition('?')[0].partition('#')[0]:.200}"
    if not mark or not _is_scheme(scheme) or len(text) > _MAX_URL_LENGTH:
        raise MalformedError(f"'{shown}' is not a URL of a store, expected something like s3://bucket/prefix")
    if not text.isprintable() or "\\" in text or "::" in text:
        raise MalformedError(f"{shown!a} is not a URL of a store: it has characters that no such URL has")
    if "?" in rest or "#" in rest:
        raise MalformedError(
            f"'{shown}' has more behind it ('?' or '#'): a URL of a store carries no options or signatures"
        )
    authority, _, path = rest.partition("/")
    if ":" in authority.rpartition("@")[0]:
        raise MalformedError(f"'{shown}' was given with a password, and a URL of a store carries no secrets")
    if not _AUTHORITY.issuperset(authority):
        raise MalformedError(f"'{shown}' is not a URL of a store: {authority!a:.200} names no bucket and no host")
    path = path.strip("/")
    host = authority.rpartition("@")[2]
    if host.startswith(("-", ".")) or authority.startswith(("-", ".", "@")):
        host = ""
    if not host or any(part in ("", ".", "..") for part in _parts(path)):
        raise MalformedError(f"'{shown}' names no place, expected {scheme}://bucket-or-host/prefix")
    return Url(_CANONICAL.get(scheme, scheme), authority, path)


def _parts(path: str) -> list[str]:
    return path.split("/") if path else []


def _is_scheme(text: str) -> bool:
    return 1 < len(text) <= 32 and text[0].isalpha() and all(c.isascii() and (c.isalnum() or c in "+-.") for c in text)
