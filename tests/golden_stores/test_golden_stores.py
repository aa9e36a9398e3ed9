"""Every released version has a golden store, and today's code reads it, byte for byte."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import zipfile
from pathlib import Path

import pytest

from migrations.upgrading import known_steps, upgrade
from thetastore.digest import Digest
from thetastore.store import Store, backend_at

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("make_golden_stores", HERE / "make.py")
assert _spec is not None
assert _spec.loader is not None
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


def check(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
        expected = json.loads(opened.read(golden.EXPECTED))
    upgrade(backend_at(str(tmp_path / "store"), None), known_steps())
    assert len(expected) == 5
    with Store.open(str(tmp_path / "store")) as store:
        for text, sha256 in expected.items():
            digest = Digest.parse(text)
            raw = b"".join(bytes(piece) for piece in store.read_file(store.get_manifest(digest), digest))
            assert hashlib.sha256(raw).hexdigest() == sha256


def test_there_is_a_golden_store_of_every_released_version_and_no_other():
    assert sorted(path.name for path in HERE.glob("*.zip")) == [f"v{version:03d}.zip" for version in golden.RELEASED]


@pytest.mark.parametrize("version", [*golden.RELEASED, "of today"])
def test_a_golden_store_is_read_byte_for_byte(version, tmp_path):
    archive = golden.make(tmp_path) if version == "of today" else HERE / f"v{version:03d}.zip"

    assert archive.stat().st_size < 100_000
    check(archive, tmp_path)


def test_a_golden_store_is_never_made_anew(tmp_path):
    golden.make(tmp_path)

    with pytest.raises(FileExistsError):
        golden.make(tmp_path)
