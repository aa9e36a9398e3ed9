"""Codecs and backends of other packages, found by entry point."""

from __future__ import annotations

import io
import sys

import pytest

from thetastore import codecs
from thetastore.digest import Kind, checksum_of, digest_of
from thetastore.errors import MalformedError, ObjectCorruptError, UnsupportedError
from thetastore.packs.records import Entry
from thetastore.store import Store

MODULE = """
from thetastore.backends.directory import DirectoryBackend
def backwards(params, stored, out, bases):
    if bytes(stored) == b"raise":
        raise ValueError("no")
    out[:] = bytes(stored)[::-1]
def lies(url):
    return {"url": url}
def fails(url):
    return 1 / 0
def open_backend(url):
    return DirectoryBackend(url.partition("://")[2])
"""
POINTS = """[thetastore.codecs]
backwards = example_codec_plugin:backwards
broken = example_codec_plugin:missing
[thetastore.backends]
example = example_codec_plugin:open_backend
fails = example_codec_plugin:fails
lies = example_codec_plugin:lies
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    info = folder / "example_codec_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "example_codec_plugin.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-codec-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(folder))
    codecs._plugin.cache_clear()
    yield
    codecs._plugin.cache_clear()
    sys.modules.pop("example_codec_plugin", None)


def test_an_object_coded_by_a_plugin_comes_back_and_is_proven_by_its_digest(plugin, tmp_path):
    with Store.open(str(tmp_path / "store"), create=True) as store:
        for raw, stored in ((b"abcdef", b"fedcba"), (b"wrong!", b"fedcba")):
            entry = Entry(Kind.CHUNK, digest_of(raw), "backwards", b"x", 6, 6, (), 0, checksum_of(stored))
            store.objects.add_representation(entry, stored)

        assert store.objects.get(Kind.CHUNK, digest_of(b"abcdef")) == b"abcdef"
        with pytest.raises(ObjectCorruptError):
            store.objects.get(Kind.CHUNK, digest_of(b"wrong!"))


def test_a_plugin_that_fails_is_named(plugin):
    out = memoryview(bytearray(5))

    with pytest.raises(MalformedError, match="plug-in for codec 'backwards' failed: ValueError: no"):
        codecs.decode("backwards", b"", b"raise", out)
    with pytest.raises(UnsupportedError, match="'broken' of thetastore.codecs cannot be loaded"):
        codecs.decode("broken", b"", b"", out)


def test_an_unknown_codec_lists_those_that_are_known(plugin):
    with pytest.raises(UnsupportedError, match=r"'nobody' is no codec .*literal.*planes.*backwards.*update"):
        codecs.decode("nobody", b"", b"", memoryview(bytearray(1)))


def test_a_store_opens_by_the_url_of_a_plugins_scheme_or_of_a_file(plugin, tmp_path):
    path = tmp_path / "store"
    with Store.open(f"example://{path}", create=True) as store:
        digest, _ = store.put_file(io.BytesIO(b"some bytes"))

    with Store.open(f"file://{path}") as store:
        assert store.get_manifest(digest).file_bytes == 10


def test_a_backend_that_fails_to_open_or_is_none_is_an_error_that_names_it(plugin):
    with pytest.raises(UnsupportedError, match="plug-in for 'fails://' failed: ZeroDivisionError"):
        Store.open("fails://place")
    with pytest.raises(UnsupportedError, match="'lies://' opens is no backend: it has no "):
        Store.open("lies://place", create=True)


def test_an_unknown_scheme_lists_those_that_are_known(plugin):
    with pytest.raises(UnsupportedError, match=r"'warp' is no URL scheme .*file, s3, .*example"):
        Store.open("warp://bucket/models")
