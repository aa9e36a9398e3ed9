"""A repair that meets a pack which is a link, a pipe, a directory: it names it, waits for nobody, and goes on."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from thetastore.checking.check import Check
from thetastore.checking.repair import StoreSource, repair
from thetastore.digest import Digest
from thetastore.store import Store
from thetastore.upkeep.verify import Level

WEIGHTS = [bytes([number]) * 3 + os.urandom(200_000) for number in range(3)]


def fill(path: Path) -> list[Digest]:
    """Make a store with a pack for each file."""
    digests = []
    for content in WEIGHTS:
        with Store.open(str(path), create=True) as store:
            digests.append(store.put_file(io.BytesIO(content)).manifest_digest)
    return digests


def link_away(path: Path) -> None:
    path.rename(path.parent.parent / f"{path.stem}.elsewhere")
    path.symlink_to(path.parent.parent / f"{path.stem}.elsewhere")


def link_to_zeros(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def is_whole(store: Store, digest: Digest, content: bytes) -> bool:
    return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest))) == content


@pytest.mark.parametrize("spoil", [link_away, link_to_zeros, link_to_itself, pipe, directory])
def test_a_pack_that_is_no_file_is_named_set_aside_and_made_up_for(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    digests = fill(tmp_path / "one")
    fill(tmp_path / "two")
    packs = sorted((tmp_path / "one" / "packs").glob("*.pack"))
    assert len(packs) == len(WEIGHTS)
    for path in packs[:2]:
        spoil(path)

    source = StoreSource("two", lambda: Store.open(str(tmp_path / "two")))

    with Store.open(str(tmp_path / "one")) as store:
        check = Check(store, Level.TABLES)
        told = [str(finding) for finding in check.findings()]
        repaired = repair(store, check.found, [source], whole=digests)
        assert all(any(path.name in text for text in told) for path in packs[:2])
        assert repaired.lost_count == 0
        assert all(map(is_whole, [store] * len(digests), digests, WEIGHTS))
    with Store.open(str(tmp_path / "one")) as store:
        left = [finding for finding in Check(store, Level.RAW).findings() if "damaged" not in finding.file_name]
    assert left == []
    if spoil is not directory:
        kept = {path.name for path in (tmp_path / "one" / "damaged").iterdir()}
        assert kept == {path.name for path in packs[:2]}
