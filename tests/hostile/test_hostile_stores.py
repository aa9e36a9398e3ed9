"""Whole stores made by somebody who means harm, through the commands that people use on them."""

from __future__ import annotations

import os
import time

import pytest

from thetastore.cli.main import main
from thetastore.digest import Digest, Kind, digest_of
from thetastore.errors import MalformedError
from thetastore.manifest import PAGE_MAX_CHUNKS, Chunk, Manifest, PageRef, encode_manifest, encode_page
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store

PAGES = 5000
CHUNK_BYTES = 1 << 20


@pytest.fixture
def bomb(tmp_path) -> str:
    """Make a store of some kilobytes whose one model has 10 TB: one page of one chunk, named again and again."""
    path = str(tmp_path / "bomb")
    with Store.open(path, create=True) as store:
        objects = store.objects
        objects.put(Kind.CHUNK, bytes(CHUNK_BYTES))
        page = encode_page([Chunk(CHUNK_BYTES, digest_of(bytes(CHUNK_BYTES)))] * PAGE_MAX_CHUNKS)
        objects.put(Kind.PAGE, page)
        ref = PageRef(CHUNK_BYTES * PAGE_MAX_CHUNKS, PAGE_MAX_CHUNKS, digest_of(page, Kind.PAGE))
        file_bytes = ref.raw_bytes * PAGES
        raw = encode_manifest(Manifest("opaque", 1, file_bytes, Digest(bytes(32)), (), (), (ref,) * PAGES))
        objects.put(Kind.MANIFEST, raw)
        store.seal()
        files = (RefFile("model.bin", file_bytes, digest_of(raw, Kind.MANIFEST)),)
        Refs(store.backend).append("models/bomb", lambda _: Draft(files))
    return path


def stored_bytes(path: str) -> int:
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def test_a_model_longer_than_the_disk_is_refused_before_a_byte_of_it_is_written(bomb, tmp_path, capsys):
    out = tmp_path / "out"

    status = main(["get", f"{bomb}/bomb", "--to", str(out)])

    assert stored_bytes(bomb) < 600_000
    assert status == 2
    assert "there is no room: it takes 10.7 TB, and " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bomb"]


def test_it_is_checked_and_listed_in_the_time_of_what_is_stored(bomb, capsys):
    started = time.process_time()

    statuses = [main([command, f"{bomb}{of}"]) for command, of in (("verify", ""), ("ls", "/bomb"), ("log", "/bomb"))]

    assert statuses == [0, 0, 0]
    assert time.process_time() - started < 10
    assert "model.bin" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", "a//out", ".", "a/./out", "a\\0b", ""])
def test_a_version_cannot_name_a_file_outside_of_where_it_goes(bomb, path):
    with pytest.raises((MalformedError, ValueError)), Store.open(bomb) as store:
        Refs(store.backend).append("models/bomb", lambda _: Draft((RefFile(path, 1, Digest(bytes(32))),)))
