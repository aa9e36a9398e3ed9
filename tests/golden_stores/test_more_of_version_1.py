"""What a bucket of version 1 holds besides: updates, locators, families, pins, hints and what a collector leaves."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import zipfile
from pathlib import Path

import pytest

from thetastore.backends.directory import DirectoryBackend
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.digest import Digest
from thetastore.merge_records import records_of
from thetastore.pins import leanable, list_pins, read_pin, repository_of
from thetastore.store import Store
from thetastore.testing import Rounds
from thetastore.upkeep.verify import Level, verify

HERE = Path(__file__).parent
_SPEC = importlib.util.spec_from_file_location("make_more_golden_stores", HERE / "make_more.py")
assert _SPEC is not None
assert _SPEC.loader is not None
MAKER = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(MAKER)
ARCHIVE = HERE / MAKER.NAME
EXPECTED: dict[str, list[str]] = json.loads(zipfile.ZipFile(ARCHIVE).read("expected.json"))


@pytest.fixture
def stored() -> dict[str, bytes]:
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = [name for name in archive.namelist() if name.startswith("store/")]
        return {name.removeprefix("store/"): archive.read(name) for name in names}


def manifest_of(name: str) -> Digest:
    return Digest.parse(EXPECTED[name][0])


def check(backend) -> None:
    with Store.at(backend) as store:
        for text, sha256 in EXPECTED.values():
            digest = Digest.parse(text)
            raw = b"".join(bytes(piece) for piece in store.read_file(store.get_manifest(digest), digest))
            assert hashlib.sha256(raw).hexdigest() == sha256


def test_it_is_small_and_its_files_are_those_that_the_script_makes():
    assert ARCHIVE.stat().st_size < 100_000
    assert {name: hashlib.sha256(raw).hexdigest() for name, raw in MAKER.files().items()} == {
        name: sha256 for name, (_, sha256) in EXPECTED.items()
    }


def test_all_of_it_is_read_from_a_bucket_and_from_a_directory(stored, tmp_path):
    for name, body in stored.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    check(MAKER.far(stored)[1])
    check(DirectoryBackend(str(tmp_path)))
    with Store.open(str(tmp_path)) as store:
        assert list(verify(store.objects, Level.RAW)) == []


def test_every_file_would_get_the_same_manifest_today(tmp_path):
    with Store.open(str(tmp_path), create=True) as store:
        for name, raw in MAKER.files().items():
            assert store.put_file(io.BytesIO(raw)).manifest_digest == manifest_of(name)


def test_it_holds_updates_with_what_they_share_and_differences_in_the_third_layout(stored):
    with Store.at(MAKER.far(stored)[1]) as store:
        updated = store.get_manifest(manifest_of("updated.safetensors")).chunks
        after = store.get_manifest(manifest_of("after.safetensors")).chunks
        of_updates = [store.objects.representations.stored(chunk.digest) for chunk in updated]
        bases = sorted(len(entry.bases) for entry, _ in of_updates if entry.codec == "update")
        parts = {stored[2] for entry, stored in of_updates if entry.codec == "update"}
        of_differences = [store.objects.representations.stored(chunk.digest) for chunk in after]
        layouts = {stored[1] for entry, stored in of_differences if entry.codec == "difference"}

    assert bases == [1, 2, 2]
    assert parts == {1, 4 + 8 + 16}
    assert layouts == {3}


def test_a_tensor_is_read_in_two_round_trips_by_its_locator(stored):
    rounds = Rounds(MAKER.far(stored)[0])
    with Store.at(rounds.backend(), expected=[manifest_of("array.npy")]) as store:
        rounds.restart()
        digest = manifest_of("array.npy")
        list(store.read_file(store.get_manifest(digest), digest))

    assert rounds.count <= 2


def test_a_relative_of_what_is_there_becomes_differences_from_it(stored):
    backend = MAKER.far(stored)[1]
    like = {name: base.copy() for name, (base, _) in MAKER.recipes().items()}
    like["small"][5] *= 2

    with Store.at(backend) as store:
        put = store.put_file(io.BytesIO(MAKER.safetensors(**like)))
        codecs = {store.objects.entry(chunk.digest).codec for chunk in put.manifest.chunks}

    assert "difference" in codecs


def test_pins_recipes_and_hints_say_what_was_written(stored):
    backend = MAKER.far(stored)[1]
    listing = list_pins(backend)
    pins = {name.commit: read_pin(backend, name) for name in listing.names}

    assert not listing.unknown
    assert leanable(backend, repository_of(MAKER.URL)) == set(MAKER.COMMITS[:2])
    assert [name.commit for name in listing.names if name.is_going and name.is_partial] == [MAKER.COMMITS[2]]
    assert pins[MAKER.COMMITS[0]].manifests == (manifest_of("base.safetensors"),)
    assert pins[MAKER.COMMITS[0]].refs == ("refs/heads/main",)
    assert pins[MAKER.COMMITS[1]].leans_on == (MAKER.COMMITS[0],)
    assert len(pins[MAKER.COMMITS[1]].manifests) == len(EXPECTED) - 1
    assert records_of(backend, manifest_of("updated.safetensors")) == [MAKER.RECORD]


def test_a_collector_goes_on_where_the_one_of_then_stopped_and_keeps_what_is_pinned(stored):
    requests, backend = MAKER.far(stored)
    now_s = [1.8e9 + 90 * 86400.0]
    requests.clock = lambda: now_s[0]
    for _ in range(3):
        with Store.at(backend) as store:
            collect(store.objects, lambda: roots_of(backend), Terms(0.0, 0.0))
        now_s[0] += 30 * 86400.0

    assert not [name for name in stored if name.startswith(("sessions/", "retired/"))]
    check(backend)


def test_what_the_script_makes_today_is_read_too(tmp_path):
    made = MAKER.make(tmp_path)

    with zipfile.ZipFile(made) as archive:
        names = [name for name in archive.namelist() if name.startswith("store/")]
        check(MAKER.far({name.removeprefix("store/"): archive.read(name) for name in names})[1])
    with pytest.raises(FileExistsError):
        MAKER.make(tmp_path)
