"""What a collection reads of a store that was collected before, and that it finds the same as one that reads it all."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest
from collectable import Place

from thetastore.backends.remote import RemoteBackend
from thetastore.collecting.collect import Collected, Terms, collect
from thetastore.collecting.remembered import Remembered
from thetastore.collecting.roots import roots_of
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store
from thetastore.testing import MemoryRequests, Rounds

GRACE = Terms(3600.0, 3600.0)


def add_version(files: dict[str, bytes], number: int) -> None:
    """Push a file of chunks of its own to a bucket, with a name."""
    with Store.at(RemoteBackend(MemoryRequests(files), "test://bucket"), create=True) as store:
        content = random.Random(number).randbytes(200_000)
        digest = store.put_file(io.BytesIO(content)).manifest_digest
        store.seal()
        Refs(store.backend).append("models/m", lambda _: Draft((RefFile(f"f{number}", len(content), digest),)))


def gets_of(files: dict[str, bytes], remembered: Remembered | None, what: str) -> list[str]:
    """Collect, for show, and return what of some directory was read."""
    rounds = Rounds(MemoryRequests(files))
    with Store.at(rounds.backend()) as store:
        collect(store.objects, lambda: roots_of(store.backend), GRACE, is_dry=True, remembered=remembered)
    return [one.name for one in rounds.asked if one.verb == "get" and one.name.startswith(what)]


def test_a_bucket_that_was_collected_is_not_read_again_but_for_what_is_new(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(5):
        add_version(files, number)
    path = str(tmp_path / "there" / "is" / "none" / "remembered")
    first = gets_of(files, Remembered(path), "packs/")
    second = gets_of(files, Remembered(path), "packs/")
    before = {name for name in files if name.startswith("packs/")}
    add_version(files, 5)
    third = gets_of(files, Remembered(path), "packs/")

    assert len(set(first)) == 5
    assert second == []
    assert set(third) == {name for name in files if name.startswith("packs/")} - before
    assert gets_of(files, Remembered(path), "locators/") == []


def collected(place: Place, remembered: Remembered | None, is_dry: bool = False) -> Collected:
    with place.open() as store:
        return collect(store.objects, lambda: roots_of(place.backend, True), None, is_dry, remembered)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_changes_nothing_that_a_collection_finds(place: Place, tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    path = str(tmp_path / "remembered")
    names: list[str] = []
    for number in range(12):
        act = drawn.choice(["name", "no name", "again", "unname", "wait"])
        if act == "name":
            names.append(f"m{number}")
            place.put(number, names[-1], kbytes=32)
        elif act == "no name":
            place.put(number, kbytes=32)
        elif act == "again":
            place.put(drawn.randrange(number + 1), kbytes=32)
        elif act == "unname" and names:
            place.delete(names.pop())
        place.clock.wait(drawn.choice([0, 0.6, 1.1]))
        everything = collected(place, None, is_dry=True)
        assert collected(place, Remembered(path), is_dry=True) == everything
        collected(place, Remembered(path))


def test_a_pack_that_is_shorter_than_it_was_is_read_again(place: Place, tmp_path: Path) -> None:
    place.put(1, "kept")
    dead = place.put(2)
    path = str(tmp_path / "remembered")
    collected(place, Remembered(path), is_dry=True)
    place.clock.wait(2)
    assert collected(place, Remembered(path), is_dry=True).condemned.pack_count == 1
    with place.open() as store:
        found = store.objects.catalog.snapshot().first(dead)
    assert found is not None
    raw = place.backend.read(found.file_name)
    place.backend.delete(found.file_name)
    place.backend.create(found.file_name, raw[:-1])
    place.clock.wait(2)

    # Where its table is damaged, nobody knows what else it had: it is nothing to let go of.
    assert collected(place, Remembered(path), is_dry=True).condemned.pack_count == 0


def saved(place: Place, path: Path) -> bytes:
    collected(place, Remembered(str(path)), is_dry=True)
    return path.read_bytes()


def is_remembered(place: Place, path: Path) -> bool:
    """Tell whether anything is taken from a file."""
    with place.open() as store:
        remembered = Remembered(str(path))
        root = next(iter(roots_of(place.backend)))
        return remembered.listed(root.manifest_digest) is not None and store is not None


def test_a_file_with_any_byte_changed_or_missing_is_none(place: Place, tmp_path: Path) -> None:
    place.put(1, "kept", kbytes=1)
    path = tmp_path / "remembered"
    whole = saved(place, path)
    assert is_remembered(place, path)

    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        assert not is_remembered(place, path), at
        path.write_bytes(whole[:at])
        assert not is_remembered(place, path), at
    path.write_bytes(whole + b"\0")
    assert not is_remembered(place, path)


def test_a_file_that_others_may_write_to_or_that_is_elsewhere_is_none(place: Place, tmp_path: Path) -> None:
    place.put(1, "kept")
    path = tmp_path / "remembered"
    saved(place, path)
    assert path.stat().st_mode & 0o777 == 0o600

    path.chmod(0o620)
    assert not is_remembered(place, path)
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not is_remembered(place, path)
    path.unlink()
    os.mkfifo(path)
    assert not is_remembered(place, path)


def test_a_collection_that_cannot_keep_what_it_read_says_what_it_found(place: Place, tmp_path: Path) -> None:
    place.put(1, "kept")
    (tmp_path / "file").write_bytes(b"")

    found = collected(place, Remembered(str(tmp_path / "file" / "remembered")), is_dry=True)

    assert found == collected(place, None, is_dry=True)


def test_what_is_gone_from_the_store_is_forgotten(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "remembered"
    place.put(1, "kept")
    little = len(saved(place, path))
    place.put(2)
    assert len(saved(place, path)) > little
    for _ in range(4):
        place.clock.wait(2)
        collected(place, Remembered(str(path)))

    assert len(saved(place, path)) == little
