"""Requests to a store that a web server publishes, with pages that list its directories. Nothing is written.

A committed file may name any web server, so none is trusted: no answer is read further than was asked for, pages and
their number are bounded, and nobody is followed to another address (it could be one that only this machine reaches).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from thetastore.backends.fsspec_requests import FsspecRequests, patience
from thetastore.backends.requests import DEEPEST_DIRECTORY, Listed, ListingLimit
from thetastore.digest import Buffer
from thetastore.errors import BackendError

_MOST_PAGE_BYTES = 16 << 20


class HttpRequests(FsspecRequests):
    """See `Requests`."""

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`."""
        return self._asked(self.path(name), start, stop)

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        found: int | None = self.wait(0, self._measured, self.path(name))
        if found is None:
            raise BackendError(errno.EPROTO, "the server does not say how long the file is", self.path(name))
        return found

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`: the links on a directory's page that lead right below it."""
        directories, limit = [prefix], ListingLimit(self.place)
        while directories:
            directory = directories.pop()
            for part in self._parts(directory):
                limit.count()
                name = f"{directory}/{part}" if directory else part
                if not part.endswith("/"):
                    yield Listed(name, None)
                elif name.count("/") <= DEEPEST_DIRECTORY:
                    directories.append(name[:-1])

    def _parts(self, directory: str) -> set[str]:
        """Return what a directory's page links to right below it; directories end with a slash."""
        import re
        from html import unescape
        from urllib.parse import unquote, urljoin

        url = (self.path(directory) if directory else self.root) + "/"
        try:
            page = self._asked(url, 0, _MOST_PAGE_BYTES, is_page=True).decode("utf-8", "replace")
        except FileNotFoundError:
            return set()
        links = re.findall(r"""<a\s[^<>]{0,999}?href\s{0,9}=\s{0,9}["']([^"'<>]{1,999})["']""", page, re.IGNORECASE)
        found = set()
        for link in links:
            try:
                target = urljoin(url, unescape(link))
            except ValueError:
                continue
            part = unquote(target[len(url) :]) if target.startswith(url) else ""
            if part and "/" not in part[:-1] and part != "/":
                found.add(part)
        return found

    def _asked(self, url: str, start: int, stop: int, is_page: bool = False) -> bytes:
        stored: bytes = self.wait(0 if is_page else stop - start, self._got, url, start, stop, is_page)
        return stored

    async def _got(self, url: str, start: int, stop: int, is_page: bool) -> bytes:
        ranges = {} if is_page else {"Range": f"bytes={start}-{stop - 1}"}
        async with await self._request("GET", url, ranges) as answer:
            if answer.status == 416:
                return b""
            self._check(answer, url)
            stored = bytearray()
            while len(stored) <= stop - start:
                piece = await answer.content.read(stop - start + 1 - len(stored))
                if not piece:
                    break
                stored += piece
            if len(stored) > stop - start or (start and answer.status != 206):
                words = (
                    "the server sends more, or something else, than the part of a file that was asked for: it has to "
                    "know ranges (nginx, Apache and Caddy do, python -m http.server does not)"
                )
                raise BackendError(errno.EPROTO, words, self.place)
            return bytes(stored)

    async def _measured(self, url: str) -> int | None:
        async with await self._request("HEAD", url, {}) as answer:
            self._check(answer, url)
            length: int | None = answer.content_length
            return length

    async def _request(self, method: str, url: str, headers: dict[str, str]) -> Any:
        session = await self.fs.set_session()
        given = {name: value for name, value in self.fs.kwargs.items() if name != "headers"}
        headers = {**self.fs.kwargs.get("headers", {}), "Accept-Encoding": "identity", **headers}
        asked = {"timeout": patience(self._limits.stall_s), **given, "headers": headers, "allow_redirects": False}
        return await session.request(method, self.fs.encode_url(url), **asked)

    def _check(self, answer: Any, url: str) -> None:
        if answer.status in (404, 410):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
        if 300 <= answer.status < 400:
            words = f"the server sends us elsewhere (status {answer.status}): give the URL where the store itself is"
            raise BackendError(errno.EPROTO, words, self.place)
        answer.raise_for_status()

    def written_s(self, name: str) -> float:
        """See `Requests.written_s`: whoever cannot write need not know."""
        raise BackendError(errno.ENOTSUP, "a web server is not asked when a file was written", self.path(name))

    def put_new(self, name: str, stored: Buffer) -> None:
        """Refuse: nothing is written."""
        raise BackendError(errno.EROFS, "a store behind http can only be read", self.place)

    def delete(self, name: str) -> None:
        """Refuse: nothing is deleted."""
        raise BackendError(errno.EROFS, "a store behind http can only be read", self.place)
