"""A disk that does not give one file, or whose system does not let it be read: it is named, and nothing is lost."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from permissions import WITHOUT_PRIVILEGE

from thetastore.backends.directory import DirectoryBackend
from thetastore.backends.memory import MemoryBackend
from thetastore.checking.check import Check
from thetastore.checking.repair import StoreSource, repair
from thetastore.collecting.collect import Terms, collect
from thetastore.collecting.roots import roots_of
from thetastore.digest import Digest
from thetastore.errors import FileUnreadableError
from thetastore.ref_entries import RefFile
from thetastore.refs import Draft, Refs
from thetastore.store import Store
from thetastore.testing import FaultyBackend
from thetastore.upkeep.repack import repack
from thetastore.upkeep.verify import Level, Problem

FILES = [bytes([number]) * 3 + os.urandom(200_000) for number in range(3)]
NUMBERS = pytest.mark.parametrize("number", [errno.EIO, errno.EACCES], ids=["EIO", "EACCES"])


def fill(path: Path) -> list[Digest]:
    """Make a store with a pack for each file; return their manifests."""
    digests = []
    for content in FILES:
        with Store.open(str(path), create=True) as store:
            digest = store.put_file(io.BytesIO(content)).manifest_digest
            store.seal()
            file = RefFile("f", len(content), digest)
            Refs(store.backend).append("models/m", lambda _, file=file: Draft((file,)))
            digests.append(digest)
    return digests


@pytest.fixture
def digests(tmp_path: Path) -> list[Digest]:
    return fill(tmp_path / "store")


@pytest.fixture
def place(tmp_path: Path, digests: list[Digest]) -> DirectoryBackend:
    return DirectoryBackend(str(tmp_path / "store"))


def pack_of(place: DirectoryBackend, digest: Digest) -> str:
    with Store.at(place) as store:
        found = store.objects.catalog.snapshot().first(digest)
        assert found is not None
        return found.file_name


def spoiled(place: DirectoryBackend, number: int, *names: str) -> Store:
    return Store.at(FaultyBackend(place, number=number, unreadable=names))


def content(store: Store, digest: Digest) -> bytes:
    return b"".join(map(bytes, store.read_file(store.get_manifest(digest), digest)))


def check_all_is_there(place: DirectoryBackend, digests: list[Digest]) -> None:
    with Store.at(place) as store:
        assert [content(store, digest) for digest in digests] == FILES
        assert list(Check(store, Level.RAW).findings()) == []


@NUMBERS
def test_what_lies_elsewhere_is_read_and_what_does_not_is_refused_by_the_name_of_the_file(place, digests, number):
    name = pack_of(place, digests[0])

    with spoiled(place, number, name) as store:
        assert content(store, digests[1]) == FILES[1]
        with pytest.raises(FileUnreadableError) as raised:
            content(store, digests[0])

    assert (raised.value.errno, raised.value.filename) == (number, name)


@NUMBERS
def test_another_pack_that_has_an_object_serves_it(place, digests, number):
    name, twin = pack_of(place, digests[0]), MemoryBackend()
    with Store.at(twin, create=True) as store:
        store.put_file(io.BytesIO(FILES[0]))
    (other,) = twin.list("packs")
    place.create(other, twin.read(other))

    for spoiled_one in (name, other):
        with spoiled(place, number, spoiled_one) as store:
            assert content(store, digests[0]) == FILES[0]


@NUMBERS
@pytest.mark.parametrize("level", [Level.TABLES, Level.RAW])
def test_a_check_names_the_file_and_looks_at_the_others(place, digests, number, level):
    name = pack_of(place, digests[0])

    with spoiled(place, number, name) as store:
        check = Check(store, level)
        (finding,) = check.findings()
        lost = check.lost_files(digests)

    assert (finding.file_name, finding.problem) == (name, Problem.PACK)
    assert os.strerror(number) in finding.reason
    assert check.done_count == len(FILES)
    assert [file.manifest_digest for file in lost] == [digests[0]]
    check_all_is_there(place, digests)


def collect_all(store: Store) -> None:
    collect(store.objects, lambda: roots_of(store.backend), Terms(0.0, 0.0))


def repack_all(store: Store) -> None:
    repack(store.objects, store.pool)


@NUMBERS
@pytest.mark.parametrize("tidy", [collect_all, repack_all], ids=["collect", "repack"])
def test_nothing_is_collected_or_repacked_while_a_pack_cannot_be_read(place, digests, number, tidy):
    name, before = pack_of(place, digests[1]), sorted(place.list("packs"))

    with spoiled(place, number, name) as store, pytest.raises(FileUnreadableError, match=os.strerror(number)):
        tidy(store)

    assert sorted(place.list("packs")) == before
    check_all_is_there(place, digests)


@NUMBERS
def test_what_cannot_be_read_there_is_not_fetched_and_all_else_stays_as_it_was(place, digests, number, tmp_path):
    here = Store.open(str(tmp_path / "here"), create=True)
    with spoiled(place, number, pack_of(place, digests[0])) as there:
        there.send_to(here, digests[1:])
        with pytest.raises(FileUnreadableError):
            there.send_to(here, digests[:1])

    assert [content(here, digest) for digest in digests[1:]] == FILES[1:]
    with Store.at(place) as there:
        there.send_to(here, digests)
    assert content(here, digests[0]) == FILES[0]
    here.close()


def test_a_failing_disk_has_its_pack_set_aside_unread_and_made_up_for(place, digests, tmp_path):
    fill(tmp_path / "twin")
    name = pack_of(place, digests[0])
    source = StoreSource("twin", lambda: Store.open(str(tmp_path / "twin")))

    with spoiled(place, errno.EIO, name) as store:
        repaired = repair(store, list(Check(store, Level.TABLES).findings()), [source], whole=digests)

    assert repaired.lost_count == 0
    assert [mended.file_name for mended in repaired.set_aside] == list(place.list("damaged"))
    check_all_is_there(place, digests)


def test_what_others_may_read_is_not_set_aside_by_who_may_not(place, digests):
    name = pack_of(place, digests[0])

    with spoiled(place, errno.EACCES, name) as store, pytest.raises(FileUnreadableError, match="Permission denied"):
        repair(store, list(Check(store, Level.TABLES).findings()), [], whole=digests)

    assert list(place.list("damaged")) == []
    check_all_is_there(place, digests)


@NUMBERS
def test_a_pack_in_the_making_that_cannot_be_read_keeps_nobody_from_adding(place, digests, number):
    other = Store.at(place)
    other.put_file(io.BytesIO(b"of somebody else" * 999))
    (name,) = place.list("incoming")

    with spoiled(place, number, name) as store:
        added = store.put_file(io.BytesIO(b"ours" * 999)).manifest_digest
        store.seal()
        assert content(store, added) == b"ours" * 999

    other.close()
    check_all_is_there(place, digests)


@NUMBERS
def test_an_index_run_that_cannot_be_read_is_named_and_done_without(place, digests, number):
    (name, *_) = sorted(place.list("index"))

    with spoiled(place, number, name) as store:
        assert [content(store, digest) for digest in digests] == FILES
        assert (name, Problem.INDEX) in [(one.file_name, one.problem) for one in Check(store, Level.TABLES).findings()]

    check_all_is_there(place, digests)


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["get", "{store}/w", "--to", "{out}"], 2),
        (["repack", "{store}"], 2),
        (["gc", "{store}"], 2),
        (["verify", "{store}"], 1),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_names_the_file_that_it_may_not_read(tmp_path: Path, command: list[str], status: int) -> None:
    place = str(tmp_path / "store")
    (tmp_path / "w.bin").write_bytes(FILES[0])
    run_command("init", place)
    run_command("put", f"{place}/w", str(tmp_path / "w.bin"))
    (pack,) = (tmp_path / "store" / "packs").iterdir()
    pack.chmod(0)

    done = run_command(
        *(part.format(store=place, out=tmp_path / "out") for part in command), before=WITHOUT_PRIVILEGE, check=False
    )

    assert done.returncode == status, done
    assert pack.name in done.stdout + done.stderr
    assert "Permission denied" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    pack.chmod(0o644)
    run_command("get", f"{place}/w", "--to", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == FILES[0]


def run_command(*args: str, before: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "thetastore.cli.main", *args]
    return subprocess.run(command, capture_output=True, text=True, check=check)
