"""Every released version has a golden store, and today's code reads it, byte for byte."""

from __future__ import annotations

import pytest
from golden import HERE, MAKER, archive_of, check_files, check_names, unpack

from migrations.upgrading import known_steps, upgrade
from thetastore.descriptor import VERSION
from thetastore.store import Store, backend_at

MORE = "v001-more.zip"
"""What else version 1 can hold: `test_more_of_version_1.py`."""
KEPT = [*MAKER.DRAFTS, *MAKER.RELEASED]


def test_there_is_a_golden_store_of_every_released_version_and_no_other():
    assert sorted(HERE.glob("*.zip")) == sorted([*map(archive_of, KEPT), HERE / MORE])
    assert MAKER.RELEASED[-1] == VERSION, "a version is released together with its golden store"


@pytest.mark.parametrize("version", [*KEPT, "of today"])
def test_a_golden_store_is_read_byte_for_byte(version, tmp_path):
    archive = MAKER.make(tmp_path) if version == "of today" else archive_of(version)
    golden = unpack(archive, tmp_path)

    upgrade(backend_at(str(golden.store), None), known_steps())

    assert archive.stat().st_size < 100_000
    with Store.open(str(golden.store)) as store:
        check_files(store, golden.expected)
        codecs = {store.objects.entry(digest).codec for digest in _objects(store, golden.expected)}
    assert codecs == {"literal", "constant", "zstd", "planes", "difference", "copies"}
    check_names(str(golden.store))


def _objects(store, expected):
    from thetastore.digest import Digest

    for text in expected["files"]:
        yield from store.iter_objects(Digest.parse(text))


def test_a_golden_store_is_never_made_anew(tmp_path):
    MAKER.make(tmp_path)

    with pytest.raises(FileExistsError):
        MAKER.make(tmp_path)
