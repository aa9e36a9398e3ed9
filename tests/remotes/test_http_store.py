"""A store behind a web server, which can only be read."""

from __future__ import annotations

import functools
import http.server
import io
import os
import re
import threading

import pytest

from thetastore.errors import BackendError, StoreMissingError
from thetastore.store import Store

pytestmark = pytest.mark.xdist_group("http")


class Handler(http.server.SimpleHTTPRequestHandler):
    """The one of the standard library, with ranges."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        if wanted is None or not os.path.isfile(path):
            super().do_GET()
            return
        with open(path, "rb") as file:
            body = file.read()[int(wanted[1]) : int(wanted[2]) + 1]
        self.send_response(206 if body else 416)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def served(tmp_path):
    (tmp_path / "store").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/store"
        server.shutdown()


def test_what_is_published_can_be_read_and_not_written(served, tmp_path):
    with Store.open(str(tmp_path / "store"), create=True) as store:
        digest = store.put_file(io.BytesIO(b"some weights" * 1000)).manifest_digest

    with Store.open(served) as store:
        assert b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == b"some weights" * 1000
    with Store.open(served) as late, pytest.raises(BackendError, match="can only be read"):
        late.put_file(io.BytesIO(b"others"))


def test_where_nothing_is_published_there_is_no_store(served):
    with pytest.raises(StoreMissingError):
        Store.open(f"{served}/elsewhere")
    with pytest.raises(BackendError, match="can only be read"):
        Store.open(f"{served}/elsewhere", create=True)


class PlainHandler(http.server.SimpleHTTPRequestHandler):
    """The one of the standard library, which sends whole files."""

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_knows_no_ranges_is_told_from_one_that_is_broken(tmp_path):
    with Store.open(str(tmp_path / "store"), create=True) as store:
        digest = store.put_file(io.BytesIO(os.urandom(300_000))).manifest_digest
    serve = functools.partial(PlainHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with (
                Store.open(f"http://127.0.0.1:{server.server_port}/store") as far,
                pytest.raises(BackendError, match=r"it has to know ranges \(nginx, Apache and Caddy do"),
            ):
                far.get_manifest(digest)
        finally:
            server.shutdown()
