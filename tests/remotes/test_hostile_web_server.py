"""A committed file can name any web server: we follow none, read from none for ever, and believe no length."""

from __future__ import annotations

import http.server
import itertools
import threading
import tracemalloc

import pytest

from thetastore.backends.opening import open_remote
from thetastore.backends.urls import parse_url
from thetastore.errors import BackendError
from thetastore.store import Store

pytestmark = pytest.mark.xdist_group("http")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", self.server.claimed)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answer(self)


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.claimed = [], "100"
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def backend_of(server):
    backend = open_remote(parse_url(f"http://127.0.0.1:{server.server_port}/store"))
    backend._pause = lambda seconds: None
    return backend


def endless(handler: Handler, status: int = 206) -> None:
    handler.send_response(status)
    handler.send_header("Connection", "close")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        handler.close_connection = True


@pytest.mark.parametrize("status", [200, 206])
def test_a_body_without_end_is_read_no_further_than_was_asked(server, status):
    server.answer = lambda handler: endless(handler, status)
    backend = backend_of(server)
    tracemalloc.start()

    with pytest.raises(BackendError, match="more, or something else, than the part of a file that was asked for"):
        backend.read("thetastore.json", 0, 1000)

    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 << 20
    with pytest.raises(BackendError, match="more, or something else, than the part of a file that was asked for"):
        list(backend.list("packs"))


def test_nobody_is_followed_to_another_address(server):
    def answer(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"http://127.0.0.1:{server.server_port}/metadata/secrets")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answer = answer

    with pytest.raises(BackendError, match="sends us elsewhere"):
        Store.open(f"http://127.0.0.1:{server.server_port}/store")

    assert server.asked == ["/store/thetastore.json"]


def test_directories_without_end_are_left_where_no_store_has_any(server):
    numbers = itertools.count()

    def answer(handler: Handler) -> None:
        page = f'<a href="../up">x</a><a href="//elsewhere.example/y">y</a><a href="d{next(numbers)}/">z</a>'.encode()
        page += b'<a href="file%2e%2e">odd</a><a href="a%2fb">odd</a><a href="good">good</a>'
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(page)))
        handler.end_headers()
        handler.wfile.write(page)

    server.answer = answer

    names = list(backend_of(server).list("packs"))

    assert "packs/good" in names
    assert all(name.startswith("packs/") and ".." not in name.split("/") for name in names)
    assert len(server.asked) < 12


def test_a_refusal_is_told_in_few_words(server):
    server.answer = lambda handler: handler.send_error(403)

    with pytest.raises(BackendError, match=r"answers with status 403 \(Forbidden\)"):
        backend_of(server).read("thetastore.json", 0, 10)


def test_a_length_that_nobody_has_is_an_error(server):
    server.claimed = str(1 << 60)

    with pytest.raises(BackendError, match=f"said to have {1 << 60} bytes"):
        backend_of(server).view("index/a.run")
