"""A real server of S3, and in front of it one that misbehaves at one request: what a client's library makes of it.

The faults of `injecting` are what our own seam reports. These are bytes on a socket: statuses, bodies that end too
soon, other ranges than were asked for, and silence.
"""

from __future__ import annotations

import enum
import http.client
import http.server
import itertools
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.reliability.injecting import done, judge
from benchmarks.reliability.tally import Tally
from benchmarks.reliability.worlds import FETCH, PUSH, Clock, Deed, World, forget, world_of
from thetastore.backends import Backend
from thetastore.backends.memory import MemoryBackend
from thetastore.backends.opening import open_remote
from thetastore.backends.remote import RemoteBackend
from thetastore.backends.urls import parse_url
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.store import Store

STALL_S = 2
"""So long the client waits; a server that stalls is silent for longer than a whole run may take."""
_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


class Misdeed(enum.Enum):
    """What the server does instead of an answer."""

    STATUS_500 = "500"
    STATUS_503 = "503"
    STATUS_429 = "429"
    STATUS_409 = "409"
    STATUS_412 = "412 after effect"
    LOST_ANSWER = "500 after effect"
    TRUNCATED = "body cut off"
    WRONG_RANGE = "another range"
    STALLED = "silence"
    CLOSED = "connection closed"
    DOWN = "503 from here on"


class Server(NamedTuple):
    """A server of S3 on this machine."""

    port: int
    url: str
    options: dict[str, object]

    def backend(self, url: str, port: int, stall_s: int = 60) -> RemoteBackend:
        """Open a place in it, by way of a port."""
        options = {
            **self.options,
            "endpoint_url": f"http://127.0.0.1:{port}",
            "stall_seconds": stall_s,
        }
        backend = open_remote(parse_url(url), options)
        backend._pause = lambda seconds: None
        return backend


class _Proxy(http.server.ThreadingHTTPServer):
    """Hands requests on, and misbehaves at one of them."""

    daemon_threads = True

    def __init__(self, upstream_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream_port = upstream_port
        self.misdeed: Misdeed | None = None
        self.at = -1
        self.asked: list[str] = []
        self.is_over = threading.Event()
        self._lock = threading.Lock()

    def next_misdeed(self, request: str) -> Misdeed | None:
        with self._lock:
            number = len(self.asked)
            self.asked.append(request)
        is_hit = number == self.at or (self.misdeed is Misdeed.DOWN and 0 <= self.at <= number)
        return self.misdeed if is_hit else None

    def begin(self, misdeed: Misdeed | None, at: int) -> None:
        """Count from 0 again."""
        self.misdeed, self.at = misdeed, at
        self.asked.clear()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        misdeed = self.server.next_misdeed(f"{self.command} {self.path.partition('?')[0].rpartition('/')[2]}")
        if misdeed is Misdeed.STALLED:
            self.server.is_over.wait()
        if misdeed in (Misdeed.STALLED, Misdeed.CLOSED):
            self.close_connection = True
            return
        if misdeed in (Misdeed.STATUS_500, Misdeed.STATUS_503, Misdeed.STATUS_429, Misdeed.STATUS_409, Misdeed.DOWN):
            self._answer(int(misdeed.value[:3]), {}, b"")
            return
        status, headers, answer = self._ask(body, shifts=misdeed is Misdeed.WRONG_RANGE)
        is_write = self.command in ("PUT", "POST")
        if misdeed is Misdeed.LOST_ANSWER or (misdeed is Misdeed.STATUS_412 and is_write):
            status, headers, answer = (500 if misdeed is Misdeed.LOST_ANSWER else 412), {}, b""
        self._answer(status, headers, answer, len(answer) // 2 if misdeed is Misdeed.TRUNCATED else None)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815  # http.server's names

    def _ask(self, body: bytes, shifts: bool) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        wanted = headers.get("Range", "")
        if shifts and wanted:
            start, _, last = wanted.removeprefix("bytes=").partition("-")
            length = int(last) - int(start) + 1
            first = max(0, int(start) - 7) if int(start) else 7
            headers["Range"] = f"bytes={first}-{first + length - 1}"
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream_port, timeout=30)
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            if self.command == "HEAD":
                kept["Content-Length"] = answer.getheader("Content-Length") or "0"
            return answer.status, kept, answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
        try:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if cut is None else body[:cut])
        except OSError:
            cut = 0
        if cut is not None:
            self.close_connection = True


@contextmanager
def _proxy(server: Server) -> Iterator[_Proxy]:
    with _Proxy(server.port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.is_over.set()
            proxy.shutdown()


def _garbage(world: World) -> None:
    world.commit("old", b"nobody wants this any more" * 99)
    forget(world.backend, "old")
    del world.committed["old"]


def _collect(world: World, backend: Backend) -> None:
    with Store.at(backend) as store:
        collect(store.objects, lambda: roots_of(backend), Terms(0.0, 0.0))


GC = Deed("gc", _garbage, _collect)
SERVED = {PUSH.name: PUSH, FETCH.name: FETCH, GC.name: GC}
EVERY = {PUSH.name: 5, FETCH.name: 5, GC.name: 29}
"""A real server takes half a second for a run, so only some of them are on the page."""


def misserved(server: Server, deed: Deed, misdeed: Misdeed, every: int = 1, first: int = 0) -> Tally:
    """Let each request of a deed meet a server that misbehaves."""
    tally = Tally(f"{deed.name}, over HTTP", misdeed.value)
    with _proxy(server) as proxy:
        world = _world(server, deed)
        deed.act(world, server.backend(world.backend.url, proxy.server_port))
        count = len(proxy.asked)
        for at in range(first % min(every, count), count, every):
            if deed is not FETCH:
                world = _world(server, deed)
            _misserve(tally, server, proxy, world, deed, misdeed, at)
    return tally


def _misserve(tally: Tally, server: Server, proxy: _Proxy, world: World, deed: Deed, misdeed: Misdeed, at: int) -> None:
    url = world.backend.url
    proxy.begin(misdeed, at)
    where = f"request {at}"
    with tally.watched(where):
        has_succeeded = done(tally, where, lambda: deed.act(world, server.backend(url, proxy.server_port, STALL_S)))
        where += f", {next(itertools.islice(proxy.asked, at, None), 'not asked')}"
        if misdeed is Misdeed.DOWN:
            _free_lock(server.backend(url, server.port))
        judge(tally, where, world, deed, has_succeeded, lambda: server.backend(url, server.port))


def _free_lock(backend: Backend) -> None:
    """Let go of the lock of a collector that could not say that it has ended: else that takes a day."""
    for name in list(backend.list("locks")):
        backend.delete(name)


def _world(server: Server, deed: Deed) -> World:
    """Make a store in a place of its own: made in memory, and carried over."""
    world = world_of(MemoryBackend(time.time), Clock())
    deed.prepare(world)
    far = server.backend(f"{server.url}/{uuid.uuid4().hex[:12]}", server.port)
    for name in world.backend.list(""):
        far.create(name, world.backend.read(name))
    world.backend = far
    return world


@contextmanager
def served() -> Iterator[Server]:
    """Start moto's server of S3, with a bucket in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "moto_server"
    process = subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _made_bucket(port):
            if process.poll() is not None:
                raise RuntimeError(f"'{program}' does not start")
            time.sleep(0.1)
        options = {"key": "key", "secret": "secret", "region": "us-east-1"}
        yield Server(port, "s3://models", options)
    finally:
        process.kill()
        process.wait()


def _made_bucket(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(
            "PUT", "/models", headers={"Authorization": "AWS4-HMAC-SHA256 Credential=key/0/us-east-1/s3/"}
        )
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
