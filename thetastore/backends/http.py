"""Requests to a store that a web server publishes, with pages that list its directories. Nothing is written."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from thetastore.backends.fsspec_requests import FsspecRequests
from thetastore.backends.requests import Listed
from thetastore.digest import Buffer
from thetastore.errors import BackendError


class HttpRequests(FsspecRequests):
    """See `Requests`."""

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        info = self.ask(0, "info", self.path(name))
        if not isinstance(info.get("size"), int):
            raise BackendError(errno.EPROTO, "the server does not say how long the file is", self.path(name))
        found: int = info["size"]
        return found

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`: the links on a directory's page that lead right below it."""
        directories = [prefix]
        while directories:
            directory = directories.pop()
            url = (self.path(directory) if directory else self.root) + "/"
            try:
                links = self.ask(0, "ls", url, detail=False)
            except FileNotFoundError:
                continue
            for link in links:
                if not link.startswith(url) or link == url:
                    continue
                part = link[len(url) :]
                name = f"{directory}/{part}" if directory else part
                if part.endswith("/") and part.count("/") == 1:
                    directories.append(name[:-1])
                elif "/" not in part:
                    yield Listed(name, None)

    def put_new(self, name: str, stored: Buffer) -> None:
        """Refuse: nothing is written."""
        raise BackendError(errno.EROFS, "a store behind http can only be read", self.place)

    def delete(self, name: str) -> None:
        """Refuse: nothing is deleted."""
        raise BackendError(errno.EROFS, "a store behind http can only be read", self.place)
