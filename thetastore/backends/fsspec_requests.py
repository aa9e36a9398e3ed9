"""Requests to any file system that fsspec knows; what S3, GCS, Azure and SFTP do otherwise is in their modules.

Two things are asked of fsspec that it does not do by itself: no request lasts longer than its length allows (`Limits`),
and nothing is cached but by us. Its errors are sorted into those that may pass and those that do not; their texts may
hold URLs with signatures, so only what is known to be harmless is kept of them.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import posixpath
import re
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, NamedTuple

from thetastore.backends.requests import Listed, PassingError
from thetastore.digest import Buffer
from thetastore.errors import BackendError

_PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_PASSING_ERRNO = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,  # s3fs says so for 503
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EPIPE,
        errno.ETIMEDOUT,
    }
)
_SILENCE_NAMES = frozenset({"FSTimeoutError", "ReadTimeoutError"})
"""Of fsspec and of botocore: nothing came for as long as may be."""
_PASSING_NAMES = (
    "ClientConnectionError",
    "ClientError",
    "ClientPayloadError",
    "ConnectionError",
    "ConnectionLost",
    "HTTPClientError",
    "IncompleteReadError",
    "ProxyError",
    "RequestException",
    "ResponseStreamingError",
    "ServiceRequestError",
    "ServiceResponseError",
    "SFTPConnectionLost",
    "SFTPNoConnection",
    "TransportError",
)
"""Of aiohttp, botocore, requests, azure-core, google-auth, asyncssh: errors of the way, not of the place."""


_CONNECT_S = 15.0


class Limits(NamedTuple):
    """How long a request may take."""

    stall_s: float = 60.0
    """Of its own."""
    least_rate: float = 32 * 1024
    """Bytes a second; slower transfers are given up, and tried again."""

    def of(self, nbytes: int) -> float:
        """Return how many seconds a request for so many bytes may take."""
        return self.stall_s + nbytes / self.least_rate


class FsspecRequests:
    """See `Requests`."""

    part_bytes = 0

    def __init__(self, fs: Any, root: str, limits: Limits) -> None:
        """Use a file system.

        Args:
            fs: an `fsspec.AbstractFileSystem`.
            root: where the store lies in it, as the file system writes paths.
            limits: how long a request may take.
        """
        self.fs = fs
        self.root = root.rstrip("/") or "/"
        self.place = self.root
        """For messages."""
        self._limits = limits

    def get(self, name: str, start: int, stop: int) -> bytes:
        """See `Requests.get`."""
        try:
            stored: bytes = self.ask(stop - start, "cat_file", self.path(name), start=start, end=stop)
        except NotSatisfiableError:
            return b""
        return stored

    def size(self, name: str) -> int:
        """See `Requests.size`."""
        info = self.ask(0, "info", self.path(name))
        if info.get("type") == "directory" or not isinstance(info.get("size"), int):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        found: int = info["size"]
        return found

    def written_s(self, name: str) -> float:
        """See `Requests.written_s`."""
        info = self.ask(0, "info", self.path(name))
        found = next((info[key] for key in _WRITTEN_KEYS if info.get(key)), None)
        return seconds_of(found, self.place)

    def list(self, prefix: str) -> Iterator[Listed]:
        """See `Requests.list`."""
        try:
            found = self.ask(0, "find", self.path(prefix) if prefix else self.root, detail=True)
        except FileNotFoundError:
            return
        for path, info in found.items():
            name = self.name(path)
            if name is not None:
                yield Listed(name, info.get("size"))

    def put_new(self, name: str, stored: Buffer) -> None:
        """See `Requests.put_new`; whether it holds depends on the file system, and is found out by `probe`."""
        path = self.path(name)
        if not getattr(self.fs, "async_impl", False):
            self.ask(0, "makedirs", posixpath.dirname(path), exist_ok=True)
        self.ask(memoryview(stored).nbytes, "pipe_file", path, bytes(stored), mode="create")

    def delete(self, name: str) -> None:
        """See `Requests.delete`."""
        try:
            self.ask(0, "rm_file", self.path(name))
        except FileNotFoundError:
            pass

    def begin(self, name: str) -> str:
        """See `Requests.begin`: `part_bytes` is 0, so nobody asks."""
        raise NotImplementedError(name)

    def put_part(self, name: str, upload: str, number: int, offset: int, stored: Buffer) -> str:
        """See `Requests.put_part`."""
        raise NotImplementedError(name)

    def finish(self, name: str, upload: str, parts: Sequence[str]) -> None:
        """See `Requests.finish`."""
        raise NotImplementedError(name)

    def abandon(self, name: str, upload: str) -> None:
        """See `Requests.abandon`."""
        raise NotImplementedError(name)

    def path(self, name: str) -> str:
        """Return where a file of the store lies in the file system."""
        return posixpath.join(self.root, name)

    def name(self, path: str) -> str | None:
        """Return the name, in the store, of what the file system lists; None where it lies elsewhere."""
        below = self.root.strip("/") + "/"
        stripped = path.lstrip("/")
        return stripped[len(below) :] if below == "/" or stripped.startswith(below) else None

    def ask(self, nbytes: int, method: str, *args: Any, **options: Any) -> Any:
        """Call a method of the file system, in so much time as its length allows; see the module for errors."""
        if getattr(self.fs, "async_impl", False):
            return self.wait(nbytes, getattr(self.fs, f"_{method}"), *args, **options)
        try:
            return getattr(self.fs, method)(*args, **options)
        except Exception as error:
            raise self.sorted(error) from error

    def wait(self, nbytes: int, act: Any, *args: Any, **options: Any) -> Any:
        """Run a coroutine function in fsspec's loop; see `ask`."""
        from fsspec.asyn import sync

        try:
            return sync(self.fs.loop, act, *args, timeout=self._limits.of(nbytes), **options)
        except Exception as error:
            raise self.sorted(error) from error

    def sorted(self, error: Exception) -> Exception:
        """Return what an error of a file system is for us."""
        if isinstance(error, FileNotFoundError | FileExistsError | BackendError | NotSatisfiableError):
            return error
        status = status_of(error)
        place = self.place
        if status is not None:
            if status == 416:
                return NotSatisfiableError()
            if status == 404:
                return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
            if status == 412:
                return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place)
            words = harmless(error)
            if status in _PASSING_STATUS:
                return PassingError(errno.EIO, f"the server answers with status {status} {words}".rstrip(), place)
            number = errno.EACCES if status in (401, 403) else errno.EIO
            return BackendError(number, f"the server answers with status {status} {words}".rstrip(), place)
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, TimeoutError) or names.intersection(_SILENCE_NAMES):
            return PassingError(errno.ETIMEDOUT, "no answer in time", place)
        said: int | None = getattr(error, "errno", None)
        if names.intersection(_PASSING_NAMES) or said in _PASSING_ERRNO or isinstance(error, ConnectionError):
            words = harmless(error).rstrip(".") or type(error).__name__
            return PassingError(said or errno.EIO, f"the connection failed: {words}", place)
        unknown = unknown_option(error)
        if unknown:
            return BackendError(errno.EINVAL, unknown, place)
        return BackendError(said or errno.EIO, f"{type(error).__name__}: {harmless(error)}", place)


async def while_taken(act: Coroutine[Any, Any, Any], body: io.BytesIO | None, stall_s: float) -> Any:
    """Wait for a request; give it up once the place takes nothing more of its body for as long as an answer may take.

    What client libraries wait for is the answer, when all is sent.
    """
    if body is None:
        return await act
    size, request = len(body.getbuffer()), asyncio.ensure_future(act)
    try:
        while True:
            before = body.tell()
            await asyncio.wait({request}, timeout=stall_s)
            if request.done():
                return request.result()
            if body.tell() == before < size:
                raise TimeoutError
    finally:
        request.cancel()


def patience(stall_s: float) -> Any:
    """Return what aiohttp takes for a time: any, as long as something comes."""
    from aiohttp import ClientTimeout

    return ClientTimeout(sock_connect=_CONNECT_S, sock_read=stall_s)


_WRITTEN_KEYS = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
"""What file systems call the time of the last change, which of our files is that of their creation."""


def seconds_of(time: Any, place: str) -> float:
    """Return a time that some client library tells, in seconds since 1970.

    Raises:
        BackendError: it is no time.
    """
    from datetime import UTC, datetime

    try:
        if isinstance(time, str):
            time = datetime.fromisoformat(time)
        if isinstance(time, datetime):
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        return float(time)
    except (TypeError, ValueError):
        raise BackendError(errno.ENOTSUP, "it does not tell when a file was written", place) from None


class NotSatisfiableError(Exception):
    """The range begins behind the end of the file."""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error of some client library carries."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for name in ("status_code", "status", "code"):
        found: Any = getattr(error, name, None)
        if isinstance(found, str) and found.isdigit():
            found = int(found)
        if isinstance(found, int) and 400 <= found <= 599:
            return found
    return None


def unknown_option(error: BaseException) -> str | None:
    """Return what to say where a library does not know an option that it was given; None for other errors."""
    found = re.search(r"unexpected keyword argument '(\w{1,80})'", str(error)) if type(error) is TypeError else None
    return f"the option '{found[1]}' means nothing there" if found else None


def harmless(error: BaseException) -> str:
    """Return the first line of an error's words, without what could be a secret.

    Of a URL the server stays, without who is asking it. Long runs of letters and digits (keys, signatures, tokens) go.
    """
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore: the service's own code and words
        told = response.get("Error", {})
        text = f"({told.get('Code', '')}: {told.get('Message', '')})"
    elif isinstance(getattr(error, "request_info", None), tuple):  # aiohttp puts status and URL before its words
        text = f"({getattr(error, 'message', '')})"
    else:
        text = str(error).strip().partition("\n")[0]
    text = re.sub(r"\?[^\s'\"]*", "?…", text)
    text = re.sub(r"//[^\s/'\"@]*@", "//", text)
    text = re.sub(r"(://[^\s/'\"]+/)[^\s'\"]+", r"\1…", text)
    text = re.sub(r"[A-Za-z0-9+/=_-]{32,}", "…", text)
    return text[:300]
